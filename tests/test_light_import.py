"""Importing the package must stay cheap: what is heavy loads when it is used."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "openvino", "onnxruntime", "pyarrow", "lance", "huggingface_hub", "fastapi", "faiss"
)  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The heavy packages that are loaded after this code, in a fresh interpreter."""
    report = f"\nimport sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import perception_encoder; perception_encoder.__version__",
        "from perception_encoder import AutoModel, EmbeddingModel, ImageIndex, list_models",
        "from perception_encoder import FewShotClassifier, ZeroShotClassifier, ImageError",
        "import perception_encoder.preprocess, perception_encoder.registry, "
        "perception_encoder.checkpoints, perception_encoder.backends, perception_encoder.errors",
        "import inference_models",
    ],
)
def test_importing_loads_nothing_heavy(code):
    assert loaded_by(code) == set()


def test_the_package_lists_its_public_names_and_no_others():
    import perception_encoder
    from perception_encoder import errors

    with pytest.raises(AttributeError, match="has no attribute 'Automodel'"):
        _ = perception_encoder.Automodel
    names = {
        "AutoModel", "EmbeddingModel", "FewShotClassifier", "ImageIndex", "ZeroShotClassifier",
        "__version__", "list_models",
    }  # fmt: skip
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PerceptionEncoderError)
    }
    assert set(dir(perception_encoder)) == set(perception_encoder.__all__) == names | own
    for name in perception_encoder.__all__:
        assert getattr(perception_encoder, name)
