"""Documents that must not drift from the code."""

import inspect
import re
from pathlib import Path

import typer.main

import perception_encoder
from perception_encoder import errors
from perception_encoder.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "perception_encoder"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_architecture_names_every_package() -> None:
    text = read("ARCHITECTURE.md")
    parts = [p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"]
    modules = [p.name for p in PACKAGE.glob("*.py") if not p.name.startswith("_")]
    for part in [*parts, *(m for m in modules if m != "settings.py"), "settings"]:
        assert f"`{part}`" in text, part
    assert all(len(line) <= 120 for line in text.splitlines())
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|js|json))`", text):
        assert (PACKAGE / path).exists() or (ROOT / path).exists(), path


def test_changelog_speaks_of_this_version() -> None:
    assert f"## [{perception_encoder.__version__}]" in read("CHANGELOG.md")


def test_readme_is_short() -> None:
    assert len(read("README.md").split()) <= 900


def test_every_command_has_help() -> None:
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        assert command.help, command.name


def test_one_version_is_named_everywhere() -> None:
    version = perception_encoder.__version__
    assert f"\nversion: {version}\n" in read("CITATION.cff")
    assert f'\nversion = "{version}"\n' in read("compat/inference_models/pyproject.toml")
    assert f"version {version}." in read("docs/index.md")


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    tree = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    real = [
        name
        for name, thing in vars(errors).items()
        if inspect.isclass(thing)
        and issubclass(thing, errors.PerceptionEncoderError)
        and thing is not errors.PerceptionEncoderError
    ]
    assert sorted(tree) == sorted(real)


def test_every_module_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_every_make_target_that_is_named_exists() -> None:
    named = set()
    for path in (*ROOT.glob(".github/workflows/*"), ROOT / ".ci/run", ROOT / "README.md"):
        named |= set(re.findall(r"\bmake (?:PYTHON=\S+ )?([a-z]+)$", path.read_text(), re.M))
    named |= set(re.findall(r"^make ([a-z]+)", read("CONTRIBUTING.md"), re.M))
    assert {"check", "docs", "test", "dist"} <= named
    assert named <= set(re.findall(r"^([a-z]+):", read("Makefile"), re.M))
