"""Load a located checkpoint into a module, without holding the weights twice.

The module is built without memory (torch's meta device), and its parameters become views of the
mapped file. Only another precision costs memory, and then one part of the file at a time is mapped.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from perception_encoder.checkpoints.adapters import merge_adapter
from perception_encoder.checkpoints.locate import Checkpoint
from perception_encoder.checkpoints.remap import ParameterPart, plan_parameters
from perception_encoder.checkpoints.tensors import WatchedFile, fingerprint_of, open_tensors
from perception_encoder.errors import CheckpointError
from perception_encoder.model import DualEncoder
from perception_encoder.registry import ModelConfig

logger = logging.getLogger(__name__)

_NUM_CHUNKS: Final = 10  # the file is mapped in so many turns while precision is converted
# All tensors are cut from one block of normal values: drawing 2.4 B of them would take a minute.
# A prime length, so that no two rows of a matrix begin at the same place of the block.
_NUM_DRAWN: Final = 4_194_301


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode without gradients, and the name of its weights.

    `fingerprint` and `logit_scale` are of the weights as stored and merged with an adapter, before
    any conversion. A cosine is
    multiplied by `logit_scale` before a softmax; it is 1.0 for models without text. `watched` is
    the file where parameters are views of it, to be checked whenever the model is used.
    """

    model: DualEncoder
    fingerprint: str
    logit_scale: float
    watched: Sequence[WatchedFile] = ()


def load_model(checkpoint: Checkpoint, *, dtype: torch.dtype | None = None) -> LoadedModel:
    """Load a checkpoint of any supported layout onto the CPU.

    Args:
        checkpoint: what `locate` returned.
        dtype: the parameters' floating-point type. None keeps the file's (the widest, where it has
            several), and then nothing is copied: the file's pages are read when first used, and it
            must not be truncated while the model lives.

    Raises:
        CheckpointError: the file is damaged, its tensors do not fit the model exactly, or it was
            overwritten meanwhile.
    """
    path = checkpoint.path
    if checkpoint.graphs is not None:
        raise CheckpointError(
            f"{path.parent} is an export for {checkpoint.graphs.backend}: weights cannot be read "
            "back from it. Give the model that it was made from"
        )
    model = empty_model(checkpoint.config)
    watched = [WatchedFile(file) for file in checkpoint.list_files()]
    file = open_tensors(path, ema=checkpoint.ema)
    is_mapped = file.is_mapped
    try:
        pieces = plan_parameters(file.tensors, _shapes(model))
    except CheckpointError as err:
        raise CheckpointError(
            f"{path}: taken for {checkpoint.config.id}, {err}. If it is another model's, say which "
            "with model="
        ) from err
    if file.choice is not None:
        logger.warning("%s: %s", path, file.choice)
    state = {name: piece.take(file.tensors) for name, piece in pieces.items()}
    merged = merge_adapter(checkpoint.adapter, state) if checkpoint.adapter is not None else {}
    state |= merged
    fingerprint = fingerprint_of(state, checkpoint.config)
    logit_scale = float(state["logit_scale"].float().exp()) if "logit_scale" in state else 1.0
    target = dtype or reduce(torch.promote_types, {tensor.dtype for tensor in state.values()})
    if any(tensor.dtype != target for tensor in state.values()):
        del file, state  # lets go of the mapping, and so of the pages that the fingerprint read
        state = _converted(checkpoint, pieces, target)
        state |= {name: tensor.to(target) for name, tensor in merged.items()}
        is_mapped = False
    for one in watched:
        one.check()
    return LoadedModel(fill(model, state), fingerprint, logit_scale, watched if is_mapped else [])


def build_from_tensors(config: ModelConfig, tensors: Mapping[str, Tensor]) -> DualEncoder:
    """Build a model from tensors in any supported naming, sharing their memory.

    Raises:
        CheckpointError: the tensors do not fit the model exactly.
    """
    model = empty_model(config)
    pieces = plan_parameters(tensors, _shapes(model))
    return fill(model, {name: piece.take(tensors) for name, piece in pieces.items()})


def empty_model(config: ModelConfig) -> DualEncoder:
    """Build a model whose parameters have shapes but no memory."""
    with torch.device("meta"), _WithoutValues():
        return DualEncoder(config)


