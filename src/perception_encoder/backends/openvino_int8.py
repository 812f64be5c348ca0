"""Graphs in 8 bits, by NNCF. Knows graphs and arrays; nothing of towers or files."""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Final

import openvino as ov

from perception_encoder.errors import BackendUnavailableError
from perception_encoder.types import Pixels

# Scores of attention, the patches, pooling and projection are a few percent of the work, and what
# they lose is not made good by any later layer: docs/reference/experiments.md.
_KEPT: Final = [
    ".*scaled_dot_product_attention.*",
    ".*patch_embed.*",
    r".*vision\.pool.*",
]


def quantize(graph: ov.Model, pictures: Iterable[Pixels]) -> ov.Model:
    """Let a graph that reads pictures multiply in int8.

    Args:
        graph: with one input.
        pictures: batches for it, of pictures like those that it will see; all are read.

    Returns:
        Another graph: weights int8 with a scale for each channel, activations with ranges that were
        measured on the pictures.

    Raises:
        BackendUnavailableError: nncf is not installed.
        ValueError: there are no pictures.
    """
    batches = list(pictures)
    if not batches:
        raise ValueError("int8 needs pictures to measure ranges on")
    require_nncf()
    import nncf

    with _silence():
        return nncf.quantize(
            graph,
            nncf.Dataset(batches),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(_last_products(graph), patterns=_KEPT, validate=False),
            # Moving outliers from activations to weights fits the pictures it was measured on too
            # well: with drawings, photos came out at a cosine of 0.92 in place of 0.998.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1)
            ),
        )


def _last_products(graph: ov.Model) -> list[str]:
    """Name the projection: a later step that is dropped leaves it another name than its module's.

    In int8 it alone takes a drawing of one colour from a cosine of 0.9990 to 0.9910.
    """
    ends = [result.input_value(0).get_node() for result in graph.get_results()]
    return [node.get_friendly_name() for node in ends if node.get_type_name() == "MatMul"]


def with_int8_weights(graph: ov.Model) -> ov.Model:
    """Keep a graph's matrices in int8: what reads one text waits for memory.

    Where the CPU multiplies int8, the engine rounds what they are multiplied with at run time.

    Raises:
        BackendUnavailableError: nncf is not installed.
    """
    require_nncf()
    import nncf

    with _silence():
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)


def require_nncf() -> None:
    """Refuse where nncf is missing.

    Raises:
        BackendUnavailableError: it is.
    """
    if importlib.util.find_spec("nncf") is None:
        raise BackendUnavailableError(
            "making int8 graphs needs nncf: pip install 'perception-encoder[int8]'. "
            "Once made, they run without it"
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep NNCF's progress bars and advice from users: what commands print is data."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
