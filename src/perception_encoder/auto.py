"""`AutoModel.from_pretrained` opens every model: by name, file or folder."""

import os
from functools import lru_cache, partial
from typing import Any, Literal, get_args

from perception_encoder.backends import (
    Backend,
    ComputeOptions,
    open_backend,
    open_random_backend,
)
from perception_encoder.checkpoints import Checkpoint, is_cached, locate
from perception_encoder.checkpoints.hub import bundled_folder
from perception_encoder.checkpoints.locate import find_tokenizer
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.text_tower import open_tokenizer
from perception_encoder.errors import (
    BackendUnavailableError,
    UnknownModelError,
)
from perception_encoder.preprocess import DEFAULT_MAX_PIXELS, ImageProcessor
from perception_encoder.registry import MODELS, find
from perception_encoder.types import BackendName, Precision, PreprocessName


class AutoModel:
    """Opens models. Never instantiated; `from_pretrained` returns an `EmbeddingModel`."""

    @classmethod
    def from_pretrained(  # noqa: PLR0913  the one front door; all but the name have defaults
        cls,
        model_name_or_path: str | os.PathLike[str],
        *,
        model: str | None = None,
        device: str = "auto",
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        compile: bool = False,
        preprocess: PreprocessName | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        cache: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        adapter: str | os.PathLike[str] | None = None,
        ema: bool = True,
        local_files_only: bool = False,
        random_weights: bool = False,
    ) -> EmbeddingModel:
        """Open a model by name, file or folder.

        Args:
            model_name_or_path: a registered id ("perception-encoder/PE-Core-B16-224",
                "PE-Core-B16-224", "clip/ViT-B-32", "pe-nano"), a hub repository
                ("facebook/PE-Core-L14-336"), a checkpoint file, or a folder (ours, Roboflow's
                package, an open_clip snapshot). A path that exists wins over a name.
            model: the registered model a checkpoint file is of, where its name does not say.
            device: "auto" (one CUDA device where there is one), "cpu", "cuda", "cuda:1", "mps";
                "cuda:0,1" and "cuda:all" put the model on several, which share the batches.
            backend: the backend; "auto" takes the fastest one installed.
            precision: "fp32", "bf16", "fp16"; "auto" is bf16 where the hardware multiplies it.
            compile: run torch's towers through `torch.compile`, which takes a minute or more at
                opening; meant for long runs on a GPU. OpenVINO and ONNX run compiled graphs anyhow.
            preprocess: "standard" shows the model what a viewer shows; "reference" does what the
                original code does, bit for bit; "fast" is "standard" with less work for large
                images (docs/concepts/preprocessing.md). None takes what the model was saved
                with, else "standard".
            max_pixels: larger images are refused before they are decoded.
            cache: a file that caches embeddings by content; created if it does not exist.
            revision: branch, tag or commit of the hub repository.
            adapter: a LoRA adapter as PEFT saves it (folder, file or hub repository), to be merged
                into the model. The path of an adapter whose config names its base is a model's path
                itself.
            ema: take the averaged weights (EMA) of a training checkpoint that has plain ones, too.
            local_files_only: never use the network.
            random_weights: a registered model with random weights, for benchmarks.

        Raises:
            UnknownModelError: no such model.
            CheckpointError: damaged weights, or of another model.
            DownloadError: the weights could not be fetched.
            BackendUnavailableError: the backend, device or precision is not available here.
            CacheError: the cache cannot be used.
        """
        _require_known("backend", backend, get_args(BackendName))
        _require_known("precision", precision, get_args(Precision))
        options = ComputeOptions(
            device=str(device),  # people give a torch.device, too
            backend=backend,
            precision=precision,
            compile=compile,
        )
        if random_weights:
            opened = _open_random(model_name_or_path, options, preprocess, max_pixels, cache)
        else:
            checkpoint = locate(
                model_name_or_path,
                model=model,
                revision=revision,
                adapter=adapter,
                ema=ema,
                local_files_only=local_files_only,
            )
            opened = open_checkpoint(
                checkpoint, options, preprocess=preprocess, max_pixels=max_pixels, cache=cache
            )
        name = os.fspath(model_name_or_path)
        opened.reopen = partial(
            _reopen,
            _absolute(name),
            model=model,
            device=options.device,
            backend=backend,
            precision=precision,
            compile=compile,
            preprocess=preprocess,
            max_pixels=max_pixels,
            cache=None if cache is None else os.path.abspath(cache),
            revision=revision,
            adapter=_absolute(adapter) if adapter is not None else None,
            ema=ema,
            local_files_only=local_files_only,
            random_weights=random_weights,
        )
        return opened


