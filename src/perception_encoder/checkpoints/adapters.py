"""Merge LoRA adapters, as the `peft` package saves them, into the weights of their base model.

An adapter is a folder of `adapter_config.json` and `adapter_model.safetensors`. It may have been
trained on open_clip's model, Meta's, OpenAI's or ours, whatever names the base's own file has. What
would change embeddings and is not merged here is refused by its name. Formulas and names: PEFT
0.21.2 tuners/lora/layer.py and dora.py, utils/save_and_load.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perception_encoder.checkpoints.names import SCHEMES, Shape, Transform, list_names
from perception_encoder.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_CONFIG_NAME: Final = "adapter_config.json"
ADAPTER_WEIGHTS_NAMES: Final = ("adapter_model.safetensors", "adapter_model.bin")

_MAX_BYTES: Final = 1 << 20  # of a config
_PREFIX: Final = "base_model.model."
_WRAPPERS: Final = frozenset({"base_layer", "modules_to_save", "module", "_orig_mod"})
_UNUSED: Final = "original_module"  # what bias="all" saves of a module that was trained whole
_MAX_DROPPED: Final = 4  # modules that held the model when it was trained
_LITERAL: Final = re.compile(r"\^?[\w.-]+")
# The output of nn.MultiheadAttention has the settings of the whole. PEFT adds its B A twice, in
# training (`forward`) as in `merge`: once itself, once by the layer's own `merge`.
_ATTENTION_OUTPUT: Final = re.compile(r"(.*)\.base_layer\.out_proj\.lora_")
# Fields that only say how the adapter was trained, or which modules it has; its tensors show that.
_FREE: Final = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
        *("revision", "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha"),
        *("lora_dropout", "bias", "use_rslora", "modules_to_save", "layers_to_transform"),
        *("layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core", "use_dora"),
        *("qalora_group_size", "lora_bias", "eva_config", "runtime_config", "ensure_weight_tying"),
        "fan_in_fan_out",  # the layers of these models are all nn.Linear, where PEFT overrides it
    }
)
# Other initializations (PiSSA, OLoRA, CorDA, LoftQ) change the base, which the adapter lacks.
_INITIALIZATIONS: Final = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The files of an adapter, found but not read."""

    config: Path
    weights: Path


@dataclass(slots=True)
class _Change:
    """What an adapter does to one module: W + scaling · B A, by rows in proportion with DoRA."""

    down: Tensor | None = None  # A: (r, in), a convolution's (r, in, h, w), an embedding's (r, V)
    up: Tensor | None = None  # B: (out, r), (out, r, 1, 1), (D, r)
    bias: Tensor | None = None  # (out,), added
    magnitude: Tensor | None = None  # (out,), DoRA's
    owner: str = ""  # the module that alpha_pattern names
    times: int = 1
    is_embedding: bool = False

    def delta(self, scaling: float) -> Tensor:
        """B A in float32, in the shape of the module's weight."""
        assert self.down is not None
        assert self.up is not None
        down, up = self.down.float(), self.up.float()
        product = up.flatten(1) @ down.flatten(1) * scaling
        if self.is_embedding:
            return product.T
        return product.reshape(len(up), *down.shape[1:])


@dataclass(slots=True)
class _Adapter:
    """A parsed adapter, in the names of the model that it was trained on."""

    data: Mapping[str, Any]
    changes: dict[str, _Change] = field(default_factory=dict)  # by module
    values: dict[str, Tensor] = field(default_factory=dict)  # whole parameters, which replace

    def scaling(self, change: _Change) -> float:
        """The factor of B A: alpha / r, or alpha / sqrt(r)."""
        assert change.down is not None
        rank = len(change.down)
        alpha = self.data.get("lora_alpha", 8)
        for pattern, value in (self.data.get("alpha_pattern") or {}).items():
            if _matches(pattern, change.owner):
                alpha = value
                break
        divisor = rank**0.5 if self.data.get("use_rslora") else rank
        return change.times * float(alpha) / divisor


