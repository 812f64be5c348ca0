"""`EmbeddingModel`: image and text embeddings from preprocessing, a backend and a cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, Unpack, get_args, overload

import numpy as np
from numpy.typing import NDArray

from perception_encoder.backends import Backend
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.known_weights import identify_towers
from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.feeds import EmbeddedRows, ImageFeed, TextFeed
from perception_encoder.embedder.options import (
    Failures,
    FeatureOptions,
    ImageBatch,
    ImageOptions,
    OneImageOptions,
    OnError,
    Output,
    TextOptions,
    check_output,
    failures_for,
    finish_output,
)
from perception_encoder.embedder.patch_features import GridChoice, PatchFeatures, PatchFeed
from perception_encoder.embedder.relevance import (
    PoolingHead,
    Relevance,
    find_region,
    read_pooling_head,
)
from perception_encoder.embedder.text_tower import (
    TextTower,
    describe_missing_text,
    describe_missing_vocabulary,
    open_text_tower,
)
from perception_encoder.errors import (
    CheckpointError,
    TokenizerNotFoundError,
    UnsupportedOperationError,
)
from perception_encoder.forking import run_on_usable_thread
from perception_encoder.preprocess import ImageInput, ImageProcessor, split_batch
from perception_encoder.preprocess.crops import CropInput, crop_image
from perception_encoder.preprocess.images import ResizedImage
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig
from perception_encoder.types import (
    ColorFormat,
    Embeddings,
    ModelIdentity,
    Pixels,
    PreprocessName,
    SaveFormat,
)
from perception_encoder.vectors import cosine_similarity, normalize_rows

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

_QUIET_SECONDS: Final = 2.0  # shorter work shows no progress bar


class EmbeddingModel:
    """A loaded model, from `AutoModel.from_pretrained`. Threads can share it.

    Attributes:
        config: the model's config; `config.embed_dim` is E.
        backend: runs the model, on `backend.device` in `backend.precision`.
        processor: turns images into pixels.
        reopen: opens the same model in another process; None if that is not possible.
            A model with it can be pickled.
        attaches_text_tower: whether the first text attaches the twin's text tower to a vision-only
            model; else it is refused.
    """

    def __init__(
        self,
        config: ModelConfig,
        backend: Backend,
        processor: ImageProcessor,
        tokenizer: Tokenizer | None,
        *,
        checkpoint: Checkpoint | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self.config = config
        self.backend = backend
        self.processor = processor
        self.reopen: Callable[[], EmbeddingModel] | None = None
        self.attaches_text_tower = False
        self._tokenizer = tokenizer
        self._text_tower: TextTower | None = None
        self._identity: ModelIdentity | None = None
        self._pooling_head: PoolingHead | None = None
        self._cache: EmbeddingCache | None = None
        if cache is not None:
            made_by = f"{backend.fingerprint}/{backend.name}/{backend.precision}/{processor.name}"
            self._cache = EmbeddingCache(cache, f"{made_by}/{config.digest()}")

    @overload
    def embed_image(
        self,
        image: ImageInput,
        *,
        output: Literal["numpy"] = ...,
        **options: Unpack[OneImageOptions],
    ) -> Embeddings: ...
    @overload
    def embed_image(
        self, image: ImageInput, *, output: Literal["torch"], **options: Unpack[OneImageOptions]
    ) -> torch.Tensor: ...
    def embed_image(
        self,
        image: ImageInput,
        *,
        input_color_format: ColorFormat = "bgr",
        normalize: bool = True,
        truncate_dim: int | None = None,
        crop: CropInput | None = None,
        output: Output = "numpy",
    ) -> Embeddings | torch.Tensor:
        """Embed one image, or the part of it in `crop`; see `embed_images` for other arguments.

        A crop is (x, y, width, height) in pixels of the image as a viewer shows it, or text such as
        "percent:25,25,50,50".

        Returns:
            (1, E) float32.

        Raises:
            ImageError: the image cannot be used.
            TypeError: `image` is a list, or not an image of any kind.
        """
        if isinstance(image, list | tuple):
            raise TypeError("embed_image takes one image; use embed_images for a list")
        check_output(self._embed_dim(), truncate_dim, output)
        part = crop_image(image, crop)
        vectors = self._image_vectors([part], input_color_format, 1, show_progress=False)
        return finish_output(vectors, normalize=normalize, truncate_dim=truncate_dim, output=output)

    @overload
    def embed_images(
        self, images: ImageBatch, *, output: Literal["numpy"] = ..., **options: Unpack[ImageOptions]
    ) -> Embeddings: ...
    @overload
    def embed_images(
        self, images: ImageBatch, *, output: Literal["torch"], **options: Unpack[ImageOptions]
    ) -> torch.Tensor: ...
    @overload
    def embed_images(
        self,
        images: ImageBatch,
        *,
        errors: Literal["skip"],
        output: Literal["numpy"] = ...,
        **options: Unpack[ImageOptions],
    ) -> tuple[Embeddings, Failures]: ...
    @overload
    def embed_images(
        self,
        images: ImageBatch,
        *,
        errors: Literal["skip"],
        output: Literal["torch"],
        **options: Unpack[ImageOptions],
    ) -> tuple[torch.Tensor, Failures]: ...
    def embed_images(
        self,
        images: ImageBatch,
        *,
        errors: OnError = "raise",
        batch_size: int = 32,
        input_color_format: ColorFormat = "bgr",
        normalize: bool = True,
        truncate_dim: int | None = None,
        show_progress: bool | None = None,
        output: Output = "numpy",
    ) -> Embeddings | torch.Tensor | tuple[Embeddings | torch.Tensor, Failures]:
        """Embed images, in order.

        Args:
            images: a list with any mix of paths, encoded bytes, PIL images, (H, W, C) arrays and
                (C, H, W) tensors, of any sizes, and parts of them (`preprocess.crop_image`); or one
                (N, H, W, C) array or (N, C, H, W) tensor. They are not changed.
            errors: "raise" stops at the first image that cannot be used. "skip" embeds the others
                and also returns the error of each skipped image.
            batch_size: images computed at once.
            input_color_format: channel order of NumPy arrays; "bgr" is OpenCV's. Other kinds of
                images define their own.
            normalize: scale each embedding to unit length.
            truncate_dim: keep the first dimensions of each embedding only, then normalize.
            show_progress: draw a bar on stderr; None draws one on a terminal for long work.
            output: "numpy", or "torch" for a CPU tensor.

        Returns:
            (N, E) float32. With `errors="skip"` a pair: (N, E) float32 with NaN rows for skipped
            images, and a dict from their positions to their `ImageError`.

        Raises:
            ImageError: an image cannot be used; the message names its path or position.
            UnsupportedOperationError: the model has patch features only.
            ValueError: `errors` is neither "raise" nor "skip".
        """
        check_output(self._embed_dim(), truncate_dim, output)
        failures = failures_for(errors)
        vectors = self._image_vectors(
            split_batch(images), input_color_format, batch_size, show_progress, failures
        )
        result = finish_output(
            vectors, normalize=normalize, truncate_dim=truncate_dim, output=output
        )
        return result if failures is None else (result, dict(sorted(failures.items())))

    def embed_video(
        self,
        video: str | os.PathLike[str] | ImageBatch,
        *,
        num_frames: int = 8,
        batch_size: int = 32,
        input_color_format: ColorFormat = "bgr",
        truncate_dim: int | None = None,
    ) -> Embeddings:
        """Embed a clip as the normalized mean of its frames' normalized embeddings.

        Source: perception_models core/vision_encoder/pe.py `encode_video(normalize=True)`, which
        does not normalize the mean.

        Args:
            video: the path of a video file, which needs the extra `video`; the path and a time
                (`clip.mp4#t=1:23`) for the frame there; or frames, as `embed_images` takes them.
            num_frames: of a file; they are evenly spaced, the first and the last one included.
            batch_size: frames computed at once.
            input_color_format: channel order of frames that are NumPy arrays.
            truncate_dim: keep the first dimensions only, then normalize.

        Returns:
            (1, E) float32 of unit length.

        Raises:
            ValueError: there are no frames, `num_frames` is below 1, or `truncate_dim` is not
                between 1 and E.
            ImageError: the video or a frame cannot be used.
        """
        check_output(self._embed_dim(), truncate_dim, "numpy")
        if isinstance(video, str | os.PathLike):
            from perception_encoder.video.decoder import read_frames

            # Each frame is resized as it comes: eight frames of 8K are 800 MB.
            name = os.fsdecode(video)
            pixels = [
                self.processor(frame, input_color_format="rgb", item=name)
                for frame in read_frames(name, num_frames)
            ]
            batches = [
                self.embed_pixels(np.stack(pixels[start : start + batch_size]))
                for start in range(0, len(pixels), batch_size)
            ]
            vectors = np.concatenate(batches)
        else:
            vectors = self.embed_images(
                video, batch_size=batch_size, input_color_format=input_color_format
            )
        if not len(vectors):
            raise ValueError("a video needs at least one frame")
        mean = vectors.mean(axis=0, keepdims=True)
        return normalize_rows(mean[:, :truncate_dim])

    @overload
    def features(
        self,
        images: ImageBatch,
        *,
        image_size: None = ...,
        keep_aspect: Literal[False] = ...,
        **options: Unpack[FeatureOptions],
    ) -> NDArray[np.float32]: ...
    @overload
    def features(
        self,
        images: ImageBatch,
        *,
        image_size: int | tuple[int, int],
        keep_aspect: bool = ...,
        **options: Unpack[FeatureOptions],
    ) -> list[PatchFeatures]: ...
    @overload
    def features(
        self,
        images: ImageBatch,
        *,
        image_size: int | None = ...,
        keep_aspect: Literal[True],
        **options: Unpack[FeatureOptions],
    ) -> list[PatchFeatures]: ...
    def features(
        self,
        images: ImageBatch,
        *,
        image_size: int | tuple[int, int] | None = None,
        keep_aspect: bool = False,
        layer: int = -1,
        batch_size: int = 8,
        input_color_format: ColorFormat = "bgr",
        show_progress: bool | None = None,
    ) -> NDArray[np.float32] | list[PatchFeatures]:
        """Return the patch features of images: one vector for each patch, before pooling.

        With `image_size` or `keep_aspect` the model reads the whole image at another size than its
        own. Position embeddings are resized bilinearly, as in perception_models
        core/vision_encoder/pe.py, and rotary positions count the patches of the new grid.

        Args:
            images: as in `embed_images`.
            image_size: the side of the square that images are resized to, in pixels, or height and
                width; multiples of the model's patch size. None is the model's own size.
            keep_aspect: choose each image's grid by its aspect ratio, with no more patches than
                the square has.
            layer: the block whose output is returned; negative numbers count from the end.
            batch_size: images computed at once; fewer where images have many patches.
            input_color_format: channel order of numpy arrays.
            show_progress: as in `embed_images`.

        Returns:
            (N, h·w, D) float32, patches row by row, after the tower's final norm if it has one.
            With `image_size` or `keep_aspect` a list instead: the `PatchFeatures` of each image,
            with its own grid.

        Raises:
            ImageError: an image cannot be used.
            UnsupportedOperationError: the backend runs graphs of one size or layer only.
            ValueError: the layer does not exist; or `image_size` is no multiple of the patch size,
                or makes more than 16,384 patches of an image.
        """
        vision = self.config.vision
        if image_size is not None or keep_aspect:
            patches = PatchFeed(
                self.processor,
                partial(self.backend.features, layer=layer),
                GridChoice.parse(vision, image_size, keep_aspect=keep_aspect),
                vision.patch_size,
                concurrency=self.backend.concurrency,
                color_format=input_color_format,
            )
            found: list[PatchFeatures] = []
            several = split_batch(images)
            with _progress_bar(len(several), "images", show_progress) as bar:
                for batch in patches.iter_features(several, batch_size):
                    found += batch
                    bar.update(len(batch))
            return found
        feed = ImageFeed(
            self.processor,
            partial(self.backend.features, layer=layer),
            (vision.grid_size**2, vision.width),
            concurrency=self.backend.concurrency,
            color_format=input_color_format,
        )
        listed = split_batch(images)
        features = np.empty((len(listed), vision.grid_size**2, vision.width), np.float32)
        _fill(features, feed.embed(listed, batch_size), "images", show_progress)
        return features

    def relevance(
        self,
        image: ImageInput,
        text: str | Sequence[str],
        *,
        input_color_format: ColorFormat = "bgr",
    ) -> NDArray[np.float32]:
        """Return which parts of an image make it similar to a text; see `explain`.

        Args:
            image: as in `embed_image`.
            text: one string, or a sequence of them.
            input_color_format: channel order of NumPy arrays.

        Returns:
            (h, w) float32, each patch's contribution to the cosine; negative where a patch lowers
            it. (T, h, w) for a sequence of T texts.

        Raises:
            ImageError, UnsupportedOperationError, CheckpointError: as `explain`.
        """
        maps = self.explain(image, text, input_color_format=input_color_format).maps
        return maps[0] if isinstance(text, str) else maps

    def explain(
        self,
        image: ImageInput,
        texts: str | Sequence[str],
        *,
        input_color_format: ColorFormat = "bgr",
    ) -> Relevance:
        """Divide the cosine of an image with each text among the patches of the image.

        The method and its limits are described in `perception_encoder.embedder.relevance`.

        Args:
            image: as in `embed_image`.
            texts: one string, or a sequence of them.
            input_color_format: channel order of NumPy arrays.

        Raises:
            ImageError: the image cannot be used.
            UnsupportedOperationError: the model reads no text or has patch features only; or there
                is no file of its weights, as for exports and random weights.
            CheckpointError: the file of the weights has changed since the model was opened.
        """
        resized = self.processor.resize_measured(image, input_color_format=input_color_format)
        return self.explain_resized(resized, self.embed_text(texts, show_progress=False))

    def explain_resized(self, image: ResizedImage, texts: Embeddings) -> Relevance:
        """As `explain`, for an image of `processor.resize_measured` and (T, E) embeddings.

        Raises:
            UnsupportedOperationError, CheckpointError: as `explain`.
        """
        self._embed_dim()
        if self._pooling_head is None:
            self._pooling_head = read_pooling_head(self._checkpoint, self.backend.fingerprint)
        tokens = self.backend.pool_inputs(image.pixels[None])[0]
        region = find_region(self.config.image, image.width, image.height)
        return replace(self._pooling_head.explain(tokens, texts), region=region)

    @overload
    def embed_text(
        self,
        texts: str | Sequence[str],
        *,
        output: Literal["numpy"] = ...,
        **options: Unpack[TextOptions],
    ) -> Embeddings: ...
    @overload
    def embed_text(
        self,
        texts: str | Sequence[str],
        *,
        output: Literal["torch"],
        **options: Unpack[TextOptions],
    ) -> torch.Tensor: ...
    def embed_text(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        truncate_dim: int | None = None,
        show_progress: bool | None = None,
        output: Output = "numpy",
    ) -> Embeddings | torch.Tensor:
        """Embed one string, or a list of them in order.

        A text that is longer than the model's context (32 tokens for most of PE-Core, 72 for G14,
        77 for CLIP) is truncated, with a warning in the log.

        Args:
            texts: one string, or a sequence of strings.
            batch_size: texts computed at once.
            normalize: scale each embedding to unit length.
            truncate_dim: keep the first dimensions of each embedding only, then normalize.
            show_progress: draw a bar on stderr; None draws one on a terminal for long work.
            output: "numpy", or "torch" for a CPU tensor.

        Returns:
            (1, E) float32 for a string, (N, E) for N of them.

        Raises:
            TokenizerNotFoundError: the model's vocabulary was not found.
            UnsupportedOperationError: the model reads no text.
            TypeError: an item is not a string.
        """
        check_output(self._embed_dim(), truncate_dim, output)
        feed = TextFeed(
            self.tokenizer,
            self._text_backend.encode_text,
            concurrency=self.backend.concurrency,
            cache=self._cache,
        )
        token_rows = self.tokenizer.encode(texts)
        vectors = np.empty((len(token_rows), self._embed_dim()), np.float32)
        _fill(vectors, feed.embed(token_rows, batch_size), "texts", show_progress)
        return finish_output(vectors, normalize=normalize, truncate_dim=truncate_dim, output=output)

    def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """Embed one batch of images that `processor` has prepared, without the cache.

        Args:
            pixels: (B, S, S, 3) uint8 RGB.

        Returns:
            (B, E) float32 of unit length.
        """
        return normalize_rows(self.backend.encode_image(pixels))

    def embed_tokens(self, token_rows: Sequence[Sequence[int]]) -> Embeddings:
        """Embed one batch of texts that `tokenizer.encode` has tokenized, without the cache.

        Args:
            token_rows: the token ids of each text, start and end token included. Rows longer than
                the model's context are cut.

        Returns:
            (B, E) float32 of unit length.

        Raises:
            TokenizerNotFoundError: the model's vocabulary was not found.
            UnsupportedOperationError: the model reads no text.
        """
        token_ids = self.tokenizer.pad(token_rows)
        return normalize_rows(self._text_backend.encode_text(token_ids))

    def similarity(self, a: Any, b: Any) -> NDArray[np.float32]:
        """Return (Na, Nb) float32 cosines of every row of `a` with every row of `b`.

        Both are arrays or CPU tensors, (N, E) or (E,).

        Raises:
            ValueError: the embeddings differ in their number of dimensions.
        """
        return cosine_similarity(a, b)

    @property
    def embed_dim(self) -> int | None:
        """E, the number of dimensions; None for models that have patch features only."""
        return self.config.embed_dim

    @property
    def device(self) -> str:
        """Where the model computes, such as "cpu", "cuda:0" or "mps"."""
        return self.backend.device

    @property
    def logit_scale(self) -> float:
        """The factor of a cosine before a softmax over labels."""
        return self._text_backend.logit_scale

    @property
    def reads_text(self) -> bool:
        """Whether the model embeds texts: it has a text tower, or one was attached."""
        return self.config.text is not None or self._text_tower is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns texts into token ids.

        Raises:
            TokenizerNotFoundError: the model's vocabulary was not found.
            UnsupportedOperationError: the model reads no text.
        """
        if not self.reads_text:
            if not self.attaches_text_tower:
                raise UnsupportedOperationError(describe_missing_text(self.config.id))
            self.attach_text_tower()
        if self._text_tower is not None:
            return self._text_tower.tokenizer
        if self._tokenizer is None:
            raise TokenizerNotFoundError(describe_missing_vocabulary(self.config.id))
        return self._tokenizer

    @property
    def _text_backend(self) -> Backend:
        return self.backend if self._text_tower is None else self._text_tower.backend

    def attach_text_tower(self, *, local_files_only: bool = False) -> None:
        """Let a vision-only model read texts, with the text tower of its twin.

        The twin, such as PE-Core-B16-224 for `timm/vit_pe_core_base_patch16_224.fb`, comes from
        the cache; or its text tower alone from the hub. The vision tower in the whole file must
        have this model's fingerprint, so that texts and images share one space; beside a text
        tower that was fetched alone, the first and last tensors of the vision tower are compared.
        Nothing happens if the model reads text already.

        Args:
            local_files_only: never use the network.

        Raises:
            UnsupportedOperationError: the model has no twin.
            CheckpointError: the twin's vision tower is another one, or its file is damaged.
            DownloadError: the twin could not be fetched.
            TokenizerNotFoundError: no vocabulary was found.
            BackendUnavailableError: the twin's file was never read, and torch is not installed.
        """
        if self.reads_text:
            return
        checkpoint = self._checkpoint
        if checkpoint is not None and checkpoint.adapter is not None:
            raise CheckpointError(
                f"{self.config.id}: its vision tower was merged with the adapter "
                f"{checkpoint.adapter.config.parent}, so it is not its twin's. Merge the adapter "
                "into the twin, which has both towers"
            )
        is_export = checkpoint is not None and checkpoint.graphs is not None
        self._text_tower = open_text_tower(
            self.config.id,
            self.backend.fingerprint,
            weights=None if checkpoint is None or is_export else checkpoint.path,
            local_files_only=local_files_only,
        )
        if self.reopen is not None:
            self.reopen = partial(_reopen_attached, self.reopen)

    def seen_as(self, identity: ModelIdentity) -> Self:
        """Return this model under the identity of its twin, whose images it embeds alike.

        Both objects share everything, and closing one closes the other.
        """
        twin = self._share()
        twin._identity = identity
        if self.reopen is not None:
            twin.reopen = partial(_reopen_seen_as, self.reopen, identity)
        return twin

    def prepared_by(self, preprocess: PreprocessName) -> Self:
        """Return this model with another preprocessing, for an index that was made with it.

        Both objects share the backend, and closing one closes the other.
        """
        if preprocess == self.processor.name:
            return self
        other = self._share()
        other.processor = self.processor.with_preprocess(preprocess)
        other.reopen = other._cache = None
        if self._identity is not None:
            other._identity = replace(self._identity, preprocess=preprocess)
        return other

    def _share(self) -> Self:
        """Return another object with the same parts; `copy.copy` would open the model again."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def identify_vision_tower(self) -> str | None:
        """Return the fingerprint of the vision tower alone; None where no weights can be read.

        Models whose vision towers have the same fingerprint embed images alike.
        """
        if self.config.text is None:
            return self.backend.fingerprint
        if self._checkpoint is None or self._checkpoint.graphs is not None:
            return None
        found = run_on_usable_thread(partial(identify_towers, self._checkpoint))
        return found[1] if found[0] == self.backend.fingerprint else None

    @property
    def identity(self) -> ModelIdentity:
        """What an index stores of the model: every embedding depends on it."""
        if self._identity is not None:
            return self._identity
        return ModelIdentity(
            model_id=self.config.id,
            fingerprint=self.backend.fingerprint,
            preprocess=self.processor.name,
            embed_dim=self._embed_dim(),
        )

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, format: SaveFormat = "perception-encoder"
    ) -> Path:
        """Save the model as a folder that `AutoModel.from_pretrained` opens.

        Args:
            folder: for `config.json`, `model.safetensors` and `tokenizer.json`.
            format: "open_clip" writes a snapshot that open_clip opens, too, as `local-dir:FOLDER`.
                It says how images are prepared, but not `preprocess`.

        Returns:
            The folder.

        Raises:
            CheckpointError: the folder holds something else than a saved model, or cannot be
                written; the file of the weights has changed since it was opened; or open_clip has
                no such model.
            ValueError: no such format.
        """
        from perception_encoder.checkpoints.save import save_checkpoint

        if format not in get_args(SaveFormat):
            raise ValueError(f"format={format!r}; use one of {', '.join(get_args(SaveFormat))}")
        path = Path(folder).expanduser()
        run_on_usable_thread(
            partial(
                save_checkpoint,
                self._checkpoint or self.config,
                path,
                self._tokenizer,
                fingerprint=self.backend.fingerprint,
                preprocess=self.processor.name,
                format=format,
            )
        )
        return path

    def close(self) -> None:
        """Free the model's memory."""
        self.backend.close()
        if self._text_tower is not None:
            self._text_tower.backend.close()
        self._pooling_head = None
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[], EmbeddingModel], tuple[()]]:
        """Pickle the model's name and options, not its weights."""
        if self.reopen is None:
            raise TypeError(
                f"{self!r} cannot be pickled: only a model that AutoModel.from_pretrained opened "
                "from a name or path can be opened again in another process"
            )
        return self.reopen, ()

    def __repr__(self) -> str:
        backend = self.backend
        return (
            f"EmbeddingModel({self.config.id!r}, backend={backend.name!r}, "
            f"device={backend.device!r}, precision={backend.precision!r})"
        )

    def _image_vectors(
        self,
        images: Sequence[ImageInput],
        color_format: ColorFormat,
        batch_size: int,
        show_progress: bool | None,
        failures: Failures | None = None,
    ) -> Embeddings:
        feed = ImageFeed(
            self.processor,
            self.backend.encode_image,
            (self._embed_dim(),),
            concurrency=self.backend.concurrency,
            color_format=color_format,
            cache=self._cache,
            failures=failures,
        )
        vectors = np.empty((len(images), self._embed_dim()), np.float32)
        _fill(vectors, feed.embed(images, batch_size), "images", show_progress)
        return vectors

    def _embed_dim(self) -> int:
        if self.config.embed_dim is None:
            raise UnsupportedOperationError(
                f"{self.config.id} has patch features only, no embedding of an image: "
                "call features(), or use a PE-Core or CLIP model"
            )
        return self.config.embed_dim


def _fill(
    results: NDArray[np.float32],
    parts: Iterator[EmbeddedRows],
    unit: str,
    show_progress: bool | None,
) -> None:
    """Copy embedded rows to their places, with a progress bar on stderr."""
    with _progress_bar(len(results), unit, show_progress) as bar:
        for rows, vectors in parts:
            results[rows] = vectors
            bar.update(len(vectors))


def _progress_bar(total: int, unit: str, show_progress: bool | None) -> tqdm[NoReturn]:
    """Return a bar with rate and time left; None shows it on a terminal, for long work only."""
    from tqdm.auto import tqdm  # a widget in notebooks, else a line on stderr

    return tqdm(
        total=total,
        unit=f" {unit}",
        disable=None if show_progress is None else not show_progress,  # None: on a terminal only
        delay=_QUIET_SECONDS if show_progress is None else 0.0,
        leave=False,
    )


def _reopen_attached(reopen: Callable[[], EmbeddingModel]) -> EmbeddingModel:
    model = reopen()
    model.attach_text_tower()
    return model


def _reopen_seen_as(
    reopen: Callable[[], EmbeddingModel], identity: ModelIdentity
) -> EmbeddingModel:
    return reopen().seen_as(identity)
