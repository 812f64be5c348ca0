"""Models without a checkpoint, for benchmarks and for tests of exporting.

Weights are random but keep activations near one, so that different inputs give different vectors.
"""

import math

import torch
from torch import Tensor

from perception_encoder.checkpoints.load import empty_model, fill
from perception_encoder.model import DualEncoder
from perception_encoder.registry import ModelConfig

# All tensors are cut from one block of normal values: drawing 2.4 B of them would take a minute.
# A prime length, so that no two rows of a matrix begin at the same place of the block.
_NUM_DRAWN = 4_194_301


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
        centre, spread = _distribution(name, tuple(parameter.shape), config)
        values = _cut(block, drawn, parameter.numel(), spread)
        state[name] = (values + centre if centre else values).view(parameter.shape)
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
