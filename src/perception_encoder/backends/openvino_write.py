"""Write a model's graphs as OpenVINO files.

The graphs are traced from the towers, with blocks arranged such that the same results take less
time: see `ArrangedAttention`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception_encoder.backends.openvino_graphs import import_without_telemetry
from perception_encoder.backends.torch_devices import copy_sharing_weights
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.model import DualEncoder
from perception_encoder.model.blocks import Block, Rotation, SelfAttention, rope_table
from perception_encoder.model.dual_encoder import FeatureGraph, TextGraph, VisionGraph
from perception_encoder.types import Pixels, Precision

if TYPE_CHECKING:
    import openvino as ov

_CONVERTING: Final = threading.Lock()
# Scores of attention, the patches, pooling and projection are a few percent of the work, and what
# they lose is not made good by any later layer.
_KEPT: Final = [
    ".*scaled_dot_product_attention.*",
    ".*patch_embed.*",
    r".*vision\.pool.*",
]


def quantize(graph: ov.Model, images: Iterable[Pixels]) -> ov.Model:
    """Let a graph that reads images multiply in int8.

    Args:
        graph: with one input.
        images: batches for it, of images like those that it will see; all are read.

    Returns:
        Another graph: weights int8 with a scale for each channel, activations with ranges that were
        measured on the images.

    Raises:
        BackendUnavailableError: nncf is not installed.
        ValueError: there are no images.
    """
    batches = list(images)
    if not batches:
        raise ValueError("int8 needs images to measure ranges on")
    require_nncf()
    import_without_telemetry("nncf")
    import nncf

    with _silence():
        return nncf.quantize(
            graph,
            nncf.Dataset(batches),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(_last_products(graph), patterns=_KEPT, validate=False),
            # Moving outliers from activations to weights fits the images it was measured on too
            # well: with drawings, photos came out at a cosine of 0.92 in place of 0.998.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1)
            ),
        )


def _last_products(graph: ov.Model) -> list[str]:
    """Name the projection: a later step that is dropped leaves it another name than its module's.

    In int8 it alone takes a drawing of one color from a cosine of 0.9990 to 0.9910.
    """
    ends = [result.input_value(0).get_node() for result in graph.get_results()]
    return [node.get_friendly_name() for node in ends if node.get_type_name() == "MatMul"]


def compress_to_int8(graph: ov.Model) -> ov.Model:
    """Keep a graph's matrices in int8: what reads one text waits for memory.

    Where the CPU multiplies int8, the backend rounds what they are multiplied with at run time.

    Raises:
        BackendUnavailableError: nncf is not installed.
    """
    require_nncf()
    import_without_telemetry("nncf")
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
    """Keep NNCF's progress bars and advice from users: what commands print is data.

    `nncf.set_log_level` is not used: it changes the host program's handlers, and for good.
    """
    log = logging.getLogger("nncf")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        log.setLevel(level)


def write_openvino(
    model: DualEncoder,
    path: Path,
    part: str,
    precision: Precision,
    images: Callable[[], Iterable[Pixels]],
) -> None:
    """Write one graph, `path` (.xml), and its weights beside it (.bin).

    Arguments and errors are those of `build_openvino`; `path` is in a folder that exists.

    Raises:
        OSError: the files cannot be written.
    """
    save_openvino(build_openvino(model, part, precision, images), path, precision)


def save_openvino(graph: ov.Model, path: Path, precision: Precision) -> None:
    """Write a graph that was made for a precision.

    Raises:
        OSError: the files cannot be written, because the disk is full for instance.
    """
    import_without_telemetry("openvino")
    import openvino as ov

    try:
        ov.save_model(graph, path, compress_to_fp16=precision != "fp32")
    except RuntimeError as err:  # OpenVINO's "iostream error" names neither the file nor the reason
        free = shutil.disk_usage(path.parent).free
        raise OSError(f"OpenVINO cannot write {path}; {free:,} bytes are free there") from err


def build_openvino(
    model: DualEncoder,
    part: str,
    precision: Precision,
    images: Callable[[], Iterable[Pixels]],
) -> ov.Model:
    """Make one graph, whose weights may be those of the model's memory.

    Parts, of which all but B and L is fixed, and all results are float32, not of unit length:
    "image", `pixels` (B, S, S, 3) uint8, RGB, to the outputs of `VisionGraph`; "features3",
    `pixels` to `features` (B, h·w, D) after that block, counted from 0; "text", `token_ids` (B, L)
    int64 to `embeddings` (B, E).

    Args:
        model: in float32, on the CPU; it stays as it is.
        part: as above.
        precision: "fp32"; "bf16" and "fp16" store float16, which keeps more digits than bf16;
            "int8" multiplies images' numbers in 8 bits and stores those of texts so.
        images: gives (B, S, S, 3) uint8 batches like those that the model will see; asked only
            for what int8 reads images.

    Raises:
        BackendUnavailableError: int8 needs nncf, which is not installed.
        ValueError: int8 was given no images.
    """
    graph = _text_graph(model) if part == "text" else _image_graph(model, part)
    outputs = [output.get_any_name() for output in graph.outputs]
    if precision == "int8":
        graph = compress_to_int8(graph) if part == "text" else quantize(graph, images())
    # Tracing calls the inputs after its own variables, such as "pixels.1".
    (parameter,) = graph.get_parameters()
    _name(parameter, "token_ids" if part == "text" else "pixels")
    for result, name in zip(graph.get_results(), outputs, strict=True):
        result.set_friendly_name(name)
        result.get_output_tensor(0).set_names({name})
    return graph


def _name(parameter: ov.op.Parameter, name: str) -> None:
    parameter.set_friendly_name(name)
    parameter.get_output_tensor(0).set_names({name})


def _text_graph(model: DualEncoder) -> ov.Model:
    assert model.config.text is not None
    length = min(9, model.config.text.context_length - 1)
    sample = torch.full((2, length), model.config.text.vocab_size - 1)
    shapes = {"token_ids": [-1, -1]}
    text = TextGraph(arrange_text(model))
    return trace_graph(text, {"token_ids": sample}, shapes, ["embeddings"])


def _image_graph(model: DualEncoder, part: str) -> ov.Model:
    model = arrange_vision(model)
    side = model.config.vision.image_size
    sample = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    shapes = {"pixels": [-1, side, side, 3]}
    if part == "image":
        whole = VisionGraph(model)
        return trace_graph(whole, {"pixels": sample}, shapes, whole.output_names)
    features = _Features(model, int(part.removeprefix("features")))
    return trace_graph(features, {"pixels": sample}, shapes, ["features"])


def arrange_vision(model: DualEncoder, *, is_grid_fixed: bool = True) -> DualEncoder:
    """Return the model with an `ArrangedAttention` in every block that reads images.

    All other weights are shared; the model itself stays as it is, to compare the graph with.

    Args:
        model: any.
        is_grid_fixed: build the angles of the model's own grid in; otherwise each call gives them.
    """
    model = copy_sharing_weights(model)
    vision = model.vision.config
    angles = None
    if vision.has_rope:
        head_dim = vision.width // vision.num_heads
        angles = rope_table(
            vision.grid_size, vision.grid_size, head_dim, has_class_token=vision.has_class_token
        )
    _arrange(model.vision.blocks, angles, is_grid_fixed=is_grid_fixed)
    return model


def arrange_text(model: DualEncoder) -> DualEncoder:
    """Return the model with an `ArrangedAttention` in every block that reads texts."""
    model = copy_sharing_weights(model)
    _arrange(model.text.blocks, None, is_grid_fixed=True)
    return model


def _arrange(blocks: nn.ModuleList, angles: Tensor | None, *, is_grid_fixed: bool) -> None:
    for block in blocks:
        assert isinstance(block, Block)
        norm = block.norm1
        arranged = ArrangedAttention(block.attention, norm, angles, is_grid_fixed=is_grid_fixed)
        block.attention = arranged  # type: ignore[assignment]
        block.norm1 = nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


class ArrangedAttention(nn.Module):
    """A norm's weights and the `SelfAttention` after it, as OpenVINO computes them fastest.

    - Rotary pairs are in halves, which is one step instead of five.
    - Queries, keys and values are products of their own. OpenVINO then moves heads before tokens
      while it rotates and multiplies; with one product for all three it copies them twice.
    - Weights contain the norm's, and those of queries the scale of scores: two steps less.

    For float32 weights. At a fixed grid the angles are constants, so that no backend computes them,
    in whatever precision. Otherwise cosine and sine are given, (N, C) each.

    Args:
        attention: of a block.
        norm: of the block, before it.
        angles: of `rope_table`; None where queries and keys do not turn.
        is_grid_fixed: as `arrange_vision`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        attention: SelfAttention,
        norm: nn.LayerNorm,
        angles: Tensor | None,
        *,
        is_grid_fixed: bool,
    ) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.out = attention.out
        weights, biases = attention.qkv.weight.detach(), attention.qkv.bias.detach()
        q, k, v = map(partial(_fold_norm, norm), weights.chunk(3), biases.chunk(3))
        head_dim = len(v.bias) // self.num_heads
        if angles is not None:
            order = torch.cat([torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)])
            q, k = _sort_heads(q, self.num_heads, order), _sort_heads(k, self.num_heads, order)
        for parameter in (q.weight, q.bias):
            parameter.mul_(head_dim**-0.5)
        self.q, self.k, self.v = q, k, v
        self.turns = angles is not None
        self.is_grid_fixed = is_grid_fixed
        if angles is not None:
            self.register_buffer("cos", angles.cos().repeat(1, 2)[None, None])  # (1, 1, N, C)
            self.register_buffer("sin", angles.sin().repeat(1, 2)[None, None])

    def forward(self, x: Tensor, rotation: Rotation | None, *, is_causal: bool) -> Tensor:
        """(B, N, D) to (B, N, D); the rotation is used where none was built in."""
        q, k, v = (
            linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, M, N, C)
            for linear in (self.q, self.k, self.v)
        )
        if self.turns:
            cos, sin = self._angles(rotation)
            q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=1.0)
        return self.out(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]

    def _angles(self, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        if self.is_grid_fixed:
            return self.cos, self.sin
        assert rotation is not None
        return rotation.cos[None, None], rotation.sin[None, None]


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    # Written as OpenVINO's RoPEFusionGPTNEOX looks for it.
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


def _fold_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return the product of that weight and bias, with the weights of the norm before it in it."""
    gain, shift = norm.weight.detach(), norm.bias.detach()
    return _linear(weight * gain, bias + weight @ shift)


def _sort_heads(linear: nn.Linear, num_heads: int, order: Tensor) -> nn.Linear:
    """Return queries or keys with each head's in that order; scores are sums, so they stay."""
    rows = [
        parameter.reshape(num_heads, -1, *parameter.shape[1:])[:, order].flatten(0, 1)
        for parameter in (linear.weight, linear.bias)
    ]
    return _linear(*rows)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


class _Features(nn.Module):
    def __init__(self, model: DualEncoder, layer: int) -> None:
        super().__init__()
        self.image = FeatureGraph(model)
        self.layer = layer

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.image(pixels, layer=self.layer)
        return features


@contextlib.contextmanager
def _keep_root_logger() -> Iterator[None]:
    """Put the root logger back as it was after OpenVINO's converter.

    While it works, the converter lets errors alone pass. It puts level, filters and handlers back
    itself, but not after an error; and of two that work at once, the one that ends last puts back
    what the other has set. So one works at a time.
    """
    with _CONVERTING:
        root = logging.getLogger()
        level, filters, handlers = root.level, root.filters, root.handlers
        kept_filters, kept_handlers = list(filters), list(handlers)
        try:
            yield
        finally:
            filters[:], handlers[:] = kept_filters, kept_handlers
            root.filters, root.handlers = filters, handlers
            root.setLevel(level)


def trace_graph(
    graph: nn.Module, samples: dict[str, Tensor], shapes: dict[str, list[int]], names: list[str]
) -> ov.Model:
    """Make an OpenVINO graph of a module.

    Args:
        graph: the module.
        samples: an example of each input, by name.
        shapes: of the inputs, -1 where a length is free.
        names: of the outputs.
    """
    import_without_telemetry("openvino")
    import openvino as ov

    with warnings.catch_warnings(), torch.inference_mode():
        # Checks of shapes, which tracing fixes; parts of torch that openvino should not use.
        warnings.simplefilter("ignore")
        # Left to trace by itself, openvino has torch run the graph again to check it, unoptimized,
        # which takes ten times as long. Tests compare what is written with the towers.
        trace: Callable[..., torch.jit.ScriptModule] = torch.jit.trace
        traced = trace(graph.eval(), tuple(samples.values()), strict=False, check_trace=False)
        with _keep_root_logger():
            written = ov.convert_model(
                traced, input=[ov.PartialShape(shapes[name]) for name in samples]
            )
    for parameter, name in zip(written.get_parameters(), samples, strict=True):
        _name(parameter, name)
    for output, name in zip(written.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    return written
