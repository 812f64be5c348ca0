"""Any model behind the calls of sentence-transformers' `SentenceTransformer`; needs no package.

    from perception_encoder.integrations.sentence_transformers import SentenceTransformer

    model = SentenceTransformer("pe-nano")
    images = model.encode(["cat.webp", Image.open("dog.webp")])
    scores = model.similarity(model.encode_query("a cat"), images)

The calls are those of sentence-transformers 6: what `encode` takes, what it returns, and that
vectors are not of unit length unless asked for. What is not here says so.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.integrations.opening import ModelLike, OpenOptions, embed_mixed, open_shared
from perception_encoder.preprocess.arrays import is_tensor
from perception_encoder.preprocess.image_strings import decode_data_uri, image_in_text
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import torch

Encoded: TypeAlias = "NDArray[Any] | torch.Tensor | list[torch.Tensor]"
StoredPrecision: TypeAlias = Literal["float32", "binary", "ubinary"]

_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")


class _NoCard:
    """Where evaluators would write their figures; here these are only returned."""

    def set_evaluation_metrics(self, *_: Any) -> None:
        """Do nothing."""


class SentenceTransformer:
    """Words and images to vectors, as `SentenceTransformer` objects do it.

    Attributes:
        model: the model of this package.
        prompts: by name, what is put before a text.
        default_prompt_name: the prompt of `encode` where none is given.
        truncate_dim: how many numbers of a vector are kept; None for all.
        similarity_fn_name: "cosine", the only one.
    """

    similarity_fn_name: Final = "cosine"
    model_card_data: Final = _NoCard()

    def __init__(
        self,
        model_name_or_path: ModelLike,
        *,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        truncate_dim: int | None = None,
        **options: Unpack[OpenOptions],
    ) -> None:
        """Open a model, or wrap one that is open.

        Raises:
            ValueError: there is no prompt of the default's name.
            UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as for
                `AutoModel.from_pretrained`.
        """
        self.model: EmbeddingModel = open_shared(model_name_or_path, **options)
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.truncate_dim = truncate_dim
        self._prompt(None, None)

    def encode(  # noqa: PLR0913  their arguments
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding"] = "sentence_embedding",
        precision: StoredPrecision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: "str | torch.device | None" = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **_: Any,
    ) -> Encoded:
        """Embed texts, images, or both in one list.

        Args:
            inputs: one of these or a list of them: a text; an image as PIL image, (H, W, C) RGB
                array, (C, H, W) tensor, data URI or path of a file that exists; `{"text": ...}`
                or `{"image": ...}`, which takes every kind that `embed_images` does.
            prompt_name: which of `prompts` to put before the texts.
            prompt: what to put before the texts.
            batch_size: texts or images computed at once.
            show_progress_bar: None draws one on a terminal when work is long.
            output_value: this one only; for patches see `model.features`.
            precision: "binary" and "ubinary" keep a bit of each number, eight to a byte.
            convert_to_numpy: an array; otherwise a list of CPU tensors.
            convert_to_tensor: one CPU tensor, whatever `convert_to_numpy` says.
            device: None, or the one that the model is on.
            normalize_embeddings: scale each vector to unit length.
            truncate_dim: how many numbers to keep, before that.
            **_: `pool`, `chunk_size`, `task` and others have no effect.

        Returns:
            (N, E) for a list, (E,) for one input; float32, or (u)int8 of a bit each.

        Raises:
            ImageError: an image cannot be used, or is a URL.
            TypeError: an input is neither text nor image.
            ValueError: a choice that is not here, or an unknown prompt.
        """
        if output_value != "sentence_embedding":
            raise ValueError("output_value must be 'sentence_embedding'; see model.features")
        if precision not in ("float32", "binary", "ubinary"):
            raise ValueError(
                f"precision {precision!r} is not here; use float32, binary or ubinary, or "
                "sentence_transformers.quantize_embeddings"
            )
        if device is not None and str(device) != self.device:
            raise ValueError(
                f"the model is on {self.device}, not {device}; give the device when it is opened"
            )
        before = self._prompt(prompt, prompt_name)
        single = _is_single(inputs)
        told = [_told(item) for item in ([inputs] if single else list(inputs))]
        vectors = embed_mixed(
            self.model,
            [before + item if is_text else item for item, is_text in told],
            [is_text for _, is_text in told],
            batch_size=batch_size,
            show_progress=show_progress_bar,
            normalize=normalize_embeddings,
            truncate_dim=self.truncate_dim if truncate_dim is None else truncate_dim,
        )
        stored = _stored(vectors, precision)
        if convert_to_numpy and not convert_to_tensor:
            return stored[0] if single else stored
        import torch

        tensors = torch.from_numpy(stored)
        if single:
            return tensors[0]
        return tensors if convert_to_tensor else list(tensors)

    def encode_query(self, inputs: Any, prompt_name: str | None = None, **options: Any) -> Encoded:
        """Call `encode`, with the prompt named "query" where there is one."""
        return self.encode(inputs, self._named("query", prompt_name, options), **options)

    def encode_document(
        self, inputs: Any, prompt_name: str | None = None, **options: Any
    ) -> Encoded:
        """Call `encode`, with the prompt named "document", "passage" or "corpus", if any."""
        for name in ("document", "passage", "corpus"):
            prompt_name = self._named(name, prompt_name, options)
        return self.encode(inputs, prompt_name, **options)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Return the cosine of every vector with every other.

        Args:
            embeddings1: (Na, E) or (E,): an array, a tensor, or a list of either.
            embeddings2: (Nb, E) or (E,), likewise.

        Returns:
            (Na, Nb) float32.
        """
        import torch

        return torch.from_numpy(self.model.similarity(_rows(embeddings1), _rows(embeddings2)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Return the cosine of each vector with the one at its place in the other list.

        Args:
            embeddings1: (N, E), as for `similarity`.
            embeddings2: (N, E).

        Returns:
            (N,) float32.

        Raises:
            ValueError: the lists differ in length.
        """
        import torch

        pairs = zip(_rows(embeddings1), _rows(embeddings2), strict=True)
        cosines = [self.model.similarity(one, other)[0, 0] for one, other in pairs]
        return torch.tensor(cosines, dtype=torch.float32)

    def get_embedding_dimension(self) -> int:
        """Return how many numbers a vector has."""
        whole = self.model.identity.embed_dim
        return whole if self.truncate_dim is None else min(whole, self.truncate_dim)

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before 5.4

    @property
    def device(self) -> str:
        """Where the model computes, such as "cpu" or "cuda:0"."""
        return self.model.backend.device

    @property
    def max_seq_length(self) -> int | None:
        """The longest text in tokens; None where the model reads no text."""
        text = self.model.config.text
        return None if text is None else text.context_length

    @property
    def modalities(self) -> list[str]:
        """What `encode` takes: "text" and "image"."""
        return ["image"] if self.model.config.text is None else ["text", "image"]

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"no prompt is named {name!r}; there are: {sorted(self.prompts)}")
        return self.prompts[name]

    def _named(self, name: str, given: str | None, options: dict[str, Any]) -> str | None:
        """Return the prompt that a call named after its use takes."""
        wanted = given is None and options.get("prompt") is None and name in self.prompts
        return name if wanted else given


def _is_single(inputs: Any) -> bool:
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "UO":
        return False
    return isinstance(inputs, str | dict | Image.Image | np.ndarray) or is_tensor(inputs)


def _told(item: Any) -> tuple[Any, bool]:
    """Return an input without its dict, and whether it is a text."""
    if isinstance(item, str):
        if image_in_text(item) == "data URI":
            return decode_data_uri(item, item="a data URI"), False
        return item, not _names_image(item)
    if isinstance(item, dict):
        if item.keys() not in ({"text"}, {"image"}):
            raise TypeError(f"expected one of the keys 'text' and 'image', got {sorted(item)}")
        return next(iter(item.values())), "text" in item
    if isinstance(item, Image.Image | np.ndarray | os.PathLike | bytes) or is_tensor(item):
        return item, False
    raise TypeError(f"expected a text or an image, got {type(item).__name__}")


def _names_image(text: str) -> bool:
    """Tell the path of an image that exists, or its URL, from a text.

    As sentence_transformers/base/modality.py (6.2.0) does.
    """
    if text.startswith(("http://", "https://")) and " " not in text:
        return text.partition("?")[0].lower().endswith(_SUFFIXES)
    return text.lower().endswith(_SUFFIXES) and os.path.isfile(text)


def _stored(vectors: Embeddings, precision: StoredPrecision) -> NDArray[Any]:
    """Keep a bit of each number, as `quantize_embeddings` does, or the numbers."""
    if precision == "float32":
        return vectors
    packed = np.packbits(vectors > 0, axis=-1)
    return packed if precision == "ubinary" else (packed - 128).astype(np.int8)


def _rows(vectors: Any) -> NDArray[np.float32]:
    """Make rows of an array, a tensor on any device, or a list of either."""
    if is_tensor(vectors):
        return np.atleast_2d(vectors.detach().cpu().float().numpy())
    if isinstance(vectors, Sequence):
        return np.concatenate([_rows(vector) for vector in vectors])
    return np.atleast_2d(np.asarray(vectors, np.float32))
