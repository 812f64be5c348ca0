"""The numbers of a model, as frozen dataclasses. Plain data: no torch, no files, no network."""

from dataclasses import dataclass
from typing import Any, Literal, Self

Activation = Literal["gelu", "quick_gelu"]
Pooling = Literal["attention", "class_token", "none"]
Resize = Literal["squash", "center_crop"]
Interpolation = Literal["bilinear", "bicubic"]


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
    """How a picture becomes pixels: resize rule, interpolation, and the normalisation."""

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

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read back `to_dict`'s form.

        Raises:
            ValueError: a key is unknown or missing (both are named).
        """
        fields = dict(data)
        try:
            vision = VisionConfig(**fields.pop("vision"))
            text = fields.pop("text", None)
            image = dict(fields.pop("image", {}))
            for key in ("mean", "std"):
                if key in image:
                    image[key] = tuple(image[key])
            return cls(
                vision=vision,
                text=TextConfig(**text) if text is not None else None,
                image=ImageConfig(**image),
                **fields,
            )
        except (TypeError, KeyError) as err:
            raise ValueError(f"not a model configuration: {err}") from err
