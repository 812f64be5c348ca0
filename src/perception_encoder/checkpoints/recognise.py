"""Which registered model a checkpoint is of, told by its tensors' shapes alone.

CLIP models are left out: which GELU they use cannot be seen in any tensor, and with the wrong one
every vector is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from perception_encoder.checkpoints.names import NamingScheme, recognise
from perception_encoder.checkpoints.read import open_tensors
from perception_encoder.errors import CheckpointError
from perception_encoder.registry import MODELS, ModelConfig, ModelEntry


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


def recognise_model(path: Path) -> ModelEntry:
    """Return the one registered model whose shapes these are.

    Raises:
        CheckpointError: the file cannot be opened, or fits no model or several.
    """
    tensors = open_tensors(path).tensors
    try:
        found = _of_tensors(tensors, recognise(tensors))
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
