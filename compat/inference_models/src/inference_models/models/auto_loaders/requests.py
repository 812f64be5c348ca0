"""What a caller of `AutoModel` asks for, checked before anything is fetched or opened."""

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from inference_models.errors import (
    BaseInferenceModelsError,
    InvalidParameterError,
    NoModelPackagesAvailableError,
    UnknownBackendTypeError,
    UnknownQuantizationError,
)
from inference_models.models.auto_loaders.entities import BackendType
from inference_models.weights_providers.entities import ModelPackageMetadata, Quantization

if TYPE_CHECKING:
    import torch

_Name = TypeVar("_Name", bound=Enum)


def checked_id(model_id: Any) -> str:
    """Return an id that may be asked for.

    Raises:
        InvalidParameterError: it is no string, or empty.
    """
    if not isinstance(model_id, str) or not model_id.strip() or "\0" in model_id:
        raise InvalidParameterError(
            f"Remote model identity must be a non-empty string, not {model_id!r}."
        )
    return model_id


def parsed_device(device: "torch.device | str | None") -> "torch.device | None":
    """Return the device; None stays, and means the default.

    Raises:
        InvalidParameterError: torch knows no device of that name.
    """
    if not isinstance(device, str):
        return device
    import torch

    try:
        return torch.device(device)
    except RuntimeError as err:
        raise InvalidParameterError(
            f"Could not parse `device` parameter value {device!r}: {err}. "
            "Valid values: 'cpu', 'cuda', 'cuda:0', 'mps'"
        ) from err


def check_backend(backend: Any) -> None:
    """Make sure that PyTorch packages, the only ones, are among what was asked for.

    Raises:
        UnknownBackendTypeError: there is no such backend.
        NoModelPackagesAvailableError: others were asked for.
    """
    wanted = _parsed(backend, BackendType, UnknownBackendTypeError)
    if wanted and BackendType.TORCH not in wanted:
        raise NoModelPackagesAvailableError(
            f"there is no {' or '.join(kind.value for kind in wanted)} package of this model, only "
            "torch; leave backend out, and the fastest backend for the device is taken"
        )


def check_quantization(quantization: Any) -> None:
    """Make sure that precisions are ones the original knows.

    Raises:
        UnknownQuantizationError: there is no such precision.
    """
    _parsed(quantization, Quantization, UnknownQuantizationError)


def chosen_package(
    packages: list[ModelPackageMetadata], package_id: str | None, *, allow_untrusted: bool
) -> ModelPackageMetadata:
    """Return the first package that PyTorch opens and the caller allows.

    Raises:
        NoModelPackagesAvailableError: there is none.
    """
    for package in packages:
        is_asked_for = package_id in (None, package.package_id)
        is_allowed = allow_untrusted or package.trusted_source
        if package.backend == BackendType.TORCH and is_asked_for and is_allowed:
            return package
    known = ", ".join(
        f"{package.package_id} ({package.backend.value}"
        f"{'' if package.trusted_source else ', untrusted: allow_untrusted_packages=True'})"
        for package in packages
    )
    wanted = f"package {package_id}" if package_id else "torch package that may be opened"
    raise NoModelPackagesAvailableError(f"there is no {wanted}; there are: {known or 'none'}")


def _parsed(given: Any, kind: type[_Name], error: type[BaseInferenceModelsError]) -> list[_Name]:
    if given is None:
        return []
    listed = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    names = []
    for name in listed:
        try:
            names.append(kind(name.lower() if isinstance(name, str) else name))
        except ValueError as err:
            known = ", ".join(member.value for member in kind)
            raise error(f"{name!r} is unknown; one of: {known}") from err
    return names
