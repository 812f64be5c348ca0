"""`AutoModel.from_pretrained`: one door to every model, from a name, a file or a folder."""

import os
from typing import Literal

from perception_encoder.backends import ComputeOptions, open_backend, open_random_backend
from perception_encoder.checkpoints import Checkpoint, locate
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import UnknownModelError
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.preprocess.vocabulary import installed_vocabulary
from perception_encoder.registry import ModelConfig, find
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
        preprocess: PreprocessName | None = None,
        cache: str | os.PathLike[str] | None = None,
        revision: str | None = None,
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
            device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
            backend: the engine; "auto" takes the fastest one installed.
            precision: "fp32", "bf16", "fp16"; "auto" is bf16 where the hardware multiplies it.
            preprocess: "standard" shows the model what a viewer shows; "reference" does what the
                original code does, bit for bit. None takes what the model was saved with, else
                "standard".
            cache: a file that remembers vectors by content, made where it does not exist.
            revision: branch, tag or commit of the hub repository.
            local_files_only: never use the network.
            random_weights: a registered model's shape with made-up weights, for benchmarks.

        Raises:
            UnknownModelError: no such model.
            CheckpointError: damaged weights, or of another model.
            DownloadError: the weights could not be fetched.
            BackendUnavailableError: the engine, device or precision is not to be had here.
            CacheError: the cache cannot be used.
        """
        options = ComputeOptions(device=device, backend=backend, precision=precision)
        if random_weights:
            config = _registered(model_name_or_path)
            processor = ImageProcessor(
                config.image, config.vision.image_size, preprocess=preprocess or "standard"
            )
            vocabulary = installed_vocabulary()
            tokenizer = None
            if config.text is not None and vocabulary is not None:
                tokenizer = Tokenizer.from_file(vocabulary, config.text.context_length)
            return EmbeddingModel(
                config, open_random_backend(config, options), processor, tokenizer, cache=cache
            )
        checkpoint = locate(
            model_name_or_path, model=model, revision=revision, local_files_only=local_files_only
        )
        return _open(checkpoint, options, preprocess, cache)


def _open(
    checkpoint: Checkpoint,
    options: ComputeOptions,
    preprocess: PreprocessName | None,
    cache: str | os.PathLike[str] | None,
) -> EmbeddingModel:
    config = checkpoint.config
    processor = ImageProcessor(
        config.image,
        config.vision.image_size,
        preprocess=preprocess or checkpoint.preprocess or "standard",
    )
    tokenizer = None
    if config.text is not None and checkpoint.tokenizer is not None:
        tokenizer = Tokenizer.from_file(checkpoint.tokenizer, config.text.context_length)
    backend = open_backend(checkpoint, options)
    return EmbeddingModel(config, backend, processor, tokenizer, checkpoint=checkpoint, cache=cache)


def _registered(name: str | os.PathLike[str]) -> ModelConfig:
    try:
        return find(os.fspath(name)).config
    except UnknownModelError as err:
        raise UnknownModelError(f"random_weights needs a registered model: {err}") from err
