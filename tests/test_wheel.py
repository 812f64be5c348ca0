"""The wheels that people install: made of this tree, put alone into an empty environment."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from child_processes import build_environment
from cli.command import output

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with both wheels, and with this one's packages in the place of a download.

    The folder of these is a line of a .pth file, and .pth files in it are not read: so it brings
    neither of the two projects, which are installed from this tree by such files.
    """
    folder = tmp_path_factory.mktemp("wheels")
    for project in (REPOSITORY, REPOSITORY / "compat" / "inference_models"):
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=project)
    wheels = sorted(folder.glob("*.whl"))
    assert [wheel.name.split("-", 2)[2] for wheel in wheels] == ["py3-none-any.whl"] * 2
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    program = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", program, "install", "--quiet", "--no-index",
        "--no-deps", "--no-compile", *wheels)  # fmt: skip
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "of_this_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_alone_runs_the_demo(installed, tmp_path):
    environment = build_environment(tmp_path)
    done = subprocess.run(
        [installed / "bin" / "pe", "demo"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "red-heart" in output(done)
    assert (tmp_path / "demo" / "hits.png").stat().st_size > 10_000


def test_what_is_imported_comes_from_the_wheels_and_is_whole(installed, tmp_path):
    code = """
import importlib.metadata, importlib.resources, perception_encoder, inference_models
print(perception_encoder.__file__)
print(inference_models.__file__)
data = importlib.resources.files("perception_encoder")
print(*(data.joinpath(name).is_file() for name in ("py.typed", "server/web/main.js")))
print(importlib.metadata.version("perception-encoder") == perception_encoder.__version__)
model = inference_models.AutoModel.from_pretrained("pe-nano", device="cpu")
print(tuple(model.embed_text("a cat").shape))
"""
    ours, theirs, files, version, shape = run(
        installed / "bin" / "python", "-c", code, cwd=tmp_path
    ).splitlines()
    assert Path(ours).is_relative_to(installed)
    assert Path(theirs).is_relative_to(installed)
    assert (files, version, shape) == ("True True", "True", "(1, 192)")
