"""The models of a server: opened at the start or at first use, closed when idle or out of memory.

All models are known from the start, but for those of indexes whose model is changed meanwhile. A
request chooses one of them and can name no file or download.
"""

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perception_encoder.checkpoints import locate
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.text_tower import find_text_twin
from perception_encoder.errors import (
    ModelUnavailableError,
    PerceptionEncoderError,
    ServingError,
    UnknownModelError,
)
from perception_encoder.registry import ModelEntry, find
from perception_encoder.server.core.batcher import BatchLimits, BatchObserver
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.core.pools import WorkPool

logger = logging.getLogger(__name__)

_BYTES_OF_A_NUMBER: Final = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
_LOOK_EVERY: Final = 0.2  # of the time after which a model is idle
_CLOSE_SECONDS: Final = 10.0
_SLOW_DECODERS: Final = 8  # threads for images that take longer than a second to decode
_TOKENIZERS: Final = 2  # threads for long texts: they take turns with the interpreter's lock
_FIRST_PAUSE: Final = (
    5.0  # seconds after a model could not be opened; each further failure doubles it
)
_LONGEST_PAUSE: Final = 60.0


@dataclass(frozen=True)
class ModelState:
    """The public state of a model.

    Attributes:
        name: its name in requests.
        aliases: further names.
        is_loaded: whether it is in memory.
        load_seconds: the time that opening it took; None before.
        num_bytes: size of its weights, estimated; None before it was opened.
        error: why opening it failed the last time.
        entry: its registry entry; None for other models.
        worker: the loaded model.
    """

    name: str
    aliases: tuple[str, ...]
    is_loaded: bool
    load_seconds: float | None
    num_bytes: int | None
    error: str | None
    entry: ModelEntry | None
    worker: ModelWorker | None


class _Slot:
    """One model, loaded or not."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.entry = _registered(spec)
        # The id that indexes store for a file or folder, or a registered id.
        self.model_id = self.entry.id if self.entry else _model_id(spec)
        self.name = self.entry.id if self.entry else _name_of(spec)
        self.aliases: list[str] = []
        self.worker: ModelWorker | None = None
        self.opening: asyncio.Task[ModelWorker] | None = None
        self.num_users = 0
        self.last_used = time.monotonic()
        self.load_seconds: float | None = None
        self.num_bytes: int | None = None
        self.error: str | None = None
        self.num_failures = 0  # in a row
        self.tried_again_at = 0.0

    def note_failure(self, err: Exception) -> None:
        """Note that the model could not be opened; it is not tried again for a while."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self.num_failures)
        self.error = str(err) or type(err).__name__
        self.num_failures += 1
        self.tried_again_at = time.monotonic() + pause

    def refuse_while_failed(self) -> None:
        """Refuse a model that could not be opened a moment ago.

        Opening takes memory and seconds, and would most likely fail again.

        Raises:
            ModelUnavailableError: its pause has not ended.
        """
        seconds = math.ceil(self.tried_again_at - time.monotonic())
        if self.num_failures and seconds > 0:
            raise ModelUnavailableError(
                f"{self.name} cannot be opened: {self.error} (it is tried again in {seconds} s)",
                retry_after_seconds=seconds,
            )

    @property
    def state(self) -> ModelState:
        return ModelState(
            self.name,
            tuple(self.aliases),
            self.worker is not None,
            self.load_seconds,
            self.num_bytes,
            self.error,
            self.entry,
            self.worker,
        )