def find_adapter(path: Path) -> AdapterFiles | None:
    """Return the adapter in a folder, or that a file belongs to; None where it is none.

    Raises:
        CheckpointError: the folder has an adapter's config without its weights.
    """
    folder = path if path.is_dir() else path.parent
    config = folder / ADAPTER_CONFIG_NAME
    if not config.is_file():
        return None
    if not path.is_dir() and path.name not in (*ADAPTER_WEIGHTS_NAMES, ADAPTER_CONFIG_NAME):
        return None
    for name in ADAPTER_WEIGHTS_NAMES:
        if (folder / name).is_file():
            return AdapterFiles(config, folder / name)
    raise CheckpointError(
        f"{folder}: an adapter without its weights: {' or '.join(ADAPTER_WEIGHTS_NAMES)} is missing"
    )


def read_base(adapter: AdapterFiles) -> tuple[str | None, str | None]:
    """Return the name or path of the model that an adapter was trained on, and its revision.

    Raises:
        CheckpointError: the config cannot be read, or is of another kind than LoRA.
    """
    data = _read_config(adapter.config)
    name, revision = data.get("base_model_name_or_path"), data.get("revision")
    return (str(name) if name else None), (str(revision) if revision else None)


def merge_adapter(adapter: AdapterFiles, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters that an adapter changes, merged: float32, or float64 where they were.

    Args:
        adapter: its files.
        state: the base model's parameters, in our names.

    Raises:
        CheckpointError: a tensor fits none of the parameters, or something cannot be merged.
    """
    parsed = _parse(adapter)
    sources = _find_sources(parsed, state, adapter.weights)
    merged: dict[str, Tensor] = {}

    def current(name: str) -> Tensor:
        import torch

        base = merged.get(name, state[name])
        return base.to(torch.promote_types(base.dtype, torch.float32))

    for key, value in parsed.values.items():
        for name, transform in sources[key]:
            merged[name] = transform.apply(value).to(current(name).dtype)
    for module, change in parsed.changes.items():
        scaling = parsed.scaling(change)
        delta = change.delta(scaling)
        for name, transform in sources[_weight_key(module, sources)]:
            weight = current(name) + transform.apply(delta)
            if change.magnitude is not None:
                norm = weight.flatten(1).norm(dim=1)
                weight = weight * (change.magnitude / norm)[:, None]
            merged[name] = weight
        if change.bias is not None:
            for name, transform in sources[f"{module}.bias"]:
                merged[name] = current(name) + transform.apply(change.bias * scaling)
    return {name: tensor.contiguous() for name, tensor in merged.items()}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_BYTES >> 20} MB, so no config")
        data = json.loads(content)
    except (OSError, ValueError, RecursionError) as err:
        raise CheckpointError(f"{path}: not readable as JSON ({err})") from err
    if not isinstance(data, dict) or data.get("peft_type") != "LORA":
        kind = data.get("peft_type") if isinstance(data, dict) else data
        raise CheckpointError(
            f"{path}: peft_type is {kind!r}; only 'LORA' is merged here. Merge it with peft "
            "(merge_and_unload) and save the model"
        )
    return data


def _parse(adapter: AdapterFiles) -> _Adapter:
    data = _read_config(adapter.config)
    for name in sorted(data.keys() - _FREE):
        allowed = _INITIALIZATIONS if name == "init_lora_weights" else ()
        if (data[name] or allowed) and data[name] not in allowed:
            raise CheckpointError(
                f"{adapter.config}: {name} is {data[name]!r}, which is not merged here. Merge it "
                "with peft (merge_and_unload) and save the model"
            )
    _check_scaling(data, adapter.config)
    parsed = _Adapter(data)
    from perception_encoder.checkpoints.tensors import open_raw_tensors

    tensors = open_raw_tensors(adapter.weights).tensors
    for key, tensor in tensors.items():
        _sort_in(parsed, key, tensor, adapter.weights)
    for module, change in parsed.changes.items():
        _check_pair(module, change, adapter.weights)
    if not tensors:
        raise CheckpointError(f"{adapter.weights}: holds no tensors")
    return parsed


def _check_scaling(data: Mapping[str, Any], path: Path) -> None:
    patterns = data.get("alpha_pattern") or {}
    numbers = [data.get("lora_alpha", 8)]
    if isinstance(patterns, dict):
        numbers += patterns.values()
    if not isinstance(patterns, dict) or not all(map(_LITERAL.fullmatch, patterns)):
        raise CheckpointError(
            f"{path}: alpha_pattern has names with other signs than letters and dots, which are "
            "not read here. Merge it with peft (merge_and_unload) and save the model"
        )
    if not all(isinstance(one, int | float) and abs(one) < 1e6 for one in numbers):
        raise CheckpointError(f"{path}: lora_alpha or alpha_pattern is no usable number")


def _sort_in(parsed: _Adapter, key: str, tensor: Tensor, path: Path) -> None:
    parts = [part for part in key.removeprefix(_PREFIX).split(".") if part not in _WRAPPERS]
    if not tensor.is_floating_point():
        raise CheckpointError(f"{path}: {key} is {tensor.dtype}, should be floating point")
    place = next((n for n, part in enumerate(parts) if part.startswith("lora_")), None)
    if place is None:
        name = ".".join(parts)
        # timm's projection has a bias of zeros, which ours lacks; bias="all" saves it, too.
        if _UNUSED not in parts and not (name.endswith("head.bias") and not tensor.any()):
            _put(parsed.values, name, tensor, path)
        return
    module = ".".join(parts[:place])
    change = parsed.changes.setdefault(module, _Change(owner=module))
    if inner := _ATTENTION_OUTPUT.match(key.removeprefix(_PREFIX)):
        change.owner, change.times = inner[1], 2
    slot = {
        "lora_A.weight": "down",
        "lora_B.weight": "up",
        "lora_B.bias": "bias",
        "lora_embedding_A": "down",
        "lora_embedding_B": "up",
        "lora_magnitude_vector": "magnitude",
        "lora_magnitude_vector.weight": "magnitude",
    }.get(".".join(parts[place:]))
    if slot is None:
        raise CheckpointError(
            f"{path}: {key} is not merged here. Merge it with peft (merge_and_unload) and save "
            "the model"
        )
    before = getattr(change, slot)
    if before is not None and not before.equal(tensor):
        raise CheckpointError(f"{path}: {key} is there twice, with two values")
    change.is_embedding = change.is_embedding or parts[place].startswith("lora_embedding")
    setattr(change, slot, tensor)


def _put(values: dict[str, Tensor], name: str, tensor: Tensor, path: Path) -> None:
    if name in values and not values[name].equal(tensor):
        raise CheckpointError(f"{path}: {name} is there twice, with two values")
    values[name] = tensor


def _check_pair(module: str, change: _Change, path: Path) -> None:
    down, up = change.down, change.up
    if down is None or up is None:
        raise CheckpointError(f"{path}: {module} has only one of its two matrices A and B")
    is_plain = down.ndim == up.ndim == 2 or (down.ndim == up.ndim == 4 and up.shape[2:] == (1, 1))
    if not is_plain or up.shape[1] != len(down) or not len(down):
        raise CheckpointError(
            f"{path}: {module} has A {tuple(down.shape)} and B {tuple(up.shape)}, which are not "
            "two matrices of one rank"
        )
    if change.magnitude is not None and (down.ndim != 2 or change.is_embedding):
        raise CheckpointError(
            f"{path}: {module} uses DoRA, which is merged here for linear layers only. Merge it "
            "with peft (merge_and_unload) and save the model"
        )


_Sources = dict[str, list[tuple[str, Transform]]]


def _find_sources(parsed: _Adapter, state: Mapping[str, Tensor], path: Path) -> _Sources:
    """Return our parameters for each of the adapter's names.

    The names are those of whatever module was trained: a whole model, a tower, or a module that
    held it.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    tables = list(_name_tables(shapes))
    fewest: list[str] | None = None
    found: list[_Sources] = []
    for dropped in range(_MAX_DROPPED + 1):
        for table in tables:
            sources, wrong = _look_up(parsed, table, shapes, dropped)
            if not wrong:
                found.append(sources)
            if fewest is None or len(wrong) < len(fewest):
                fewest = wrong
        if found:
            break
    else:
        raise CheckpointError(
            f"{path}: the adapter does not fit the model: no such parameters, or of other shapes"
            f"{list_names(sorted(fewest or []), lead=': ')}. Give the model that it was trained on"
        )
    targets = {frozenset(name for pairs in one.values() for name, _ in pairs) for one in found}
    if len(targets) > 1:
        raise CheckpointError(
            f"{path}: its names fit both the vision and the text tower. Save the adapter of the "
            "whole model, in which the towers have names"
        )
    return found[0]


def _name_tables(shapes: Mapping[str, Shape]) -> Iterator[_Sources]:
    """Yield, for each naming scheme, its names with our parameters."""
    for scheme in SCHEMES:
        table: _Sources = {}
        for name in shapes:
            key, transform = scheme.source(name)
            table.setdefault(key, []).append((name, transform))
        yield table


def _look_up(
    parsed: _Adapter, table: _Sources, shapes: Mapping[str, Shape], dropped: int
) -> tuple[_Sources, list[str]]:
    """Return where the adapter's names lead in one naming, and those that lead nowhere."""

    def source(key: str) -> list[tuple[str, Transform]]:
        return table.get(".".join(key.split(".")[dropped:]), [])

    def fits(pairs: list[tuple[str, Transform]], shape: Shape) -> bool:
        return bool(pairs) and all(
            shape in transform.file_shapes(shapes[name]) for name, transform in pairs
        )

    sources: _Sources = {}
    wrong: list[str] = []
    for key, value in parsed.values.items():
        sources[key] = source(key)
        if not fits(sources[key], tuple(value.shape)):
            wrong.append(key)
    for module, change in parsed.changes.items():
        key = next((k for k in _weight_keys(module) if source(k)), f"{module}.weight")
        sources[key] = source(key)
        expected: list[tuple[str, Shape]] = [(key, _product_shape(change))]
        if change.bias is not None:
            sources[f"{module}.bias"] = source(f"{module}.bias")
            expected.append((f"{module}.bias", tuple(change.bias.shape)))
        if change.magnitude is not None and any(
            tuple(change.magnitude.shape) != shapes[name][:1] for name, _ in sources[key]
        ):
            wrong.append(f"{module}.lora_magnitude_vector")
        wrong += [one for one, shape in expected if not fits(sources[one], shape)]
    return sources, wrong


def _weight_keys(module: str) -> tuple[str, str]:
    """The weight of a module that has an adapter; nn.MultiheadAttention's has another name."""
    return f"{module}.weight", f"{module}.in_proj_weight"


def _weight_key(module: str, sources: _Sources) -> str:
    return next(key for key in _weight_keys(module) if key in sources)


def _product_shape(change: _Change) -> Shape:
    assert change.down is not None
    assert change.up is not None
    if change.is_embedding:
        return (change.down.shape[1], change.up.shape[0])
    return (change.up.shape[0], *change.down.shape[1:])


def _matches(pattern: str, module: str) -> bool:
    """Whether PEFT's regular expression matches, of a pattern that is a plain name."""
    if pattern.startswith("^"):
        return module == pattern[1:]
    return module == pattern or module.endswith("." + pattern)
