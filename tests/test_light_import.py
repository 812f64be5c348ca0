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
        [sys.executable, "-c", code + report], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import perception_encoder; perception_encoder.__version__",
        "from perception_encoder import AutoModel, EmbeddingModel",
        "import perception_encoder.preprocess, perception_encoder.registry, "
        "perception_encoder.checkpoints, perception_encoder.backends, perception_encoder.errors",
        "import inference_models",
    ],
)
def test_importing_loads_nothing_heavy(code):
    assert loaded_by(code) == set()


def test_an_unknown_name_is_an_attribute_error():
    import perception_encoder

    with pytest.raises(AttributeError, match="has no attribute 'Automodel'"):
        _ = perception_encoder.Automodel
    assert set(perception_encoder.__all__) == {"AutoModel", "EmbeddingModel", "__version__"}
