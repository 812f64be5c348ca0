"""Indexes on stdout: models, packages, this machine."""

from typing import Any

from inference_models.runtime_introspection.core import RuntimeXRayResult
from inference_models.weights_providers.entities import ModelMetadata, ModelPackageMetadata

_TIMEOUT_SECONDS = 10.0


def show_model(metadata: ModelMetadata, asked_for: str, provider: str, *, with_sizes: bool) -> None:
    """Print a model and its packages; sizes are asked of the servers that have the files."""
    from rich.console import Console
    from rich.table import Table

    packages = Table(title="Model packages", show_lines=True)
    for title in ("ID", "backend", "batch size", "quantization", "size", "trusted"):
        packages.add_column(title, justify="center")
    for package in metadata.model_packages:
        packages.add_row(*_package_cells(package, with_sizes=with_sizes).values())
    console = Console()
    _show(
        "Model overview",
        {
            "Model ID": _with_alias(metadata.model_id, asked_for),
            "Architecture": metadata.model_architecture,
            "Variant": metadata.model_variant,
            "Task": metadata.task_type,
            "Weights provider": provider,
            "Number of packages": len(metadata.model_packages),
        },
    )
    console.print(packages)


def show_package(
    metadata: ModelMetadata, package: ModelPackageMetadata, asked_for: str, *, with_sizes: bool
) -> None:
    """Print one package of a model."""
    cells = _package_cells(package, with_sizes=with_sizes)
    _show(
        "Model package overview",
        {
            "Model ID": _with_alias(metadata.model_id, asked_for),
            "Package ID": cells["id"],
            "Backend": cells["backend"],
            "Batch size": cells["batch size"],
            "Quantization": cells["quantization"],
            "Package files": len(package.package_artefacts),
            "Package size": cells["size"],
            "Trusted source": cells["trusted"],
        },
    )


def show_environment(found: RuntimeXRayResult) -> None:
    """Print what `x_ray_runtime_environment` found."""
    providers = found.available_onnx_execution_providers
    _show(
        "Compute environment details",
        {
            "Detected GPUs": ", ".join(found.gpu_devices),
            "Detected GPUs CUDA CC": ", ".join(map(str, found.gpu_devices_cc)),
            "CUDA version": found.cuda_version,
            "OS version": found.os_version,
            "torch version": found.torch_version,
            "OpenVINO version": found.openvino_version,
            "ONNX runtime version": found.onnxruntime_version,
            "Detected ONNX execution providers": ", ".join(sorted(providers or ())),
            "perception-encoder version": found.perception_encoder_version,
        },
    )


def _package_cells(package: ModelPackageMetadata, *, with_sizes: bool) -> dict[str, str]:
    return {
        "id": package.package_id,
        "backend": package.backend.value,
        "batch size": str(package.static_batch_size or "N"),
        "quantization": package.quantization.value if package.quantization else "N/A",
        "size": _size(package) if with_sizes else "N/A",
        "trusted": str(package.trusted_source),
    }


def _size(package: ModelPackageMetadata) -> str:
    """How much would be downloaded; "N/A" where a server does not say."""
    import httpx2

    num_bytes = 0
    for file in package.package_artefacts:
        try:
            reply = httpx2.head(file.download_url, follow_redirects=True, timeout=_TIMEOUT_SECONDS)
            reply.raise_for_status()
            num_bytes += int(reply.headers["content-length"])
        except (httpx2.HTTPError, KeyError):
            return "N/A"
    return f"{num_bytes / 2**20:.1f} MiB"


def _with_alias(model_id: str, asked_for: str) -> str:
    return model_id if model_id == asked_for else f"{model_id} (alias: {asked_for})"


def _show(title: str, rows: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    index = Table(title=title, show_header=False, box=None)
    index.add_column(no_wrap=True, style="bold green4")
    index.add_column(overflow="fold")
    for name, value in rows.items():
        index.add_row(f"{name}:", "N/A" if value in (None, "") else str(value))
    Console().print(index)
