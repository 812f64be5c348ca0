"""Names that others import, whose package answers, and what is said of names that are not here."""

import importlib
import subprocess
import sys

import pytest
from compat.original_package import OURS, run_python
from inference_models import errors

MODULES = {
    "inference_models": "AutoModel TextImageEmbeddingModel BackendType ColorFormat Quantization",
    "inference_models.configuration": "DEFAULT_DEVICE",
    "inference_models.entities": "ColorFormat",
    "inference_models.developer_tools": "get_model_package_contents register_model_provider "
    "get_model_from_provider ModelMetadata ModelPackageMetadata FileDownloadSpecs Quantization "
    "x_ray_runtime_environment RuntimeXRayResult download_files_to_directory ModelDependency",
    "inference_models.models.auto_loaders.core": "AutoModel",
    "inference_models.models.auto_loaders.entities": "BackendType",
    "inference_models.models.base.embeddings": "TextImageEmbeddingModel",
    "inference_models.models.common.model_packages": "get_model_package_contents",
    "inference_models.models.perception_encoder.perception_encoder_pytorch": "create_preprocessor "
    "PerceptionEncoderTorch",
    "inference_models.models.perception_encoder.vision_encoder.transforms": "get_image_transform",
    "inference_models.weights_providers.core": "get_model_from_provider register_model_provider",
    "inference_models.weights_providers.entities": "Quantization ModelMetadata",
}


@pytest.mark.parametrize("module", MODULES)
def test_names_lie_where_the_original_has_them(module):
    for name in MODULES[module].split():
        assert hasattr(importlib.import_module(module), name), name


def test_a_name_of_another_task_says_where_it_is():
    for code in (
        "from inference_models import Detections",
        "from inference_models.developer_tools import TRTPackageDetails",
    ):
        with pytest.raises(ImportError, match="pip install inference-models"):
            exec(code, {})
    with pytest.raises(ImportError, match="cannot import name 'Nonsense'"):
        exec("from inference_models import Nonsense", {})


def test_an_errors_text_leads_to_its_page():
    error = errors.ModelInputError("Bad image.", help_url="https://example.org/help")
    assert str(error) == "Bad image. - VISIT https://example.org/help FOR FURTHER SUPPORT"
    assert (error.help_url, str(errors.RetryError("Later."))) == (
        "https://example.org/help",
        "Later.",
    )


@pytest.mark.parametrize("value", ["cpu", "meta"])
def test_the_default_device_is_the_environments(value):
    code = "from inference_models.configuration import DEFAULT_DEVICE as d; print(repr(d))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"DEFAULT_DEVICE": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"device(type='{value}')\n"


def test_beside_the_originals_distribution_ours_refuses_and_says_how_to_choose(tmp_path):
    """As in a virtual environment with the original in the system around it."""
    installed = tmp_path / "inference_models-1.2.3.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: inference-models\nVersion: 1.2.3\n"
    )
    done = run_python("import inference_models", folder=tmp_path, path=[OURS, tmp_path])
    assert done.returncode == 1
    for words in (
        f"Roboflow's inference-models 1.2.3, at {tmp_path}",
        "pip uninstall perception-encoder-inference-models",
        "pip uninstall inference-models",
        "pe export MODEL DIR --format roboflow-package",
    ):
        assert words in done.stderr
