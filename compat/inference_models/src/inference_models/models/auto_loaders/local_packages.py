"""What a local folder says of itself, checked before the backend reads it.

Code that lies in a folder is never run: what is needed of it is weights and numbers.
"""

import json
from pathlib import Path
from typing import Any

from inference_models.errors import CorruptedModelPackageError, ModelImplementationNotFoundError
from inference_models.models.auto_loaders.entities import BackendType
from inference_models.models.common.model_packages import get_model_package_contents

CONFIG_NAME = "model_config.json"
_KNOWN = ("perception-encoder", "clip")
_NUMBERS = "config.json"


def check_package(folder: Path) -> None:
    """Make sure that a folder's `model_config.json`, where it has one, is of a model we open.

    Raises:
        CorruptedModelPackageError: it is not JSON, not an object, names no known backend, or files
            are missing.
        ModelImplementationNotFoundError: it is of another model.
    """
    if not (folder / CONFIG_NAME).exists():
        return
    config = _read(folder / CONFIG_NAME)
    architecture, backend = config.get("model_architecture"), config.get("backend_type")
    if backend is not None and backend not in {kind.value for kind in BackendType}:
        raise CorruptedModelPackageError(
            f"{folder / CONFIG_NAME}: declared `backend_type` ({backend}) is not supported; one "
            f"of: {', '.join(kind.value for kind in BackendType)}"
        )
    if architecture is not None and architecture not in _KNOWN:
        raise ModelImplementationNotFoundError(
            f"{folder} holds a {architecture} model; this inference_models is perception-encoder's "
            f"and opens {' and '.join(_KNOWN)}. The original opens others"
        )
    if architecture == "perception-encoder" and backend is not None:
        files = get_model_package_contents(folder, [_NUMBERS, "model.pt"])
        if not isinstance(_read(Path(files[_NUMBERS])).get("vision_encoder_config"), str):
            raise CorruptedModelPackageError(
                f"{files[_NUMBERS]}: `vision_encoder_config` should name a model, such as "
                '"PE-Core-B16-224"'
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CorruptedModelPackageError(
            f"Could not load or parse the package's config file {path}. Details: {err}"
        ) from err
    if not isinstance(config, dict):
        raise CorruptedModelPackageError(
            f"{path}: config is supposed to be a dictionary, instead decoded object of type: "
            f"{type(config)}"
        )
    return config