class ServedModels:
    """The models by name. All methods but `states` belong to one event loop.

    Attributes:
        is_ready: whether the models are open that are opened at the start.
        on_closed: called after a model was closed.

    Args:
        specs: ids, files or folders; the first is the default.
        open_model: opens one of them; called in a thread.
        limits: of each model's queues.
        decode_threads: shared by all models.
        observe: given a model's name and "image" or "text", returns who is told of its batches.
        unload_after_seconds: close a model that nobody used for so long; None never does.
        max_bytes: of weights in memory at once; None for no limit.
        aliases: further names, each with the model that it leads to.
    """

    def __init__(
        self,
        specs: Iterable[str],
        open_model: Callable[[str], EmbeddingModel],
        *,
        limits: BatchLimits,
        decode_threads: int,
        observe: Callable[[str, str], BatchObserver],
        unload_after_seconds: float | None = None,
        max_bytes: int | None = None,
        aliases: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._slots: dict[str, _Slot] = {}
        for spec in specs:
            self.add(spec)
        if not self._slots:
            raise ValueError("a server needs at least one model")
        for alias, target in aliases:
            self._add_alias(alias, target)
        self._open_model = open_model
        self._limits = limits
        self._observe = observe
        self.on_closed: Callable[[], None] = lambda: None
        self._unload_after = unload_after_seconds
        self._max_bytes = max_bytes
        # Waiting items have a slot in a model's queue, so these two need no limit of their own.
        self._decoders = WorkPool(
            "decoding images",
            num_threads=decode_threads,
            num_slow=_SLOW_DECODERS,
            max_waiting=sys.maxsize,
            timeout_seconds=limits.timeout_seconds,
        )
        self._tokenizers = WorkPool(
            "tokenizing long texts",
            num_threads=_TOKENIZERS,
            max_waiting=sys.maxsize,
            timeout_seconds=limits.timeout_seconds,
        )
        self.is_ready = False
        self._is_closing = False
        self._tidying: asyncio.Task[None] | None = None

    def add(self, spec: str) -> None:
        """Serve a model, too; it is opened at its first use. One that is served stays as it is.

        Any thread may call this.
        """
        if self._find(spec) is None:
            slot = _Slot(spec)
            self._slots[slot.name.lower()] = slot

    @property
    def names(self) -> list[str]:
        """Of all models, the default first."""
        return [slot.name for slot in list(self._slots.values())]

    def states(self) -> list[ModelState]:
        """Return the state of every model, the default first."""
        return [slot.state for slot in list(self._slots.values())]

    def resolve(self, name: str | None) -> str:
        """Return the name of a requested model; the default's for None.

        Other spellings of a registered id, and aliases, are accepted.

        Raises:
            UnknownModelError: this server has no such model.
        """
        return self._get_slot(name).name

    def text_model_of(self, model_id: str) -> str | None:
        """Return the name of the model that embeds texts for an index of some model.

        It is that model; for a vision-only one its twin, if this server has that. None where
        neither reads text.

        Raises:
            UnknownModelError: this server has no such model.
        """
        slot = self._get_slot(model_id)
        twin = find_text_twin(slot.model_id)
        if twin is None:
            return slot.name
        other = self._find(twin.id)
        return None if other is None else other.name

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[ModelWorker]:
        """Lend a model, opened first if it is not; it stays open while it is lent.

        Raises:
            UnknownModelError: this server has no such model.
            ModelUnavailableError: opening it failed, now or a moment ago.
            ServingError: there is no memory for it now, or the server is shutting down.
        """
        slot = self._get_slot(name)
        if slot.worker is not None and slot.worker.is_outdated:
            await self._close(slot)  # and opened again below, from the new weights
        slot.num_users += 1
        try:
            yield slot.worker or await self._ensure_open(slot)
        finally:
            slot.num_users -= 1
            slot.last_used = time.monotonic()

    async def load(self, name: str | None = None) -> ModelState:
        """Open a model if it is not open; raises as `use`."""
        async with self.use(name):
            return self._get_slot(name).state

    async def unload(self, name: str | None = None) -> bool:
        """Close a model when nobody uses it; return whether it was closed."""
        slot = self._get_slot(name)
        if slot.worker is None or slot.num_users:
            return False
        await self._close(slot)
        return True

    async def unload_all(self) -> None:
        """Close every model that nobody uses."""
        for name in self.names:
            await self.unload(name)

    async def start(self, *, preload: bool) -> None:
        """Open all models if `preload`, and begin to close idle ones.

        A model that cannot be opened is tried again by the first request after its pause.
        """
        for name in self.names if preload else ():
            try:
                await self.load(name)
            except PerceptionEncoderError:
                logger.debug("%s is tried again when it is asked for", name)
        self.is_ready = True
        if self._unload_after is not None:
            self._tidying = asyncio.create_task(self._tidy(self._unload_after))

    async def close(self) -> None:
        """Finish accepted requests, and close all models."""
        self._is_closing = True
        if self._tidying is not None:
            self._tidying.cancel()
        for slot in list(self._slots.values()):
            if slot.opening is not None:
                await asyncio.wait([slot.opening])
            await self._close(slot)
        self._decoders.close()
        self._tokenizers.close()

    def _get_slot(self, name: str | None) -> _Slot:
        if name is None:
            return next(iter(self._slots.values()))
        slot = self._find(name)
        if slot is None:
            raise UnknownModelError(
                f"this server has no model {name[:100]!r}; it has: {', '.join(self.names)}"
            )
        return slot

    def _find(self, name: str) -> _Slot | None:
        wanted = _spellings(name)
        for key, slot in list(self._slots.items()):
            if key in wanted or slot.model_id.lower() in wanted:
                return slot
        for slot in list(self._slots.values()):
            if any(wanted & _spellings(alias) for alias in slot.aliases):
                return slot
        return None

    def _add_alias(self, alias: str, target: str) -> None:
        slot = self._find(target)
        if slot is None:
            raise ValueError(
                f"{alias!r} cannot stand for {target!r}: the server has {', '.join(self.names)}"
            )
        if self._find(alias) is not None:
            raise ValueError(f"{alias!r} is the name of a model already; choose another alias")
        slot.aliases.append(alias)

    async def _ensure_open(self, slot: _Slot) -> ModelWorker:
        if slot.opening is None:
            slot.refuse_while_failed()
            slot.opening = asyncio.create_task(self._open(slot))
            slot.opening.add_done_callback(lambda _: setattr(slot, "opening", None))
        return await asyncio.shield(slot.opening)  # others wait for it, too

    async def _open(self, slot: _Slot) -> ModelWorker:
        if self._is_closing:
            raise ServingError("the server is shutting down; ask again later")
        await self._make_room(slot)
        started = time.monotonic()
        try:
            model = await asyncio.to_thread(self._open_model, slot.spec)
        except Exception as err:
            slot.note_failure(err)
            is_known = isinstance(err, PerceptionEncoderError)
            logger.error("%s cannot be opened: %s", slot.name, slot.error, exc_info=not is_known)
            raise ModelUnavailableError(
                f"{slot.name} cannot be opened: {slot.error}",
                retry_after_seconds=math.ceil(slot.tried_again_at - time.monotonic()),
            ) from err
        slot.error, slot.num_failures = None, 0
        slot.load_seconds = time.monotonic() - started
        slot.num_bytes = _num_bytes(slot, model)
        logger.info("opened %s in %.1f s", slot.name, slot.load_seconds)
        slot.worker = ModelWorker(
            slot.name,
            model,
            self._limits,
            self._decoders,
            self._tokenizers,
            lambda modality: self._observe(slot.name, modality),
        )
        return slot.worker

    async def _make_room(self, slot: _Slot) -> None:
        """Close the models used longest ago until this one's weights fit, too."""
        if self._max_bytes is None:
            return
        needed = slot.num_bytes or _expected_bytes(slot)
        while True:
            loaded = [other for other in list(self._slots.values()) if other.worker is not None]
            used = sum(other.num_bytes or 0 for other in loaded)
            if used + needed <= self._max_bytes or not loaded:
                return
            idle = [other for other in loaded if not other.num_users]
            if not idle:
                raise ServingError(
                    f"{slot.name} does not fit into memory beside the models in use; "
                    "ask again later",
                    retry_after_seconds=5,
                )
            await self._close(min(idle, key=lambda other: other.last_used))

    async def _close(self, slot: _Slot) -> None:
        worker, slot.worker = slot.worker, None
        if worker is not None:
            await asyncio.to_thread(worker.close, _CLOSE_SECONDS)
            self.on_closed()
            logger.info("closed %s", slot.name)

    async def _tidy(self, idle_seconds: float) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY * idle_seconds)
            for slot in list(self._slots.values()):
                is_idle = time.monotonic() - slot.last_used > idle_seconds
                if slot.worker is not None and not slot.num_users and is_idle:
                    await self._close(slot)


def _spellings(name: str) -> set[str]:
    entry = _registered(name)
    return {name.strip().lower()} | ({entry.id.lower()} if entry is not None else set())


def _registered(name: str) -> ModelEntry | None:
    try:
        return find(name)
    except UnknownModelError:
        return None


def _name_of(spec: str) -> str:
    name = Path(spec).stem if os.path.exists(spec) else spec
    return name.encode("utf-8", "backslashreplace").decode()  # requests must name it


def _model_id(spec: str) -> str:
    """Return the registered id of the model in a file or folder; its name where it has none."""
    try:
        return locate(spec, local_files_only=True).config.id
    except PerceptionEncoderError:
        return _name_of(spec)


def _num_bytes(slot: _Slot, model: EmbeddingModel) -> int | None:
    if slot.entry is None:
        return None
    return slot.entry.num_parameters * _BYTES_OF_A_NUMBER[model.backend.precision]


def _expected_bytes(slot: _Slot) -> int:
    return 4 * slot.entry.num_parameters if slot.entry is not None else 0
