"""Find a model's tensors among what training programs save: wrappers, prefixes and averages.

Wrappers are dictionaries around the tensors (`state_dict`, `model`) and, in names, the modules that
held the model (`module.`, `_orig_mod.`, `model.`). Which tensors there must be is decided later and
strictly: nothing is left out here but wrappers, counters and the set of weights not chosen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from perception_encoder.checkpoints.names import MARKERS
from perception_encoder.errors import CheckpointError

# What open_clip, timm, Lightning, DeepSpeed and common scripts save, and the attributes that hold
# a model in theirs. timm 1.0.31 models/_helpers.py `load_state_dict` has most of these names.
_PLAIN: Final = frozenset(
    {"state_dict", "model_state_dict", "model_state", "weights", "model", "net", "online_model"}
)
_AVERAGED: Final = frozenset(
    {"state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "model_ema_state_dict"}
)
# Modules that torch puts around a model or a part of it: DataParallel and AveragedModel,
# torch.compile, FSDP, activation checkpointing.
_TORCH_WRAPPERS: Final = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
_WRAPPERS: Final = _PLAIN | _AVERAGED | _TORCH_WRAPPERS
# Numbers that averaging keeps as tensors beside the weights.
_COUNTERS: Final = frozenset({"n_averaged", "decay", "num_updates", "updates", "initted", "step"})
_MAX_DEPTH: Final = 5  # of dictionaries in dictionaries


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The tensors of one model in a file.

    Attributes:
        stored: their names without wrappers, to the names in the file.
        choice: which of two sets of weights these are, for people; None where there is one.
    """

    stored: dict[str, str]
    choice: str | None = None


def flatten_wrappers(content: Mapping[Any, Any], tensor: type) -> dict[str, Any]:
    """Return the tensors of a parsed file; a wrapper's have its name and a dot before theirs.

    Beside a wrapper, files have counters, optimizers and random states, which are left out.

    Args:
        content: what the file holds.
        tensor: the class of a tensor.
    """
    return _flattened(content, tensor, _MAX_DEPTH)


def _flattened(content: Mapping[Any, Any], tensor: type, depth: int) -> dict[str, Any]:
    wrapped: dict[str, Any] = {}
    for key, value in content.items():
        if depth and key in _WRAPPERS and isinstance(value, Mapping):
            inner = _flattened(value, tensor, depth - 1)
            wrapped.update({f"{key}.{name}": one for name, one in inner.items()})
    return wrapped or {str(key): one for key, one in content.items() if isinstance(one, tensor)}


def find_model_names(keys: Iterable[str], *, ema: bool = True) -> ModelNames:
    """Free names of wrappers. A prefix that is no known wrapper is dropped where all have it.

    Args:
        keys: of all tensors of the file.
        ema: take averaged weights (an exponential moving average) where there are others, too.

    Raises:
        CheckpointError: several models of one kind, or two tensors of one name.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for key in keys:
        wrappers, name = _split(key)
        group = groups.setdefault(wrappers, {})
        if group.setdefault(name, key) != key:
            raise CheckpointError(
                f"{group[name]} and {key} are one tensor under two names. Save the model's own "
                "state_dict, once"
            )
    models = [
        wrappers for wrappers, group in groups.items() if not group.keys().isdisjoint(MARKERS)
    ]
    if not models:
        return _without_common_prefix(groups, ema=ema)
    averaged = [wrappers for wrappers in models if not _AVERAGED.isdisjoint(wrappers)]
    plain = [wrappers for wrappers in models if wrappers not in averaged]
    chosen = (averaged if ema else plain) or models
    if len(chosen) > 1:
        raise CheckpointError(
            f"holds several models ({', '.join(map(_spell, chosen))}). Save the state_dict of the "
            "one that you mean alone"
        )
    stored = {name: key for name, key in groups.pop(chosen[0]).items() if name not in _COUNTERS}
    others = [group for wrappers, group in groups.items() if wrappers not in models]
    for group in others:  # they fit no model, and the error that names them says the file's names
        stored.update({key: key for name, key in group.items() if name not in _COUNTERS})
    return ModelNames(stored, _describe(averaged, plain, chosen[0]))


def _split(key: str) -> tuple[tuple[str, ...], str]:
    """Return the wrappers before a name, torch's left out everywhere, and the name."""
    parts = [part for part in key.split(".") if part not in _TORCH_WRAPPERS]
    count = next((n for n, part in enumerate(parts[:-1]) if part not in _WRAPPERS), len(parts) - 1)
    return tuple(parts[:count]), ".".join(parts[count:])


def _without_common_prefix(
    groups: Mapping[tuple[str, ...], Mapping[str, str]], *, ema: bool
) -> ModelNames:
    names = {name: key for group in groups.values() for name, key in group.items()}
    first = {name.partition(".")[0] for name in names}
    if len(groups) == 1 and len(first) == 1 and all("." in name for name in names):
        shorter = {name.partition(".")[2]: key for name, key in names.items()}
        found = find_model_names(shorter, ema=ema)
        if not found.stored.keys().isdisjoint(MARKERS):
            return ModelNames({n: shorter[key] for n, key in found.stored.items()}, found.choice)
    return ModelNames({key: key for group in groups.values() for key in group.values()})


def _describe(
    averaged: list[tuple[str, ...]], plain: list[tuple[str, ...]], chosen: tuple[str, ...]
) -> str | None:
    if not (averaged and plain):
        return None
    is_averaged = chosen in averaged
    other = ", ".join(map(_spell, plain if is_averaged else averaged))
    kinds = ("averaged (EMA)", "plain") if is_averaged else ("plain", "averaged (EMA)")
    return (
        f"the {kinds[0]} weights {_spell(chosen)} are used, not the {kinds[1]} ones {other}; "
        f"ema={not is_averaged} takes those"
    )


def _spell(wrappers: tuple[str, ...]) -> str:
    return repr(".".join(wrappers)) if wrappers else "without a prefix"
