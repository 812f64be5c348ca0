"""Which of this server's models a request means, and what this dialect calls them."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from perception_encoder.errors import UnknownModelError
from perception_encoder.server.core.engine import Engine
from perception_encoder.server.core.engines import ModelState
from perception_encoder.server.dialects.roboflow.bodies import Body
from perception_encoder.server.services import Services


@dataclass(frozen=True)
class Kind:
    """One of the two kinds of model that have routes of their own.

    Attributes:
        prefix: of its routes and model ids.
        other_prefixes: that also begin its model ids.
        version_of: the version that a body names, if any.
        default_version: taken where a request names none; None for the server's first model.
    """

    prefix: str
    other_prefixes: tuple[str, ...]
    version_of: Callable[[Body], str | None]
    default_version: str | None

    def version(self, name: str) -> str:
        """Return a model's name without the prefix."""
        for prefix in (self.prefix, *self.other_prefixes):
            if name.lower().startswith(f"{prefix}/"):
                return name[len(prefix) + 1 :]
        return name


PERCEPTION_ENCODER: Final = Kind(
    "perception_encoder",
    ("perception-encoder",),
    lambda body: body.perception_encoder_version_id,
    None,
)
CLIP: Final = Kind("clip", (), lambda body: body.clip_version_id, "ViT-B-16")


@dataclass(frozen=True)
class Lent:
    """A model for the time of one request.

    Attributes:
        engine: the model.
        model_id: what this dialect calls it.
        load_seconds: that opening it took for this very request; None where it was open.
        started: when the request asked for it, by `time.perf_counter`.
    """

    engine: Engine
    model_id: str
    load_seconds: float | None
    started: float


@asynccontextmanager
async def lend(services: Services, kind: Kind, body: Body) -> AsyncIterator[Lent]:
    """Lend the model that a request means; raises as `Engines.use`."""
    started = time.perf_counter()
    name = _meant(services, kind, body)
    was_loaded = state_of(services, name).is_loaded
    async with services.engines.use(name) as engine:
        state = state_of(services, name)
        yield Lent(
            engine, model_id(state), None if was_loaded else state.load_seconds or 0.0, started
        )


def resolve(services: Services, name: str, kind: Kind | None = None) -> str:
    """Return the server's name of a model that a client calls `prefix/version` or `version`.

    Raises:
        UnknownModelError: the server has none of that name.
    """
    kind = kind or (CLIP if name.lower().startswith("clip/") else PERCEPTION_ENCODER)
    version = kind.version(name.strip())
    for spelling in (version, f"{kind.prefix}/{version}"):
        try:
            return services.engines.resolve(spelling)
        except UnknownModelError:
            continue
    raise UnknownModelError(
        f"this server has no model {kind.prefix}/{version[:100]}; it has: "
        + ", ".join(model_id(state) for state in services.engines.states())
        + " (pe serve --model adds one, --alias lets one answer to another name)"
    )


def model_id(state: ModelState) -> str:
    """Return what this dialect calls a model."""
    kind = CLIP if is_clip(state) else PERCEPTION_ENCODER
    return f"{kind.prefix}/{kind.version(state.name)}"


def is_clip(state: ModelState) -> bool:
    """Say whether a model is one of OpenAI's, whose vectors are no Perception Encoder's."""
    return state.entry is not None and state.entry.family == "CLIP"


def state_of(services: Services, name: str) -> ModelState:
    """Return the state of a model by the server's name of it."""
    return next(state for state in services.engines.states() if state.name == name)


def described(lent: Lent) -> dict[str, Any]:
    """Return what replies say of the model that answered, whatever name it was asked by."""
    backend = lent.engine.model.backend
    return {
        "model_id": lent.model_id,
        "model_package_id": lent.engine.identity.fingerprint,
        "backend": backend.name,
        "quantization": backend.precision,
    }


def _meant(services: Services, kind: Kind, body: Body) -> str:
    named = kind.version_of(body) or body.model_id or kind.default_version
    if named is not None:
        return resolve(services, named, kind)
    for state in services.engines.states():
        if not is_clip(state):
            return state.name
    raise UnknownModelError(
        f"this server has no Perception Encoder; it has: {', '.join(services.engines.names)}"
    )
