"""`AutoModel` of the drop-in: what it accepts, refuses and tells."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from inference_models import AutoModel, BackendType, Quantization, errors
from inference_models.configuration import DEFAULT_DEVICE
from inference_models.developer_tools import (
    FileDownloadSpecs,
    ModelMetadata,
    ModelPackageMetadata,
    get_model_from_provider,
    register_model_provider,
)
from inference_models.entities import ResolvedModelMetadata
from inference_models.models.auto_loaders import presentation_utils
from local_http import serve_files
from safetensors.torch import load_file, save_file
from small_models import CORE, open_tiny

LIBRARY_PACKAGE = {
    "model_architecture": "perception-encoder",
    "task_type": "embedding",
    "backend_type": "torch",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return open_tiny().save_pretrained(tmp_path_factory.mktemp("models") / "mine")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_everything_the_original_takes_is_accepted(folder, device):
    model = AutoModel.from_pretrained(
        str(folder),
        "roboflow",
        "a key",
        "a package",
        ["onnx", BackendType.TRT],  # ignored for folders
        (1, 8),
        "fp16",
        ["CPUExecutionProvider"],
        device,
        verbose=True,
        allow_untrusted_packages=True,
        weights_provider_extra_headers={"a": "b"},
        disabled_backends={"torch"},
        countinference=False,
    )
    assert model.device == (DEFAULT_DEVICE if device is None else torch.device("cpu"))
    assert model.embed_text("cat", a_keyword_of_the_servers=1).shape == (1, CORE.embed_dim)


def test_a_model_opened_by_id_says_what_it_is():
    model = AutoModel.from_pretrained(
        "pe-nano",
        backend=["onnx", BackendType.TORCH],
        quantization=[Quantization.FP16, "int8"],
        device="cpu",
    )
    assert model.resolved_model == ResolvedModelMetadata("pe-nano", "meta-fp32", "torch", "fp32")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model_id_or_path": ""}, errors.InvalidParameterError, "must be a non-empty string"),
        ({"model_id_or_path": 7}, errors.InvalidParameterError, "must be a non-empty string"),
        ({"device": "gpu please"}, errors.InvalidParameterError, "Could not parse `device`"),
        ({"device": "cuda:99"}, errors.EnvironmentConfigurationError, "'cuda:99' is not available"),
        ({"backend": "tensorflow"}, errors.UnknownBackendTypeError, "'tensorflow' is unknown"),
        ({"backend": "onnx"}, errors.NoModelPackagesAvailableError, "only torch"),
        ({"quantization": "int3"}, errors.UnknownQuantizationError, "'int3' is unknown"),
        ({"weights_provider": "nobody"}, errors.ModelRetrievalError, "'nobody' provider"),
        (
            {"model_id_or_path": "perception-encoder/PE-Core-B16-225"},
            errors.ModelNotFoundError,
            "PE-Core-B16-224",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_said(arguments, error, words):
    with pytest.raises(error, match=words):
        AutoModel.from_pretrained(**{"model_id_or_path": "pe-nano", **arguments})


def test_paths_can_be_refused(folder):
    with pytest.raises(errors.DirectLocalStorageAccessError, match="paths were refused"):
        AutoModel.from_pretrained(folder, allow_direct_local_storage_loading=False)


def test_without_network_the_weights_cannot_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(errors.ModelRetrievalError, match="PE-Core-S16-384"):
        AutoModel.from_pretrained("perception-encoder/PE-Core-S16-384")


def test_weights_that_lack_a_tensor_are_refused(folder, tmp_path):
    """The original logs a line and computes with random numbers."""
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if "blocks.1" in name)
    del tensors[name]
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(errors.CorruptedModelPackageError, match=name):
        AutoModel.from_pretrained(broken)


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({"model_config.json": "{"}, errors.CorruptedModelPackageError, "Could not load or parse"),
        ({"model_config.json": "[]"}, errors.CorruptedModelPackageError, "to be a dictionary"),
        (
            {"model_config.json": {**LIBRARY_PACKAGE, "backend_type": "abacus"}},
            errors.CorruptedModelPackageError,
            r"declared `backend_type` \(abacus\)",
        ),
        (
            {"model_config.json": {**LIBRARY_PACKAGE, "model_architecture": "yolov8"}},
            errors.ModelImplementationNotFoundError,
            "holds a yolov8 model",
        ),
        (
            {"model_config.json": LIBRARY_PACKAGE},
            errors.CorruptedModelPackageError,
            "Could not find element config.json",
        ),
        (
            {"model_config.json": LIBRARY_PACKAGE, "config.json": {}},
            errors.CorruptedModelPackageError,
            "Could not find element model.pt",
        ),
        (
            {"model_config.json": LIBRARY_PACKAGE, "config.json": {}, "model.pt": ""},
            errors.CorruptedModelPackageError,
            "vision_encoder_config",
        ),
        (
            {"config.json": {"vision_encoder_config": "PE-Core-B16-224"}, "model.pt": "no weights"},
            errors.CorruptedModelPackageError,
            "model.pt",
        ),
        ({}, errors.CorruptedModelPackageError, "is not a model folder"),
    ],
)
def test_a_folder_that_is_no_package_is_refused_with_the_reason(tmp_path, files, error, words):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=words):
        AutoModel.from_pretrained(tmp_path)


def test_code_in_a_folder_is_not_run(folder, tmp_path):
    package = Path(shutil.copytree(folder, tmp_path / "package"))
    config = {"model_module": "model.py", "model_class": "Surprise"}
    (package / "model_config.json").write_text(json.dumps(config))
    (package / "model.py").write_text("raise SystemExit('run')")
    model = AutoModel.from_pretrained(package, allow_local_code_packages=False)
    assert model.embed_text("cat").shape == (1, CORE.embed_dim)


@pytest.fixture
def url(folder):
    with serve_files(folder) as url:
        yield url


@pytest.fixture
def provider(folder, url, monkeypatch, tmp_path):
    """Somebody who offers the folder's files over HTTP; returns what it can be told."""
    monkeypatch.setenv("INFERENCE_HOME", str(tmp_path / "home"))
    says = {"trusted_source": True, "md5": {}, "asked": []}

    def handler(model_id, api_key=None, **kwargs):
        says["asked"].append((model_id, api_key, kwargs["weights_provider_extra_headers"]))  # type: ignore[attr-defined]
        files = [
            FileDownloadSpecs(
                f"{url}/{path.name}",
                path.name,
                says["md5"].get(path.name, hashlib.md5(path.read_bytes()).hexdigest()),  # type: ignore[attr-defined]
            )
            for path in sorted(folder.iterdir())
        ]
        trusted = says["trusted_source"]
        packages = [
            ModelPackageMetadata("another", BackendType.ONNX, [], trusted_source=True),
            ModelPackageMetadata("ours", BackendType.TORCH, files, trusted_source=trusted),
        ]
        return ModelMetadata(model_id, "perception-encoder", packages, task_type="embedding")

    register_model_provider("somebody", handler)
    return says