def logit_scale_of(model: DualEncoder) -> float:
    """What the model multiplies a cosine by before a softmax; 1.0 where it reads no text."""
    return float(model.logit_scale.float().exp()) if model.config.text is not None else 1.0


def fill(model: DualEncoder, state: Mapping[str, Tensor]) -> DualEncoder:
    """Give an empty model its tensors, in our own naming: eval mode, no gradients, no copies."""
    model.load_state_dict(dict(state), strict=True, assign=True)
    return model.eval().requires_grad_(False)


class _WithoutValues(TorchFunctionMode):
    """Skips what a model's constructor computes, where only shapes are wanted.

    On tensors without memory, torch does these operations in Python and imports its compiler for
    them: two seconds for nothing.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func in (nn.init.normal_, Tensor.normal_, Tensor.log):
            return args[0] if args else None
        return func(*args, **(kwargs or {}))


def _shapes(model: DualEncoder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _converted(
    checkpoint: Checkpoint, pieces: Mapping[str, ParameterPart], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Copy all parameters into `dtype`.

    Pages of a mapped file count as this process's memory until the mapping goes, so it is opened
    anew for every chunk; opening costs milliseconds.
    """
    file = open_tensors(checkpoint.path, ema=checkpoint.ema)
    chunks = list(_chunks(pieces, file.tensors)) if file.is_mapped else [list(pieces)]
    state: dict[str, Tensor] = {}
    for names in chunks:
        if file.is_mapped:
            file = open_tensors(checkpoint.path, ema=checkpoint.ema)
        for name in names:
            state[name] = pieces[name].take(file.tensors).to(dtype, copy=True)
    return state


def _chunks(
    pieces: Mapping[str, ParameterPart], tensors: Mapping[str, Tensor]
) -> Iterator[list[str]]:
    limit = sum(tensors[piece.key].nbytes for piece in pieces.values()) / _NUM_CHUNKS
    chunk: list[str] = []
    size = 0
    for name, piece in pieces.items():
        chunk.append(name)
        size += tensors[piece.key].nbytes
        if size >= limit:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def random_model(
    config: ModelConfig, seed: int = 0, *, device: torch.device | str = "cpu"
) -> DualEncoder:
    """Build a float32 model with random weights: eval mode, no gradients.

    They are the same for one seed and kind of device; on a GPU they never lie in this machine's
    memory.
    """
    model = empty_model(config)
    parameters = dict(model.named_parameters())
    count = min(_NUM_DRAWN, sum(parameter.numel() for parameter in parameters.values()))
    generator = torch.Generator(device).manual_seed(seed)
    block = torch.randn(count, generator=generator, device=device)
    state: dict[str, Tensor] = {}
    drawn = 0
    for name, parameter in parameters.items():
        center, spread = _distribution(name, tuple(parameter.shape), config)
        values = _cut(block, drawn, parameter.numel(), spread)
        state[name] = (values + center if center else values).view(parameter.shape)
        drawn += parameter.numel()
    return fill(model, state)


def _cut(block: Tensor, start: int, count: int, spread: float) -> Tensor:
    """(count,) values from position `start` of the block repeated for ever, times `spread`."""
    values = torch.empty(count, device=block.device)
    done = 0
    while done < count:
        at = (start + done) % len(block)
        size = min(count - done, len(block) - at)
        torch.mul(block[at : at + size], spread, out=values[done : done + size])
        done += size
    return values


def _distribution(name: str, shape: tuple[int, ...], config: ModelConfig) -> tuple[float, float]:
    """Mean and standard deviation of one parameter's values."""
    module, _, leaf = name.rpartition(".")
    if name == "logit_scale":
        return math.log(1 / 0.07), 0.0
    if leaf in ("scale1", "scale2"):
        return config.vision.layer_scale or 1.0, 0.0
    if leaf == "bias":
        return 0.0, 0.02
    if leaf == "weight" and len(shape) == 1:
        return 1.0, 0.1
    if leaf in ("class_token", "position_embedding") or module.endswith("token_embedding"):
        return 0.0, 0.5
    if leaf == "probe":
        return 0.0, 1.0
    return 0.0, math.prod(shape[1:]) ** -0.5
