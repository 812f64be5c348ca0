"""Writes a model's graphs as ONNX files. Knows torch and onnx; nothing about folders of models.

Weights lie beside each graph in a file of their own, which runtimes map instead of reading: one
protobuf file may not exceed 2 GiB, and takes twice its size in memory when it is opened.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from perception_encoder.backends.graph_files import DATA_SUFFIX
from perception_encoder.backends.onnx_attention import with_onnx_attention
from perception_encoder.backends.onnx_precision import store_as_float16, write_int8
from perception_encoder.model import DualEncoder
from perception_encoder.model.graphs import TextGraph, VisionGraph
from perception_encoder.types import Precision

OPSET = 23  # the first with Attention and RotaryEmbedding


def write_onnx(
    model: DualEncoder, folder: Path, image_name: str, text_name: str, *, precision: Precision
) -> None:
    """Write the graph that reads pictures and, where the model reads text, the one that does.

    Pictures: `pixels` (B, S, S, 3) uint8, RGB, to `embeddings` (B, E), where the tower pools, and
    `features` (B, h·w, D). Texts: `token_ids` (B, L) int64 to `embeddings` (B, E). All float32, not
    of unit length; B and L are free.

    Args:
        model: in float32, on the CPU.
        folder: exists.
        image_name: file for pictures.
        text_name: file for texts.
        precision: "fp32"; "fp16" for weights of half the size, computed in float32; "int8" for a
            quarter, multiplied as whole numbers.
    """
    config = model.config
    model = with_onnx_attention(model)
    batch = torch.export.Dim("batch")
    side = config.vision.image_size
    pooled = ["embeddings"] if config.embed_dim is not None else []
    _write(
        VisionGraph(model),
        torch.zeros(2, side, side, 3, dtype=torch.uint8),
        folder / image_name,
        inputs={"pixels": {0: batch}},
        outputs=[*pooled, "features"],
        precision=precision,
    )
    if config.text is None:
        return
    length = torch.export.Dim("length", min=2, max=config.text.context_length)
    _write(
        TextGraph(model),
        torch.full((2, min(9, config.text.context_length - 1)), config.text.vocab_size - 1),
        folder / text_name,
        inputs={"token_ids": {0: batch, 1: length}},
        outputs=["embeddings"],
        precision=precision,
    )


def _write(
    module: nn.Module,
    sample: torch.Tensor,
    path: Path,
    *,
    inputs: dict[str, dict[int, torch.export.Dim]],
    outputs: list[str],
    precision: Precision,
) -> None:
    with _silence():
        program = torch.onnx.export(
            module.eval(),
            (sample,),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(inputs.values()),
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export returns a program unless it was given a path")
    for node in program.model.graph:
        node.metadata_props.clear()  # names of this machine's files, and half of the graph's bytes
    if precision == "fp16":
        store_as_float16(program.model.graph)
    if precision == "int8":
        write_int8(program.model, path)
    else:
        ir.save(program.model, path, external_data=path.name + DATA_SUFFIX)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's own remarks, about operators that no tower has, from users."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