def test_a_registered_provider_is_asked_once_for_files_that_are_kept(provider, folder, tmp_path):
    open_it = partial(
        AutoModel.from_pretrained,
        "theirs/1",
        weights_provider="somebody",
        api_key="k",
        weights_provider_extra_headers={"a": "b"},
        device="cpu",
    )
    model = open_it()
    assert provider["asked"] == [("theirs/1", "k", {"a": "b"})]
    assert model.resolved_model.model_package_id == "ours"  # type: ignore[attr-defined]
    (kept,) = (tmp_path / "home" / "models-cache").iterdir()
    assert {path.name for path in kept.iterdir()} == {path.name for path in folder.iterdir()}
    times = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    again = open_it(model_package_id="ours")
    assert torch.equal(again.embed_text("cat"), model.embed_text("cat"))
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == times
    with pytest.raises(errors.NoModelPackagesAvailableError, match="there is no package other"):
        open_it(model_package_id="other")


def test_a_providers_files_are_checked(provider, tmp_path):
    open_it = partial(AutoModel.from_pretrained, "theirs/1", weights_provider="somebody")
    provider["trusted_source"] = False
    with pytest.raises(errors.NoModelPackagesAvailableError, match="allow_untrusted_packages=True"):
        open_it()
    provider["md5"] = {"model.safetensors": "0" * 32}
    with pytest.raises(errors.FileHashSumMissmatch, match="nothing was kept"):
        open_it(allow_untrusted_packages=True)
    provider["md5"] = {"model.safetensors": None}
    with pytest.raises(errors.UntrustedFileError, match="download_files_without_hash=True"):
        open_it(allow_untrusted_packages=True)
    (kept,) = (tmp_path / "home" / "models-cache").iterdir()
    assert "model.safetensors" not in {path.name for path in kept.iterdir()}
    model = open_it(allow_untrusted_packages=True, download_files_without_hash=True)
    assert model.embed_text("cat").shape == (1, CORE.embed_dim)


def test_providers_have_names_of_their_own():
    for name in ("roboflow", " Roboflow ", "roboflow-offline-weights", "", None):
        with pytest.raises(ValueError, match="empty or reserved"):
            register_model_provider(name, print)
    with pytest.raises(TypeError, match="must be callable"):
        register_model_provider("mine", "no function")


@pytest.mark.parametrize("name", ["PE-Core-B16-224", "PE-Core-T16-384"])
def test_what_is_known_of_a_model(name):
    metadata = get_model_from_provider(f"perception_encoder/{name}", "roboflow")
    assert metadata.model_id == f"perception-encoder/{name}"
    assert metadata.model_architecture == "perception-encoder"
    (package,) = metadata.model_packages
    (file,) = package.package_artefacts
    assert file.download_url.startswith("https://")
    assert file.download_url.endswith(file.file_handle)


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.usefixtures("wide")
def test_describing_a_model_prints_its_packages(capsys):
    assert AutoModel.describe_model("perception_encoder/PE-Core-B16-224") is None
    printed = capsys.readouterr().out
    alias = "perception-encoder/PE-Core-B16-224 (alias: perception_encoder/PE-Core-B16-224)"
    for words in (alias, "meta-fp32", "embedding", "torch"):
        assert words in printed
    with pytest.raises(errors.ModelNotFoundError):
        AutoModel.describe_model("yolov8n-640")


@pytest.mark.usefixtures("wide")
def test_describing_a_package_asks_its_servers_for_sizes(provider, folder, capsys):
    AutoModel.describe_model_package("theirs/1", "ours", weights_provider="somebody")
    printed = capsys.readouterr().out
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    assert f"{num_bytes / 2**20:.1f} MiB" in printed
    assert provider["asked"] == [("theirs/1", None, None)]
    with pytest.raises(errors.NoModelPackagesAvailableError, match="there are: another"):
        AutoModel.describe_model_package("theirs/1", "x", weights_provider="somebody")


def test_a_size_that_nobody_tells_is_not_invented():
    file = FileDownloadSpecs("http://127.0.0.1:1/model.pt", "model.pt")
    package = ModelPackageMetadata("p", BackendType.TORCH, [file])
    cells = presentation_utils._package_cells(package, with_sizes=True)
    assert cells["size"] == "N/A"


@pytest.mark.usefixtures("wide")
def test_describing_the_environment_tells_the_versions(capsys):
    AutoModel.describe_compute_environment()
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert "perception-encoder version" in printed
