"""Makes a graph's weights smaller. Knows nothing about towers."""

import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from perception_encoder.backends.graph_files import DATA_SUFFIX

_SMALL = 1024  # numbers; biases and norms stay as they are


def write_int8(model: ir.Model, path: Path) -> None:
    """Write a graph whose matrices are int8, one scale a column, and multiplied as such.

    What they are multiplied with is rounded to 8 bits by its range in each call, so no pictures are
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

    An engine widens them when it opens the file, except a table that rows are looked up in: of that
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
