"""Write a model's graphs as ONNX files.

Weights are in a file beside each graph, which runtimes map instead of reading: one protobuf file
may not exceed 2 GiB, and takes twice its size in memory when it is opened.
"""

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.onnx import ops

from perception_encoder.backends.graph_cache import DATA_SUFFIX
from perception_encoder.backends.torch_devices import copy_sharing_weights
from perception_encoder.model import DualEncoder
from perception_encoder.model.blocks import Block, Rotation, SelfAttention
from perception_encoder.model.dual_encoder import TextGraph, VisionGraph
from perception_encoder.types import Precision

_SMALL: Final = 1024  # numbers; biases and norms stay as they are
OPSET: Final = 23  # the first with Attention and RotaryEmbedding


class OnnxAttention(nn.Module):
    """`SelfAttention` as RotaryEmbedding and Attention of opset 23; shares its weights."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.out = attention.out

    def forward(self, x: Tensor, rotation: Rotation | None, *, is_causal: bool) -> Tensor:
        """(B, N, D) to (B, N, D); see `SelfAttention.forward`."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, N, D) each
        if rotation is not None:
            cos, sin = (table.expand(x.shape[0], -1, -1) for table in rotation)  # (B, N, C/2) each
            q, k = (
                ops.rotary_embedding(part, cos, sin, interleaved=True, num_heads=self.num_heads)
                for part in (q, k)
            )
        mixed, *_ = ops.attention(
            q, k, v, is_causal=is_causal, q_num_heads=self.num_heads, kv_num_heads=self.num_heads
        )
        return self.out(mixed)  # type: ignore[no-any-return]


def use_onnx_attention(model: DualEncoder) -> DualEncoder:
    """Return the model with every block's attention so; the weights are shared, not copied."""
    changed = copy_sharing_weights(model)
    for module in changed.modules():
        if isinstance(module, Block):
            attention = module.attention
            module.attention = OnnxAttention(attention)  # type: ignore[assignment]
    return changed


def write_int8(model: ir.Model, path: Path) -> None:
    """Write a graph whose matrices are int8, one scale a column, and multiplied as such.

    What they are multiplied with is rounded to 8 bits by its range in each call, so no images are
    needed to calibrate. Tables that rows are looked up in become float16.
    """
    from onnxruntime.quantization import quantize_dynamic

    store_as_float16(model.graph, only_tables=True)
    root = logging.getLogger()
    root.addFilter(_is_no_advice)
    try:
        with tempfile.TemporaryDirectory(prefix=".int8.", dir=path.parent) as folder:
            exact = Path(folder) / path.name
            ir.save(model, exact, external_data=exact.name + DATA_SUFFIX)
            quantize_dynamic(
                exact,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                use_external_data_format=True,
                extra_options={
                    "MatMulConstBOnly": True,
                    "DefaultTensorType": ir.DataType.FLOAT.value,
                },
            )
    finally:
        root.removeFilter(_is_no_advice)
    # It lets nobody but the owner read the weights; let the user's umask decide, as for the graph.
    shutil.copymode(path, path.with_name(path.name + DATA_SUFFIX))


def _is_no_advice(record: logging.LogRecord) -> bool:
    """Leave out the advice to prepare a graph first: that is for graphs that were not optimized."""
    return "pre-processing before quantization" not in record.getMessage()


def store_as_float16(graph: ir.Graph, *, only_tables: bool = False) -> None:
    """Keep matrices in half the bytes; all is computed in float32 still.

    A backend widens them when it opens the file, except a table that rows are looked up in: of that
    it widens the rows.
    """
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALL:
            continue
        users = value.consumers()
        is_table = all(user.op_type == "Gather" for user in users)
        if only_tables and not is_table:
            continue
        half = ir.Value(
            name=f"{value.name}_float16",
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=_halved(tensor),
        )
        if is_table:
            for gather in users:
                gather.replace_input_with(0, half)
                _widen_after(graph, gather)
        else:
            cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT})
            graph.insert_before(graph[0], cast)
            ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        graph.initializers.pop(str(value.name))
        graph.initializers.add(half)


def _halved(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    name = f"{tensor.name}_float16"

    def converted() -> ir.TensorProtocol:
        # Numbers beyond float16 become infinite, and what they make of the vectors is refused.
        with np.errstate(over="ignore"):
            return ir.tensor(tensor.numpy().astype(np.float16), name=name)

    return ir.LazyTensor(
        converted,
        dtype=ir.DataType.FLOAT16,
        shape=ir.Shape(tensor.numpy().shape),
        name=name,
    )


def _widen_after(graph: ir.Graph, node: ir.Node) -> None:
    rows = node.outputs[0]
    cast = ir.node("Cast", [rows], {"to": ir.DataType.FLOAT})
    ir.convenience.replace_all_uses_with(rows, cast.outputs[0])
    cast.replace_input_with(0, rows)
    cast.outputs[0].shape, cast.outputs[0].type = rows.shape, rows.type
    rows.type = ir.TensorType(ir.DataType.FLOAT16)
    graph.insert_after(node, cast)


def write_onnx(
    model: DualEncoder, folder: Path, image_name: str, text_name: str, *, precision: Precision
) -> None:
    """Write the graph that reads images and, where the model reads text, the one that does.

    Images: `pixels` (B, S, S, 3) uint8, RGB, to the outputs of `VisionGraph`. Texts: `token_ids`
    (B, L) int64 to `embeddings` (B, E). All float32, not of unit length; B and L are free.

    Args:
        model: in float32, on the CPU.
        folder: exists.
        image_name: file for images.
        text_name: file for texts.
        precision: "fp32"; "fp16" for weights of half the size, computed in float32; "int8" for a
            quarter, multiplied as whole numbers.
    """
    config = model.config
    model = use_onnx_attention(model)
    batch = torch.export.Dim("batch")
    side = config.vision.image_size
    graph = VisionGraph(model)
    _write(
        graph,
        torch.zeros(2, side, side, 3, dtype=torch.uint8),
        folder / image_name,
        inputs={"pixels": {0: batch}},
        outputs=graph.output_names,
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
