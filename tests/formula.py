"""Weights, pixels and token ids made by formula, the same on every machine.

Golden outputs are recorded from the original implementations on these weights (`parity/`), and our
towers are compared with them on the same weights, so nobody's checkpoint is needed. A value is a
hash of (tensor name, element index): integers, then one float32 product and one sum, which IEEE 754
rounds alike everywhere. Knows nothing about torch or our package; needs numpy only.
"""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Shape = tuple[int, ...]

GOLDEN = Path(__file__).parent / "golden"
START_OF_TEXT, END_OF_TEXT = 49406, 49407

_CHUNK = 1 << 16  # elements: two buffers of 256 KiB stay in the second-level cache
_LOGIT_SCALE = math.log(100.0)

# Names under which the originals keep a bare (in, out) matrix used as `x @ matrix`.
_IN_OUT = ("proj", "text_projection")
# Added to activations. Small, as in trained checkpoints: the first norm then sees a variance near
# 1e-3, where a wrong epsilon shows.
_POSITIONS = ("positional_embedding", "pos_embed", "class_embedding", "cls_token")


@dataclass(frozen=True, slots=True)
class Fill:
    """How one tensor is filled: `center + spread * u`, u uniform in [-1, 1)."""

    spread: float
    center: float = 0.0


@dataclass(frozen=True, slots=True)
class Golden:
    """One golden file.

    Attributes:
        keys: Naming ("openclip" or "meta") to checkpoint key to shape.
        config: The numbers the original was built with.
        arrays: Recorded outputs, float32; names are listed in `tests/golden/README.md`.
    """

    keys: dict[str, dict[str, Shape]]
    config: dict[str, object]
    arrays: dict[str, Array]


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """Golden outputs from file bytes, or from texts.

    Attributes:
        rows: What is known of each file ("file", "sha256", "mode", ...) or text ("text").
        arrays: Recorded outputs, one line per row; names are listed in `tests/golden/README.md`.
    """

    rows: list[dict[str, Any]]
    arrays: dict[str, Array]


def rule(name: str, shape: Shape) -> Fill:
    """Choose the fill that keeps activations near 1 through 50 layers and outputs sensitive."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "logit_scale":
        return Fill(0.0, _LOGIT_SCALE)
    if name == "head.bias" or name.endswith("trunk.head.bias"):
        return Fill(0.0)  # as in timm's converted checkpoints: Meta's projection has no bias
    if leaf in ("gamma", "gamma_1", "gamma_2"):
        return Fill(0.05, 0.1)
    if leaf in ("probe", "latent"):
        return Fill(2.0)
    if leaf in _POSITIONS or name.endswith("token_embedding.weight"):
        return Fill(0.04)
    if name.endswith(("c_fc.bias", "fc1.bias")):
        return Fill(0.1, -1.0)  # moves inputs to the bend of GELU, where exact and tanh differ most
    if len(shape) == 1:
        return Fill(0.1, 1.0) if leaf == "weight" else Fill(0.1)
    fan_in = shape[0] if leaf in _IN_OUT else math.prod(shape[1:])
    return Fill(_gain(name, leaf) * math.sqrt(3.0 / fan_in))


def _gain(name: str, leaf: str) -> float:
    """Standard deviation of a matrix's output when its input has variance 1."""
    if "conv1" in name or "patch_embed" in name:
        return 0.08  # comparable with the positions it is added to
    if "in_proj" in leaf or ".qkv." in name or ".attn_pool.q." in name or ".attn_pool.kv." in name:
        return 1.5  # sharper attention: near-uniform attention would hide errors in rope
    if ".c_proj." in name or ".fc2." in name:
        return 2.0  # undoes what the biases of the layer before take away
    return 1.0


def fill(name: str, shape: Shape) -> Array:
    """Fill the tensor called `name` (its key in the source checkpoint) by formula."""
    how = rule(name, shape)
    return _uniform(zlib.crc32(name.encode()), math.prod(shape), how).reshape(shape)


def formula_state(keys: dict[str, Shape]) -> dict[str, Array]:
    """Fill a whole checkpoint: key to float32 array."""
    return {name: fill(name, tuple(shape)) for name, shape in keys.items()}


def pixels(batch: int, height: int, width: int, *, seed: int = 0) -> Array:
    """Make (batch, 3, height, width) float32 in [-1, 1]: a few smooth blobs plus fine noise."""
    planes = [
        _plane(f"pixels/{seed}/{image}/{channel}", height, width)
        for image in range(batch)
        for channel in range(3)
    ]
    return np.stack(planes).reshape(batch, 3, height, width).astype(np.float32)


