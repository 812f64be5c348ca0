"""Roboflow's own package beside ours, and with a folder that `pe export` wrote."""

import importlib
import inspect
import json

import numpy as np
import pytest
import torch
from cli.command import pe_ending
from compat.original_package import METHODS, MODULES, ORIGINAL, OURS, run_python
from inference_models import AutoModel, BackendType, Quantization, errors
from small_models import as_bgr, drawing

import perception_encoder

TEXTS = ["a cat", "Red Heart", "a dog left of a red car"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the bundled model's package and a few images."""
    root = tmp_path_factory.mktemp("package")
    done = pe_ending("export", "pe-nano", "nano", "--format", "roboflow-package", folder=root)
    assert done.stdout == "nano\n"
    images = {f"p{seed}": as_bgr(drawing(seed, 40 + seed, 60 - seed)) for seed in range(3)}
    np.savez(root / "images.npz", **images)
    return root


def test_the_original_answers_where_both_are_installed(original):
    assert original["file"] == str(ORIGINAL / "inference_models" / "__init__.py")


def test_in_front_of_the_original_ours_refuses(under_original, tmp_path):  # noqa: ARG001
    done = run_python("import inference_models", folder=tmp_path, path=[OURS, ORIGINAL])
    assert done.returncode == 1
    assert "ImportError: two packages answer to inference_models" in done.stderr


def test_errors_and_choices_are_those_of_the_original(original):
    ours = {
        name: error.__mro__[1].__name__
        for name, error in vars(errors).items()
        if inspect.isclass(error)
    }
    assert original["errors"] == ours
    assert original["choices"] == [[b.value for b in BackendType], [q.value for q in Quantization]]


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_the_original_is_accepted(name, original):
    theirs = original["parameters"][name]
    signature = inspect.signature(getattr(AutoModel, name))
    keywords = [n for n, kind in theirs if kind != inspect.Parameter.VAR_KEYWORD]
    signature.bind(**dict.fromkeys(keywords))
    ours = [p.name for p in signature.parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert ours == keywords[: len(ours)]


@pytest.mark.parametrize("module", MODULES)
def test_names_of_the_original_are_here_or_explained(module, original):
    ours = importlib.import_module(module)
    for name in original["names"][module]:
        if name not in ("LazyClass", "LazyFunction") and name[0] != "_":
            assert name in vars(ours) or name in ours._ABSENT, name


def test_the_originals_automodel_opens_the_folder_and_errors_are_its_own(under_original, folder):
    code = (
        "import numpy as np, torch\n"
        "from inference_models import AutoModel, TextImageEmbeddingModel, errors\n"
        "model = AutoModel.from_pretrained('nano', device='cpu')\n"
        "assert isinstance(model, TextImageEmbeddingModel)\n"
        "assert type(model).__module__ == 'perception_encoder.integrations.roboflow_model'\n"
        "assert (model.model.image_size, str(model.device)) == (48, 'cpu')\n"
        "images = list(np.load('images.npz').values())\n"
        "embeddings = model.embed_images(images)\n"
        f"texts = model.embed_text({TEXTS!r})\n"
        f"both = model.compare_embeddings(images, {TEXTS!r})\n"
        "assert isinstance(embeddings, torch.Tensor) and embeddings.dtype == torch.float32\n"
        "np.savez('vectors.npz', images=embeddings, texts=texts, both=both)\n"
        "try:\n"
        "    model.embed_images(['no-such-file.jpg'])\n"
        "except errors.ModelInputError as err:\n"
        "    print(err)\n"
        "try:\n"
        "    AutoModel.from_pretrained('nano', allow_local_code_packages=False)\n"
        "except errors.ForbiddenLocalCodePackageAccessError:\n"
        "    print('forbidden')\n"
    )
    printed = under_original(code, folder=folder)
    assert printed == "no-such-file.jpg: no such file; check the path\nforbidden\n"
    found = np.load(folder / "vectors.npz")
    model = perception_encoder.AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    images = list(np.load(folder / "images.npz").values())
    vectors, texts = model.embed_images(images), model.embed_text(TEXTS)
    assert np.abs(found["images"] - vectors).max() <= 2e-5
    assert np.abs(found["texts"] - texts).max() <= 2e-5
    assert np.abs(found["both"] - vectors @ texts.T).max() <= 2e-5


def test_where_this_backend_is_missing_the_folder_says_so(under_original, folder):
    code = (
        "import sys\n"
        "sys.modules['perception_encoder'] = None\n"
        "from inference_models import AutoModel\n"
        "AutoModel.from_pretrained('nano')\n"
    )
    told = under_original(code, folder=folder, expect=1)
    assert "CorruptedModelPackageError" in told
    assert "pip install 'perception-encoder[torch]'" in told


def test_the_folder_is_a_model_for_everyone_else_too(folder):
    ours = perception_encoder.AutoModel.from_pretrained(
        folder / "nano", device="cpu", precision="fp32"
    )
    drop_in = AutoModel.from_pretrained(folder / "nano", device="cpu")
    vectors = torch.from_numpy(ours.embed_text(TEXTS))
    assert torch.allclose(drop_in.embed_text(TEXTS), vectors, atol=2e-5)


def test_the_command_replaces_its_own_and_refuses_what_it_cannot_do(folder):
    export = ("export", "pe-nano", "--format", "roboflow-package")
    done = pe_ending(*export, "nano", "--json", folder=folder)
    assert json.loads(done.stdout) == {"folder": "nano", "format": "roboflow-package"}
    (folder / "other").mkdir()
    (folder / "other" / "letter.txt").write_text("dear")
    assert "holds something else" in pe_ending(*export, "other", folder=folder, returns=1).stderr
    asked = pe_ending(*export, "small", "--precision", "int8", folder=folder, returns=2)
    assert "leave --precision out" in asked.stderr
    assert not (folder / "small").exists()
