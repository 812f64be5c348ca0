"""Relevance: how much each patch of an image adds to the image's cosine with a text.

Both kinds of towers end in one attention that mixes the tokens x_i (class token and patches) into
a single vector. For PE it is the attention pool, for CLIP the attention of the class token in the
last block. With heads m, weights a_mi of the softmax, values V_m x_i + c_m, and each head's part
O_m of the output projection:

    u = r + b + Σ_i Σ_m a_mi O_m (V_m x_i + c_m)    r = 0 (PE), the class token's residual (CLIP)
    y = u + MLP(LN(u))
    e = P y (PE), P LN(y) (CLIP)                    P is the projection to E
    cosine = t · e / |e|                            t is the text's embedding, of unit length

Up to u this is a sum over tokens. What follows is linear but for LN, the activation and |e|. These
are held at the values that they have for this image: LN divides by a constant standard deviation,
and act(h) = (act(h) / h) · h multiplies by a constant gate. So e = A u + d holds exactly for this
image, and with w = Aᵀ Pᵀ t / |e| the contribution of token i to the cosine is

    Σ_m a_mi w · O_m (V_m x_i + c_m)

The contributions of all tokens and the constants (r, b, d) add up to the cosine. The derivatives of
LN and the gates are left out: with them the sum would not be the cosine.

What it cannot show: x_i is what the tower has put at a patch, and attention has carried content of
other patches there; large ViTs keep content of the whole image in a few patches of the background
(Darcet et al., "Vision Transformers Need Registers", ICLR 2024). The class token's contribution has
no place, and is part of the rest. A map says what raised this score. It does not say what the model
would answer if a part were missing.

Sources. Values and output projection of the last attention, patch by patch: MaskCLIP (Zhou, Loy,
Dai, "Extract Free Dense Labels from CLIP", ECCV 2022). Sums over tokens of an attention head:
Gandelsman, Efros, Steinhardt, "Interpreting CLIP's Image Representation via Text-Based
Decomposition", ICLR 2024. Constant LN and gates, so that relevance is conserved: Ali et al., "XAI
for Transformers: Better Explanations through Conservative Propagation", ICML 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.backends.numpy_text import gelu, quick_gelu
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.known_weights import find_known_weights
from perception_encoder.checkpoints.names import recognize_scheme
from perception_encoder.checkpoints.shards import is_shard_index
from perception_encoder.checkpoints.tensors import MappedTensors, WatchedFile, require_unchanged
from perception_encoder.errors import CheckpointError, UnsupportedOperationError
from perception_encoder.registry import ImageConfig, VisionConfig
from perception_encoder.registry.config import Activation
from perception_encoder.types import Embeddings

_NORM_EPS: Final = 1e-5
_SMALL: Final = 1e-6  # below it act(h) / h is its limit, 1/2

Floats: TypeAlias = NDArray[np.float32]
Region: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Relevance:
    """What the patches of one image add to its cosines with T texts.

    Attributes:
        maps: (T, h, w) float32, each patch's contribution to the cosine; negative where a patch
            lowers it.
        rest: (T,) float32, what no patch adds: the class token's part and constants. A map's sum
            and its rest are the cosine.
        region: the part of the image that the maps cover, as fractions of its width and height:
            left, top, right, bottom. (0, 0, 1, 1) unless the model crops images, as CLIP does. The
            image is upright, except with the preprocessing "reference", which ignores EXIF turns.
    """

    maps: Floats
    rest: Floats
    region: Region = (0.0, 0.0, 1.0, 1.0)

    @property
    def scores(self) -> Floats:
        """(T,) float32, the cosine of the image with each text."""
        scores: Floats = self.maps.sum(axis=(1, 2)) + self.rest
        return scores


class _Linear(NamedTuple):
    weight: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        result: Floats = x @ self.weight.T + self.bias
        return result


class _Norm(NamedTuple):
    """A LayerNorm whose standard deviation can be held."""

    gain: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        centered = x - x.mean(axis=-1, keepdims=True)
        normed: Floats = centered / _deviation(x) * self.gain + self.bias
        return normed

    def back(self, direction: Floats, x: Floats) -> Floats:
        """Return what (T, D) directions of the result are of `x`, (D,), without the bias."""
        scaled = direction * self.gain / _deviation(x)
        moved: Floats = scaled - scaled.mean(axis=-1, keepdims=True)
        return moved


def _deviation(x: Floats) -> Floats:
    deviation: Floats = np.sqrt(x.var(axis=-1, keepdims=True) + np.float32(_NORM_EPS))
    return deviation


class PoolingHead:
    """What follows the tokens that a tower's pooling reads, in NumPy.

    Args:
        config: of the tower.
        weights: returns a float32 parameter of the tower by its name, such as "projection.weight".
        watched: the files that parameters may be views of.
    """

    def __init__(
        self,
        config: VisionConfig,
        weights: Callable[[str], Floats],
        watched: Sequence[WatchedFile] = (),
    ) -> None:
        def linear(name: str) -> _Linear:
            return _Linear(weights(f"{name}.weight"), weights(f"{name}.bias"))

        def norm(name: str) -> _Norm:
            return _Norm(weights(f"{name}.weight"), weights(f"{name}.bias"))

        self._config = config
        self._watched = watched
        self._is_pool = config.pooling == "attention"
        self._num_heads = config.pool_num_heads if self._is_pool else config.num_heads
        self._scales = np.ones(1, np.float32), np.ones(1, np.float32)
        if self._is_pool:
            block = "pool"
            self._query = linear("pool.q")(weights("pool.probe"))  # (D,)
            self._keys, self._values = _split_rows(linear("pool.kv"), 2)
            self._out, self._norm2 = linear("pool.out"), norm("pool.norm")
        else:
            block = f"blocks.{config.depth - 1}"
            self._norm1 = norm(f"{block}.norm1")
            rows = _split_rows(linear(f"{block}.attention.qkv"), 3)
            self._queries, self._keys, self._values = rows
            self._out, self._norm2 = linear(f"{block}.attention.out"), norm(f"{block}.norm2")
            if config.layer_scale is not None:
                self._scales = weights(f"{block}.scale1"), weights(f"{block}.scale2")
        self._up, self._down = linear(f"{block}.mlp.up"), linear(f"{block}.mlp.down")
        self._post_norm = norm("post_norm") if config.has_post_norm and not self._is_pool else None
        self._projection = weights("projection.weight")  # (E, D)

    def explain(self, tokens: Floats, texts: Embeddings) -> Relevance:
        """Divide the cosines of one image among its patches.

        Args:
            tokens: (N, D) float32, of `Backend.pool_inputs`.
            texts: (T, E) float32 of unit length.

        Raises:
            CheckpointError: the file of the weights was overwritten since it was opened.
        """
        with require_unchanged(self._watched):
            shares, constants = self._contributions(tokens, texts)
        first = int(self._config.has_class_token)
        grid = self._config.grid_size
        maps = shares[:, first:].reshape(len(texts), grid, grid)
        return Relevance(maps, constants + shares[:, :first].sum(axis=1))

    def _contributions(self, tokens: Floats, texts: Embeddings) -> tuple[Floats, Floats]:
        """Return (T, N) contributions of the tokens and (T,) sums of all constants."""
        x = tokens if self._is_pool else self._norm1(tokens)
        attention = self._attention(x)  # (M, N)
        values, biases = self._by_head(self._values.weight), self._by_head(self._values.bias)
        pooled = np.einsum("mcd,md->mc", values, attention @ x) + biases  # (M, C)
        scale1, scale2 = self._scales
        residual = np.zeros_like(tokens[0]) if self._is_pool else tokens[0]
        u = residual + scale1 * self._out(pooled.reshape(-1))
        hidden = self._up(self._norm2(u))
        gate = _gate(hidden, self._config.activation)
        y = u + scale2 * self._down(gate * hidden)
        e = self._projection @ (y if self._post_norm is None else self._post_norm(y))

        # Back from the texts to u through the held factors. Each bias on the way adds a constant.
        direction = texts @ self._projection / np.linalg.norm(e)  # (T, D)
        constants = np.zeros(len(texts), np.float32)
        if self._post_norm is not None:
            constants += direction @ self._post_norm.bias
            direction = self._post_norm.back(direction, y)
        through = direction * scale2
        constants += through @ self._down.bias
        through = (through @ self._down.weight) * gate
        constants += through @ self._up.bias
        through = through @ self._up.weight
        constants += through @ self._norm2.bias
        direction = direction + self._norm2.back(through, u)
        constants += direction @ (residual + scale1 * self._out.bias)
        at_heads = ((direction * scale1) @ self._out.weight).reshape(len(texts), *biases.shape)
        # (V x + c) · direction per token and head, without the (N, M, C) values
        at_tokens = np.einsum("tmc,mcd->tmd", at_heads, values)
        at_biases = (at_heads * biases).sum(axis=-1)[:, None]  # (T, 1, M)
        found = x @ at_tokens.swapaxes(1, 2) + at_biases  # (T, N, M)
        shares: Floats = np.einsum("mn,tnm->tn", attention, found)
        return shares, constants

    def _attention(self, x: Floats) -> Floats:
        """Return the (M, N) weights of the tokens; biases of keys change none."""
        query = self._by_head(self._query if self._is_pool else self._queries(x[0]))  # (M, C)
        keys = np.einsum("mc,mcd->md", query, self._by_head(self._keys.weight))
        scores = keys @ x.T / np.float32(np.sqrt(query.shape[1]))
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        normalized: Floats = weights / weights.sum(axis=1, keepdims=True)
        return normalized

    def _by_head(self, rows: Floats) -> Floats:
        """(D, …) to (M, C, …)."""
        return rows.reshape(self._num_heads, -1, *rows.shape[1:])


def read_pooling_head(checkpoint: Checkpoint | None, fingerprint: str) -> PoolingHead:
    """Read the weights after the patches; torch is imported only for a file that torch wrote.

    Args:
        checkpoint: of the model; None for random weights.
        fingerprint: of the weights that the backend runs.

    Raises:
        UnsupportedOperationError: there is no file of weights.
        CheckpointError: the file is damaged, or holds other weights than the backend's.
    """
    if checkpoint is None:
        raise UnsupportedOperationError(
            "relevance needs the model's file of weights, and this model has none; open it with "
            "AutoModel.from_pretrained"
        )
    if checkpoint.graphs is not None:
        raise UnsupportedOperationError(
            f"{checkpoint.path.parent} is an export, which has graphs in place of weights; "
            "relevance needs weights: open the model that it was made from"
        )
    known = find_known_weights(checkpoint)
    if known is not None and known.fingerprint != fingerprint:
        raise CheckpointError(
            f"{checkpoint.path} was changed while the model was open; open it again"
        )
    is_one_file = checkpoint.adapter is None and not is_shard_index(checkpoint.path)
    if is_one_file and _is_safetensors(checkpoint.path):
        tensors = MappedTensors(checkpoint.path, ema=checkpoint.ema)
        scheme = recognize_scheme(tensors.keys())

        def read(name: str) -> Floats:
            key, transform = scheme.source(f"vision.{name}")
            return np.asarray(transform.apply(tensors[key]), np.float32)

        with require_unchanged([tensors.watched]):
            return PoolingHead(checkpoint.config.vision, read, [tensors.watched])
    from perception_encoder.checkpoints.known_weights import read_weights

    loaded = read_weights(checkpoint)
    parameters = dict(loaded.model.vision.named_parameters())
    return PoolingHead(
        checkpoint.config.vision, lambda name: parameters[name].numpy(), loaded.watched
    )


def _is_safetensors(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err})") from err


def find_region(config: ImageConfig, width: int, height: int) -> Region:
    """Return the part of an image of that size that becomes the model's square."""
    if config.resize == "squash":
        return 0.0, 0.0, 1.0, 1.0
    side = min(width, height)
    x, y = (width - side) / 2 / width, (height - side) / 2 / height
    return x, y, 1 - x, 1 - y


def _split_rows(layer: _Linear, count: int) -> list[_Linear]:
    parts = zip(np.split(layer.weight, count), np.split(layer.bias, count), strict=True)
    return [_Linear(weight, bias) for weight, bias in parts]


def _gate(hidden: Floats, activation: Activation) -> Floats:
    """Return act(h) / h."""
    safe: Floats = np.where(np.abs(hidden) < _SMALL, np.float32(_SMALL), hidden)
    gate: Floats = (quick_gelu if activation == "quick_gelu" else gelu)(safe) / safe
    return gate
