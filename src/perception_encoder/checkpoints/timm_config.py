"""Reads the `config.json` of a timm hub snapshot: which registered model its weights are of.

timm's own transform for these models (bicubic, the shorter side) is not what they were trained
with, so images are prepared as Meta does. What else the file says must be as timm publishes it.
"""

from collections.abc import Mapping
from typing import Any, Final

from perception_encoder.errors import CheckpointError, UnknownModelError
from perception_encoder.registry import ModelEntry, find

_CHANNELS: Final = 3


def from_timm(data: Mapping[str, Any]) -> ModelEntry | None:
    """Return the registered model of a parsed config.json; None where it is of no such model.

    Raises:
        CheckpointError: the file does not say what timm publishes.
    """
    published, arguments = data.get("pretrained_cfg") or {}, data.get("model_args") or {}
    if not isinstance(published, Mapping) or not isinstance(arguments, Mapping):
        return None
    try:
        entry = find(f"timm/{data['architecture']}.{published.get('tag') or 'fb'}")
    except (KeyError, UnknownModelError):
        return None
    side = entry.config.vision.image_size
    expected: dict[str, tuple[Any, ...]] = {
        "mean": (list(entry.config.image.mean),),
        "std": (list(entry.config.image.std),),
        "interpolation": ("bicubic", "bilinear"),
        "input_size": ([_CHANNELS, side, side],),
        "crop_pct": (1.0,),
    }
    for field, values in expected.items():
        if field in published and published[field] not in values:
            raise _refused(f"pretrained_cfg.{field}", published[field], values)
    for field, value in arguments.items():
        if field != "img_size" or value not in (side, [side, side]):
            raise _refused(f"model_args.{field}", value, ("none",))
    return entry


def _refused(field: str, value: object, values: tuple[Any, ...]) -> CheckpointError:
    return CheckpointError(
        f"config.json: {field} is {value!r}; timm publishes {' or '.join(map(repr, values))}, and "
        "nothing else can be opened here. Use timm, or give the weights' path with model= to "
        "open them as the registered model"
    )
