"""Map a checkpoint's tensors to a model's parameters, completely or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from perception_encoder.checkpoints.names import (
    NamingScheme,
    Shape,
    Transform,
    explain_unexpected,
    list_names,
    recognize_scheme,
)
from perception_encoder.checkpoints.tensors import open_tensors
from perception_encoder.errors import CheckpointError
from perception_encoder.registry import MODELS, ModelConfig, ModelEntry

# Buffers and numbers that some files carry and that no computation of ours reads.
_IGNORED: Final = frozenset(
    {"attn_mask", "text.attn_mask", "input_resolution", "context_length", "vocab_size"}
)
# timm's classifier always has a bias; its converter writes zeros, as the original has none.
_ZERO_BIASES: Final = frozenset({"head.bias", "visual.trunk.head.bias"})


@dataclass(frozen=True, slots=True)
class ParameterPart:
    """Where one of our parameters comes from."""

    key: str
    transform: Transform

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return our parameter: a view of the file's tensor wherever that can be contiguous."""
        tensor: Tensor = self.transform.apply(tensors[self.key])
        return tensor.contiguous()


def plan_parameters(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]
) -> dict[str, ParameterPart]:
    """Match a checkpoint with a model, completely.

    Args:
        tensors: the file's tensors; only shapes and dtypes are read, and a timm bias's values.
        wanted: our parameters' shapes. Without a text tower among them, the file's is left out.

    Returns:
        Our parameter names, in order, each with its piece.

    Raises:
        CheckpointError: unknown names, or tensors missing, unexpected or misshapen; all are counted
            and the first ten of each kind listed, in the file's own names.
    """
    scheme = recognize_scheme(tensors)
    pieces = {name: ParameterPart(*scheme.source(name)) for name in wanted}
    missing = sorted({piece.key for piece in pieces.values()} - tensors.keys())
    unexpected = sorted(tensors.keys() - {piece.key for piece in pieces.values()} - _IGNORED)
    if "logit_scale" not in wanted:
        unexpected = [key for key in unexpected if not scheme.is_text(key)]
    unexpected = [key for key in unexpected if not _is_zero_bias(key, tensors)]
    misshapen = _misshapen(pieces, tensors, wanted)
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"the weights (names: {scheme.title}) do not fit the model: "
            + "; ".join(
                f"{len(names)} {kind}{list_names(names, lead=': ')}"
                for kind, names in (
                    ("missing", missing),
                    ("unexpected", unexpected),
                    ("misshapen", misshapen),
                )
                if names
            )
            + explain_unexpected(unexpected)
        )
    return pieces


def _is_zero_bias(key: str, tensors: Mapping[str, Tensor]) -> bool:
    return key in _ZERO_BIASES and not bool(tensors[key].any())


def _misshapen(
    pieces: Mapping[str, ParameterPart], tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]
) -> list[str]:
    found: dict[str, str] = {}
    for name, piece in pieces.items():
        tensor = tensors.get(piece.key)
        if tensor is None:
            continue
        allowed = piece.transform.file_shapes(wanted[name])
        shape = tuple(tensor.shape)
        if shape not in allowed:
            found[piece.key] = f"{piece.key} is {shape}, should be {allowed[0]}"
        elif not tensor.is_floating_point():
            found[piece.key] = f"{piece.key} is {tensor.dtype}, should be floating point"
    return sorted(found.values())


@dataclass(frozen=True)
class _Traits:
    """What shapes show of a model. Numbers of heads are not among it."""

    patch: tuple[int, ...]
    num_positions: int
    depth: int
    mlp_width: int
    has_class_token: bool
    has_layer_scale: bool
    has_post_norm: bool
    has_pool: bool
    tokens: tuple[int, ...]
    context_length: int
    text_depth: int


def recognize_model(path: Path) -> ModelEntry:
    """Return the one registered model whose shapes these are.

    Raises:
        CheckpointError: the file cannot be opened, or fits no model or several.
    """
    tensors = open_tensors(path).tensors
    try:
        found = _of_tensors(tensors, recognize_scheme(tensors))
    except CheckpointError as err:
        raise CheckpointError(f"{path}: {err}") from err
    fitting = [e for e in MODELS if e.family != "CLIP" and _of_config(e.config) == found]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"{path}: fits {' and '.join(entry.id for entry in fitting)}. Say which with model="
        )
    raise CheckpointError(
        f"{path}: its tensors' shapes are of no registered Perception Encoder ({found.depth} "
        f"vision blocks, patches {found.patch}). Say with model= which model it is; CLIP models "
        "always need that. `pe models` lists all"
    )


def _of_tensors(tensors: Mapping[str, Tensor], scheme: NamingScheme) -> _Traits:
    def shape(name: str) -> tuple[int, ...]:
        tensor = tensors.get(scheme.source(name)[0])
        return () if tensor is None else tuple(tensor.shape)

    def depth(tower: str) -> int:
        index = 0
        while shape(f"{tower}.blocks.{index}.norm1.weight"):
            index += 1
        return index

    return _Traits(
        patch=shape("vision.patch_embed.weight"),
        num_positions=_at(shape("vision.position_embedding"), -2),
        depth=depth("vision"),
        mlp_width=_at(shape("vision.blocks.0.mlp.up.weight"), 0),
        has_class_token=bool(shape("vision.class_token")),
        has_layer_scale=bool(shape("vision.blocks.0.scale1")),
        has_post_norm=bool(shape("vision.post_norm.weight")),
        has_pool=bool(shape("vision.pool.probe")),
        tokens=shape("text.token_embedding.weight"),
        context_length=_at(shape("text.position_embedding"), -2),
        text_depth=depth("text"),
    )


def _at(shape: tuple[int, ...], axis: int) -> int:
    return shape[axis] if len(shape) >= 2 else 0


def _of_config(config: ModelConfig) -> _Traits:
    vision, text = config.vision, config.text
    return _Traits(
        patch=(vision.width, 3, vision.patch_size, vision.patch_size),
        num_positions=vision.grid_size**2 + int(vision.has_class_token),
        depth=vision.depth,
        mlp_width=vision.mlp_width,
        has_class_token=vision.has_class_token,
        has_layer_scale=vision.layer_scale is not None,
        has_post_norm=vision.has_post_norm,
        has_pool=vision.pooling == "attention",
        tokens=(text.vocab_size, text.width) if text else (),
        context_length=text.context_length if text else 0,
        text_depth=text.depth if text else 0,
    )
