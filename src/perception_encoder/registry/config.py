"""A model's hyperparameters, as frozen dataclasses."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

Activation = Literal["gelu", "quick_gelu"]
Pooling = Literal["attention", "class_token", "none"]
Resize = Literal["squash", "center_crop"]
Interpolation = Literal["bilinear", "bicubic"]
Family = Literal["PE-Core", "PE-Spatial", "PE-Lang", "CLIP", "pe-nano"]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision tower.

    `pool_num_heads` is read only with attention pooling; `layer_scale` is the initial value of
    the learned per-channel scale of each residual branch, or None where there is none.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    activation: Activation = "gelu"
    has_class_token: bool = True
    has_rope: bool = True
    has_post_norm: bool = True
    layer_scale: float | None = None
    pooling: Pooling = "attention"
    pool_num_heads: int = 8

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")

    @property
    def grid_size(self) -> int:
        """Patches along one side at the native image size."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A causal text tower whose vector is read at the first end-of-text token."""

    context_length: int
    vocab_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How an image becomes pixels: resize rule, interpolation, and the normalization."""

    resize: Resize = "squash"
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that fixes what a model computes. Written to `config.json` by `save_pretrained`.

    `embed_dim` is E, the size of the shared space; None for towers without pooling (PE-Spatial,
    PE-Lang), which give patch features only. `text` is None for vision-only models.
    """

    id: str
    vision: VisionConfig
    text: TextConfig | None = None
    embed_dim: int | None = None
    image: ImageConfig = ImageConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dicts, ready for JSON."""
        from dataclasses import asdict

        return asdict(self)

    def digest(self) -> str:
        """Return 16 hex digits that name everything but the id."""
        fields = json.dumps({**self.to_dict(), "id": None}, sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read back `to_dict`'s form.

        Raises:
            ValueError: a key is unknown or missing, or a value is not one that its field can have
                (all are named).
        """
        fields = dict(data)
        try:
            vision = _read(VisionConfig, fields.pop("vision"))
            text = fields.pop("text", None)
            image = dict(fields.pop("image", {}))
            for key in ("mean", "std"):
                if key in image:
                    image[key] = tuple(image[key])
            if not _is_a(fields.get("embed_dim"), int | None):
                raise ValueError(f"embed_dim cannot be {fields['embed_dim']!r}")
            return cls(
                vision=vision,
                text=_read(TextConfig, text) if text is not None else None,
                image=_read(ImageConfig, image),
                **fields,
            )
        except (TypeError, KeyError, AttributeError) as err:
            raise ValueError(f"not a model configuration: {err}") from err


_Config = TypeVar("_Config", VisionConfig, TextConfig, ImageConfig)


def _read(kind: type[_Config], data: Mapping[str, Any]) -> _Config:
    hints = get_type_hints(kind)
    for field, value in data.items():
        if field in hints and not _is_a(value, hints[field]):
            raise ValueError(f"{field} cannot be {value!r}")
    if kind is ImageConfig and min(data.get("std", (1,))) <= 0:
        raise ValueError(f"std cannot be {data['std']!r}")
    return kind(**data)


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value from JSON is one of a field's; a number that is not finite is none."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is UnionType:
        return any(_is_a(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        values = value if isinstance(value, tuple) else ()
        return len(values) == len(kinds) and all(map(_is_a, values, kinds))
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if hint is NoneType:
        return value is None
    is_positive = not isinstance(value, bool) and isinstance(value, int) and value > 0
    return isinstance(value, bool) if hint is bool else is_positive


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """One file of weights on the hub."""

    repo: str
    filename: str


@dataclass(frozen=True, kw_only=True)
class License:
    """The weights' license, where that was read, and what else is said about it."""

    spdx: str
    url: str
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A registered model. `sources` are tried in order; `bundled` ones lie in the package."""

    config: ModelConfig
    family: Family
    license: License
    sources: tuple[WeightSource, ...] = ()
    aliases: tuple[str, ...] = ()
    num_parameters: int
    bundled: bool = False
    text_twin: str | None = None
    """The id of the model with the same vision tower and a text tower, where this one has none."""
    imagenet_accuracy: float | None = None
    """Published zero-shot top-1 on ImageNet-1k, percent (perception_models apps/pe/README.md)."""

    @property
    def id(self) -> str:
        """The registered id, as in `config.id`."""
        return self.config.id


def image_operations(config: VisionConfig, embed_dim: int | None) -> int:
    """Operations for one image of the model's own size."""
    width, num_patches = config.width, config.grid_size**2
    num_tokens = num_patches + int(config.has_class_token)
    total = 2 * num_patches * 3 * config.patch_size**2 * width
    total += config.depth * _block(num_tokens, width, config.mlp_width)
    if config.pooling == "attention":
        probe = 2 * width * width
        keys_and_values = 2 * num_tokens * width * 2 * width
        attention = 4 * num_tokens * width
        out_and_mlp = 2 * width * width + 4 * width * 4 * width
        total += probe + keys_and_values + attention + out_and_mlp
    if config.pooling != "none":
        total += 2 * width * (embed_dim or 0)
    return total


def text_operations(config: TextConfig, embed_dim: int, num_tokens: int) -> int:
    """Operations for one text of so many tokens, begin and end tokens among them."""
    blocks = config.depth * _block(num_tokens, config.width, config.mlp_width)
    return blocks + 2 * config.width * embed_dim


def _block(num_tokens: int, width: int, mlp_width: int) -> int:
    """One transformer block: queries, keys, values and output; attention; the MLP."""
    projections = 4 * 2 * num_tokens * width * width
    attention = 2 * 2 * num_tokens**2 * width
    mlp = 2 * 2 * num_tokens * width * mlp_width
    return projections + attention + mlp