def image(name: str, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """Make a (height, width, channels) uint8 image, a pure function of its name and size."""
    planes = [_plane(f"{name}/{channel}", height, width, noise=0.05) for channel in range(channels)]
    return np.floor((np.stack(planes, axis=-1) + 1.0) * 127.999).astype(np.uint8)


def token_ids(context: int) -> NDArray[np.int64]:
    """Make (4, context) token ids: one word, ten tokens, a full context, and no word at all."""
    counts = (1, 8, context - 2, 0)
    rows = np.zeros((len(counts), context), dtype=np.int64)
    for row, count in enumerate(counts):
        u = _uniform(zlib.crc32(b"tokens/%d" % row), count, Fill(1.0)).astype(np.float64)
        words = np.floor((u + 1.0) / 2.0 * (START_OF_TEXT - 256)).astype(np.int64) + 256
        rows[row, : count + 2] = [START_OF_TEXT, *words, END_OF_TEXT]
    return rows


def load_golden(name: str) -> Golden:
    """Read a model's golden file, `tests/golden/NAME.npz`."""
    header, arrays = _read(name)
    keys = {
        naming: {key: tuple(shape) for key, shape in shapes.items()}
        for naming, shapes in header["keys"].items()
    }
    return Golden(keys=keys, config=header["config"], arrays=arrays)


def load_end_to_end(name: str) -> EndToEnd:
    """Read `images`, `photos` or `texts` from `tests/golden/`."""
    header, arrays = _read(name)
    return EndToEnd(rows=header["rows"], arrays=arrays)


def load_arrays(name: str) -> dict[str, Array]:
    """Read the arrays of a golden file that describes several models, such as `sizes`."""
    return _read(name)[1]


def load_several(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a golden file that describes several models, with its header."""
    return _read(name)


def _read(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        return header, {key: file[key] for key in file.files if key != "header"}


def _uniform(seed: int, count: int, how: Fill) -> Array:
    """Hash (seed, 0..count-1) to float32, by the first two rounds of the mixer "lowbias32"."""
    if how.spread == 0.0 or count == 0:
        return np.full(count, how.center, dtype=np.float32)
    out = np.empty(count, dtype=np.float32)
    # 24 bits convert to float32 exactly, so only the product and the sum round.
    scale, center = np.float32(how.spread / 2**23), np.float32(how.center)
    steps = np.arange(min(count, _CHUNK), dtype=np.uint32) * np.uint32(0x9E3779B1)
    shifted = np.empty_like(steps)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        # The seed enters by xor after the multiplication: adding it would make every tensor a
        # window of one long sequence, and windows overlap.
        bits = steps[:size] + np.uint32(start * 0x9E3779B1 & 0xFFFFFFFF)
        bits ^= np.uint32(seed)
        _mix(bits, shifted[:size])
        part = out[start : start + size]
        part[:] = bits.view(np.int32)
        part *= scale
        if how.center:
            part += center
    return out


def _mix(bits: NDArray[np.uint32], shifted: NDArray[np.uint32]) -> None:
    """Mix in place and leave a signed 24-bit number (as int32 bits) in each element."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        np.right_shift(bits, shift, out=shifted)
        bits ^= shifted
        bits *= np.uint32(factor)
    signed = bits.view(np.int32)
    signed >>= 8


def _plane(name: str, height: int, width: int, *, noise: float = 0.2) -> NDArray[np.float64]:
    """Make one plane in [-1, 1]: a coarse random grid, interpolated, plus noise."""
    coarse = _uniform(zlib.crc32(name.encode()), 25, Fill(1.0)).astype(np.float64).reshape(5, 5)
    fine = _uniform(zlib.crc32(f"{name}/noise".encode()), height * width, Fill(1.0))
    smooth = _stretch(_stretch(coarse, height).T, width).T
    rough = fine.reshape(height, width).astype(np.float64)
    return np.clip((1.0 - noise) * smooth + noise * rough, -1.0, 1.0)


def _stretch(grid: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Interpolate linearly along the first axis to `size` rows."""
    at = (np.arange(size, dtype=np.float64) * (grid.shape[0] - 1)) / max(size - 1, 1)
    low = np.minimum(at.astype(np.int64), grid.shape[0] - 2)
    part = (at - low)[:, None]
    return grid[low] * (1.0 - part) + grid[low + 1] * part
