"""Tensor names in checkpoints: tables from our parameter names to those of other projects.

Four naming schemes exist for these towers: Meta's (which are OpenAI CLIP's, so open_clip's CLIP
files have them too), open_clip's with a timm vision trunk, timm's vision tower alone, and ours.
Foreign names appear here and in `remap` only.

Sources of the names: perception_models core/vision_encoder/pe.py (`CLIP`, `VisionTransformer`,
`TextTransformer`), open_clip 3.3 `TextTransformer` and `TimmModel`, timm 1.0.31 `Eva`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from perception_encoder.errors import CheckpointError
from perception_encoder.registry import ModelConfig

Shape = tuple[int, ...]

_LISTED: Final = 10  # names of one kind that an error spells out


@dataclass(frozen=True, slots=True)
class Transform:
    """How a tensor of the file becomes one of ours.

    `apply` takes a torch tensor or a numpy array and may return a view; `file_shapes` gives, from
    our shape, the shapes the file may hold, the usual one first; `invert` makes the file's tensor
    of ours, where that is all of it.
    """

    apply: Callable[[Any], Any]
    file_shapes: Callable[[Shape], tuple[Shape, ...]]
    invert: Callable[[Any], Any]


def _only_a_part(tensor: object) -> NoReturn:
    raise NotImplementedError("several of our tensors are one of the file's")


_AS_IS: Final = Transform(lambda t: t, lambda ours: (ours,), lambda t: t)
_TRANSPOSED: Final = Transform(lambda t: t.T, lambda ours: (ours[::-1],), lambda t: t.T)
_WITHOUT_ONE_AXIS: Final = Transform(lambda t: t[0], lambda ours: ((1, *ours),), lambda t: t[None])
_WITHOUT_TWO_AXES: Final = Transform(
    lambda t: t[0, 0], lambda ours: ((1, 1, *ours),), lambda t: t[None, None]
)
# open_clip writes the logit scale as () or (1,), by version.
_SCALAR: Final = Transform(lambda t: t.reshape(()), lambda _: ((), (1,)), lambda t: t)
# Rows of a fused attention input: queries, then keys, then values.
_QUERY_ROWS: Final = Transform(
    lambda t: t[: len(t) // 3], lambda ours: ((3 * ours[0], *ours[1:]),), _only_a_part
)
_KEY_VALUE_ROWS: Final = Transform(
    lambda t: t[len(t) // 3 :], lambda ours: ((3 * ours[0] // 2, *ours[1:]),), _only_a_part
)


@dataclass(frozen=True, slots=True)
class _Names:
    """One tower: our module or parameter name to the file's, and what is not taken as it is."""

    blocks: str
    block: Mapping[str, str]
    other: Mapping[str, str]
    transforms: Mapping[str, Transform] = field(default_factory=dict)

    def source(self, name: str) -> tuple[str, Transform]:
        if name.startswith("blocks."):
            _, index, rest = name.split(".", 2)
            return f"{self.blocks}.{index}.{_renamed(rest, self.block)}", _AS_IS
        return _renamed(name, self.other), self.transforms.get(name, _AS_IS)

    def roots(self) -> tuple[str, ...]:
        return (self.blocks, *self.other.values())


def _renamed(name: str, table: Mapping[str, str]) -> str:
    if name in table:
        return table[name]
    module, leaf = name.rsplit(".", 1)
    return f"{table[module]}.{leaf}"


_OPENAI_BLOCK: Final = {
    "norm1": "ln_1",
    "attention.qkv.weight": "attn.in_proj_weight",
    "attention.qkv.bias": "attn.in_proj_bias",
    "attention.out": "attn.out_proj",
    "scale1": "ls_1.gamma",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "scale2": "ls_2.gamma",
}

_OPENAI_VISION: Final = _Names(
    blocks="transformer.resblocks",
    block=_OPENAI_BLOCK,
    other={
        "patch_embed": "conv1",
        "class_token": "class_embedding",
        "position_embedding": "positional_embedding",
        "pre_norm": "ln_pre",
        "post_norm": "ln_post",
        "pool.probe": "attn_pool.probe",
        "pool.q.weight": "attn_pool.attn.in_proj_weight",
        "pool.q.bias": "attn_pool.attn.in_proj_bias",
        "pool.kv.weight": "attn_pool.attn.in_proj_weight",
        "pool.kv.bias": "attn_pool.attn.in_proj_bias",
        "pool.out": "attn_pool.attn.out_proj",
        "pool.norm": "attn_pool.layernorm",
        "pool.mlp.up": "attn_pool.mlp.c_fc",
        "pool.mlp.down": "attn_pool.mlp.c_proj",
        "projection.weight": "proj",
    },
    transforms={
        "pool.probe": _WITHOUT_TWO_AXES,
        "pool.q.weight": _QUERY_ROWS,
        "pool.q.bias": _QUERY_ROWS,
        "pool.kv.weight": _KEY_VALUE_ROWS,
        "pool.kv.bias": _KEY_VALUE_ROWS,
        "projection.weight": _TRANSPOSED,  # the file's is used as x @ proj
    },
)

_OPENAI_TEXT: Final = _Names(
    blocks="transformer.resblocks",
    block=_OPENAI_BLOCK,
    other={
        "token_embedding": "token_embedding",
        "position_embedding": "positional_embedding",
        "final_norm": "ln_final",
        "projection.weight": "text_projection",
    },
    transforms={"projection.weight": _TRANSPOSED},
)