def _absolute(name: str | os.PathLike[str]) -> str:
    """Return a path that other working folders understand; a name as it is."""
    name = os.fspath(name)
    return os.path.abspath(name) if os.path.exists(name) else name


@lru_cache(maxsize=4)
def _reopen(name: str, **options: Any) -> EmbeddingModel:
    """Open a model that was pickled; a process that unpickles it often opens it once."""
    return AutoModel.from_pretrained(name, **options)


def list_models(*, cached: bool = False) -> list[str]:
    """Return the ids of all registered models, as `AutoModel.from_pretrained` takes them.

    Args:
        cached: only models whose weights are on this machine.
    """
    return [entry.id for entry in MODELS if not cached or is_cached(entry) is not None]


def _require_known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in ("auto", *known):
        raise BackendUnavailableError(
            f"unknown {what} {name!r}; use 'auto' or one of {', '.join(known)}"
        )


def open_for_texts(
    checkpoint: Checkpoint,
    *,
    fingerprint: str,
    preprocess: PreprocessName | None = None,
    options: ComputeOptions | None = None,
) -> EmbeddingModel:
    """Open a model whose weights are known; a backend is opened for the first image.

    NumPy computes the texts, in float32: importing a backend would take longer than one query. A
    vision-only model reads them once a text tower is attached to it.

    Args:
        checkpoint: of a safetensors file.
        fingerprint: of its weights, from an earlier opening of the same, unchanged file.
        preprocess: as in `AutoModel.from_pretrained`.
        options: where and how images are computed.

    Raises:
        CheckpointError: the file is no safetensors file, or damaged.
    """
    from perception_encoder.backends.numpy_text import NumpyTextBackend, TextFirstBackend

    options = options or ComputeOptions()
    texts = NumpyTextBackend(checkpoint, fingerprint) if checkpoint.config.text else None
    backend = TextFirstBackend(texts, partial(open_backend, checkpoint, options), fingerprint)
    return open_checkpoint(checkpoint, options, preprocess=preprocess, backend=backend)


def open_around(
    backend: Backend, name: str, *, preprocess: PreprocessName | None = None
) -> EmbeddingModel:
    """Open a model around a backend that runs already, perhaps on another machine.

    Args:
        backend: the backend.
        name: the model, as in `AutoModel.from_pretrained`.
        preprocess: likewise.

    Raises:
        UnknownModelError, CheckpointError, DownloadError: as `AutoModel.from_pretrained`.
    """
    return open_checkpoint(locate(name), preprocess=preprocess, backend=backend)


def open_checkpoint(
    checkpoint: Checkpoint,
    options: ComputeOptions | None = None,
    *,
    preprocess: PreprocessName | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    cache: str | os.PathLike[str] | None = None,
    backend: Backend | None = None,
) -> EmbeddingModel:
    """Open a model that `locate` has found.

    Args:
        checkpoint: the model's files.
        options: where and how to compute.
        preprocess: as in `AutoModel.from_pretrained`.
        max_pixels: as in `AutoModel.from_pretrained`.
        cache: as in `AutoModel.from_pretrained`.
        backend: one that runs already; None opens one.

    Raises:
        CheckpointError, BackendUnavailableError, CacheError: as `AutoModel.from_pretrained`.
    """
    config = checkpoint.config
    processor = ImageProcessor(
        config.image,
        config.vision.image_size,
        preprocess=preprocess or checkpoint.preprocess or "standard",
        max_pixels=max_pixels,
    )
    tokenizer = open_tokenizer(config, checkpoint.tokenizer)
    opened = EmbeddingModel(
        config,
        backend or open_backend(checkpoint, options or ComputeOptions()),
        processor,
        tokenizer,
        checkpoint=checkpoint,
        cache=cache,
    )
    if backend is None:
        opened.reopen = partial(
            open_checkpoint,
            checkpoint,
            options,
            preprocess=preprocess,
            max_pixels=max_pixels,
            cache=None if cache is None else os.path.abspath(cache),
        )
    return opened


def _open_random(
    name: str | os.PathLike[str],
    options: ComputeOptions,
    preprocess: PreprocessName | None,
    max_pixels: int,
    cache: str | os.PathLike[str] | None,
) -> EmbeddingModel:
    try:
        entry = find(os.fspath(name))
    except UnknownModelError as err:
        raise UnknownModelError(f"random_weights needs a registered model: {err}") from err
    config = entry.config
    processor = ImageProcessor(
        config.image,
        config.vision.image_size,
        preprocess=preprocess or "standard",
        max_pixels=max_pixels,
    )
    vocabulary = find_tokenizer(config, bundled_folder(entry), local_files_only=True)
    backend = open_random_backend(config, options)
    tokenizer = open_tokenizer(config, vocabulary)
    return EmbeddingModel(config, backend, processor, tokenizer, cache=cache)
