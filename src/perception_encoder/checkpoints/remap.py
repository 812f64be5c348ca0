"""How a model's parameters are made from a checkpoint's tensors, completely or not at all.

Knows tensors and names, but no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from perception_encoder.checkpoints.names import Shape, Transform, listed, recognise
from perception_encoder.errors import CheckpointError

# Buffers and numbers that some files carry and that no computation of ours reads.
_IGNORED = frozenset(
    {"attn_mask", "text.attn_mask", "input_resolution", "context_length", "vocab_size"}
)
# timm's classifier always has a bias; its converter writes zeros, as the original has none.
_ZERO_BIASES = frozenset({"head.bias", "visual.trunk.head.bias"})


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one of our parameters comes from."""

    key: str
    transform: Transform

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return our parameter: a view of the file's tensor wherever that can be contiguous."""
        tensor: Tensor = self.transform.apply(tensors[self.key])
        return tensor.contiguous()


def plan(tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> dict[str, Piece]:
    """Match a checkpoint with a model, completely.

    Args:
        tensors: the file's tensors; only shapes and dtypes are read, and a timm bias's values.
        wanted: our parameters' shapes. Without a text tower among them, the file's is left out.

    Returns:
        Our parameter names, in order, each with its piece.

    Raises:
        CheckpointError: unknown names, or tensors missing, unexpected or misshapen; all are counted
            and the first ten of each kind listed, in the file's own names.
    """
    scheme = recognise(tensors)
    pieces = {name: Piece(*scheme.source(name)) for name in wanted}
    missing = sorted({piece.key for piece in pieces.values()} - tensors.keys())
    unexpected = sorted(tensors.keys() - {piece.key for piece in pieces.values()} - _IGNORED)
    if "logit_scale" not in wanted:
        unexpected = [key for key in unexpected if not scheme.is_text(key)]
    unexpected = [key for key in unexpected if not _is_zero_bias(key, tensors)]
    misshapen = _misshapen(pieces, tensors, wanted)
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"the weights (names: {scheme.title}) do not fit the model: "
            + "; ".join(
                f"{len(names)} {kind}{listed(names, lead=': ')}"
                for kind, names in (
                    ("missing", missing),
                    ("unexpected", unexpected),
                    ("misshapen", misshapen),
                )
                if names
            )
        )
    return pieces


def _is_zero_bias(key: str, tensors: Mapping[str, Tensor]) -> bool:
    return key in _ZERO_BIASES and not bool(tensors[key].any())


def _misshapen(
    pieces: Mapping[str, Piece], tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]
) -> list[str]:
    found: dict[str, str] = {}
    for name, piece in pieces.items():
        tensor = tensors.get(piece.key)
        if tensor is None:
            continue
        allowed = piece.transform.file_shapes(wanted[name])
        shape = tuple(tensor.shape)
        if shape not in allowed:
            found[piece.key] = f"{piece.key} is {shape}, should be {allowed[0]}"
        elif not tensor.is_floating_point():
            found[piece.key] = f"{piece.key} is {tensor.dtype}, should be floating point"
    return sorted(found.values())