_TIMM_VISION: Final = _Names(
    blocks="blocks",
    block={
        "norm1": "norm1",
        "attention.qkv": "attn.qkv",
        "attention.out": "attn.proj",
        "scale1": "gamma_1",
        "norm2": "norm2",
        "mlp.up": "mlp.fc1",
        "mlp.down": "mlp.fc2",
        "scale2": "gamma_2",
    },
    other={
        "patch_embed": "patch_embed.proj",
        "class_token": "cls_token",
        "position_embedding": "pos_embed",
        "pre_norm": "norm_pre",
        "post_norm": "norm",
        "pool.probe": "attn_pool.latent",
        "pool.q": "attn_pool.q",
        "pool.kv": "attn_pool.kv",
        "pool.out": "attn_pool.proj",
        "pool.norm": "attn_pool.norm",
        "pool.mlp.up": "attn_pool.mlp.fc1",
        "pool.mlp.down": "attn_pool.mlp.fc2",
        "projection.weight": "head.weight",
    },
    transforms={
        "class_token": _WITHOUT_TWO_AXES,
        "position_embedding": _WITHOUT_ONE_AXIS,
        "pool.probe": _WITHOUT_TWO_AXES,
    },
)


@dataclass(frozen=True, slots=True)
class NamingScheme:
    """One way of naming both towers. `marker` is the key that every file of this kind has."""

    title: str
    marker: str
    vision: _Names | None
    vision_prefix: str
    text: _Names | None
    text_prefix: str

    def source(self, name: str) -> tuple[str, Transform]:
        """Return the file's key for our parameter `name`, and what to do with its tensor."""
        if name == "logit_scale":
            return name, _SCALAR
        tower, rest = name.split(".", 1)
        is_vision = tower == "vision"
        names = self.vision if is_vision else self.text
        prefix = self.vision_prefix if is_vision else self.text_prefix
        if names is None:
            return name, _AS_IS
        key, transform = names.source(rest)
        return prefix + key, transform

    def is_text(self, key: str) -> bool:
        """Whether that key belongs to the text tower or the logit scale."""
        if key == "logit_scale":
            return True
        if self.text is None:
            return key.startswith(self.text_prefix)
        roots = tuple(self.text_prefix + root for root in self.text.roots())
        return key.startswith(tuple(root + "." for root in roots)) or key in roots


SCHEMES: Final = (
    NamingScheme("ours", "vision.patch_embed.weight", None, "vision.", None, "text."),
    NamingScheme(
        "open_clip's, with a timm vision tower",
        "visual.trunk.patch_embed.proj.weight",
        _TIMM_VISION,
        "visual.trunk.",
        _OPENAI_TEXT,
        "text.",
    ),
    NamingScheme(
        "Meta's and OpenAI's",
        "visual.conv1.weight",
        _OPENAI_VISION,
        "visual.",
        _OPENAI_TEXT,
        "",
    ),
    # Vision towers alone. The prefix of the text tower only serves to name what is missing.
    NamingScheme("timm's", "patch_embed.proj.weight", _TIMM_VISION, "", _OPENAI_TEXT, "text."),
    NamingScheme("Meta's vision tower", "conv1.weight", _OPENAI_VISION, "", _OPENAI_TEXT, "text."),
)


MARKERS: Final = frozenset(scheme.marker for scheme in SCHEMES)


def choose_open_clip_scheme(config: ModelConfig) -> NamingScheme:
    """Return the names of open_clip's own models: timm's towers for PE, OpenAI's for CLIP."""
    marker = "visual.trunk." if config.vision.has_rope else "visual.conv1."
    return next(scheme for scheme in SCHEMES if scheme.marker.startswith(marker))


def recognize_scheme(keys: Iterable[str]) -> NamingScheme:
    """Tell by its keys whose names a checkpoint uses.

    Raises:
        CheckpointError: nobody's that we know; the message shows some keys.
    """
    keys = set(keys)
    hint = explain_unexpected(keys)
    known = next((scheme for scheme in SCHEMES if scheme.marker in keys), None)
    if known is not None and not _is_peft(keys):
        return known
    if hint:
        raise CheckpointError(f"not the weights of a model alone{hint}")
    raise CheckpointError(
        f"these are not the weights of a Perception Encoder or CLIP: none of "
        f"{', '.join(scheme.marker for scheme in SCHEMES)} is among its {len(keys)} tensors"
        f"{list_names(sorted(keys), lead=', which are ')}"
    )


def _is_peft(keys: Iterable[str]) -> bool:
    return any(".lora_" in key or ".base_layer." in key for key in keys)


def explain_unexpected(keys: Iterable[str]) -> str:
    """Return what to do about tensors that no model of ours has; "" where that is not known."""
    keys = list(keys)
    if _is_peft(keys):
        return (
            ". These are the weights of a PEFT model in training: save its adapter with "
            "save_pretrained, or the model after merge_and_unload"
        )
    prefixes = sorted(
        {key.removesuffix(end) for key in keys for end in MARKERS if key.endswith("." + end)},
        key=len,
    )
    if prefixes:
        rest = [key for key in keys if not key.startswith(prefixes[0])]
        return (
            f". The model's names begin with {prefixes[0]!r}"
            f"{list_names(sorted(rest), lead=', but not those of ')}. Save the state_dict of that "
            "module alone"
        )
    return ""


def list_names(names: list[str], *, lead: str) -> str:
    """Return `lead`, the first ten names and the count of the rest; "" where there are none."""
    if not names:
        return ""
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return lead + ", ".join(names[:_LISTED]) + rest
