"""The OpenVINO backend: exported or cached graphs on CPUs, without torch.

Each graph is opened when it is first needed, so a text does not wait for the vision tower.
"""

import importlib.util
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.backends.base import ComputeOptions
from perception_encoder.backends.graph_cache import GraphCache
from perception_encoder.backends.openvino_graphs import (
    DENSE,
    ExportedGraphs,
    GraphSource,
    build_random_graphs,
    find_graphs,
    grid_inputs,
    import_without_telemetry,
)
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.known_weights import KnownWeights
from perception_encoder.checkpoints.tensors import WatchedFile, require_unchanged
from perception_encoder.errors import BackendUnavailableError, UnsupportedOperationError
from perception_encoder.forking import renew_in_children
from perception_encoder.registry import ModelConfig
from perception_encoder.types import BackendKind, Embeddings, Pixels, Precision, TokenIds

if TYPE_CHECKING:
    import openvino as ov

# OpenVINO's name of each precision, which the CPU must multiply natively. int8 leaves some steps in
# floating point, in the best type there is.
_TYPES: Final[dict[Precision, str]] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# Numbers of a text's activations that share a scale where its matrices are int8. The backend's own
# 32 is nearer to fp32 by 0.0001 and takes a third more time.
_INT8_GROUP: Final = 128
# The backend keeps what it prepared for each shape, half a MiB for one of pe-nano's texts. So texts
# have a multiple of so many columns.
_TEXT_COLUMNS: Final = 2
# OpenVINO's names in compiled graphs: of products, and within those of kernels.
_PRODUCTS: Final = ("FullyConnected", "MatMul")
_INSTRUCTIONS: Final = re.compile(r"(?:sse|avx|neon|asimd|sve|rvv)\w*")
_CAPABILITIES: Final[dict[Precision, str]] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}

# The binding makes its index of numpy's types in the first call that needs it. Two threads in that
# call at once wait for each other, one of them with the interpreter's lock: the process stands
# still for good (openvino 2026.4). So nothing is computed before the index is there.
_FIRST_CALL: Final = threading.Lock()


class OpenVinoBackend:
    """A `Backend` over OpenVINO graphs.

    Args:
        config: of the model.
        graphs: opens its graphs.
        known: of its weights.
        precision: of the graphs.

    Raises:
        BackendUnavailableError: openvino is not installed.
    """

    name: BackendKind = "openvino"
    concurrency = 1
    device = "cpu"

    def __init__(
        self, config: ModelConfig, graphs: GraphSource, known: KnownWeights, precision: Precision
    ) -> None:
        self._config = config
        self._graphs = graphs
        self._open: dict[tuple[str, str], _Graph] = {}
        self._left_behind: list[object] = []
        self._lock = threading.Lock()
        self._is_closed = False
        renew_in_children(self)
        self.precision = precision
        self.fingerprint = known.fingerprint
        self.logit_scale = known.logit_scale

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: ComputeOptions) -> "OpenVinoBackend":
        """Open a checkpoint; graphs are built unless they are cached.

        Raises:
            BackendUnavailableError: openvino is not installed, the device or precision is not
                available here; or graphs have to be built and torch is not installed.
            CheckpointError: the weights do not fit their model.
        """
        precision = _check(options)
        exported = checkpoint.graphs
        if exported is not None:
            precision = _of_export(exported.precision, precision, options)
            known = KnownWeights(exported.fingerprint, exported.logit_scale)
            source = ExportedGraphs(checkpoint.path.parent, exported.checksums)
            return cls(checkpoint.config, source, known, precision)
        graphs, known = find_graphs(checkpoint, GraphCache(options.graph_cache), precision)
        return cls(checkpoint.config, graphs, known, precision)

    @classmethod
    def with_random_weights(cls, config: ModelConfig, options: ComputeOptions) -> "OpenVinoBackend":
        """Build a model with the weights of `random_model`.

        Raises:
            BackendUnavailableError: as `load`.
        """
        precision = _check(options)
        graphs, known = build_random_graphs(config, GraphCache(options.graph_cache), precision)
        return cls(config, graphs, known, precision)

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        if self._config.embed_dim is None:
            raise UnsupportedOperationError(
                f"{self._config.id} has patch features only, no image embedding; call features()"
            )
        self._check_pixels(pixels)
        return self._run("image", "embeddings", pixels, (self._config.embed_dim,))

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        if self._config.text is None or self._config.embed_dim is None:
            raise UnsupportedOperationError(f"{self._config.id} reads no text")
        context = self._config.text.context_length
        if token_ids.ndim != 2 or token_ids.shape[1] > context:
            raise ValueError(f"token_ids must be (B, L) with L <= {context}, got {token_ids.shape}")
        # More columns change no embedding: attention is causal, and they are padding.
        columns = min(context, -(-token_ids.shape[1] // _TEXT_COLUMNS) * _TEXT_COLUMNS)
        padded = np.pad(token_ids, ((0, 0), (0, columns - token_ids.shape[1])))
        return self._run("text", "embeddings", padded, (self._config.embed_dim,))

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`.

        Each layer but the last has its own graph, built on request; for images of another size
        each layer has.

        Raises:
            UnsupportedOperationError: images of another size, in int8 or with an export.
            ValueError: the layer does not exist, or the sides are no multiples of the patch size.
        """
        vision = self._config.vision
        if not -vision.depth <= layer < vision.depth:
            raise ValueError(f"layer {layer} is out of range: this tower has {vision.depth} blocks")
        number = layer % vision.depth
        if pixels.shape[1:] != (vision.image_size, vision.image_size, 3):
            return self._dense_features(pixels, number)
        self._check_pixels(pixels)
        part = "image" if number == vision.depth - 1 else f"features{number}"
        return self._run(part, "features", pixels, (vision.grid_size**2, vision.width))

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """See `Backend.pool_inputs`."""
        vision = self._config.vision
        if not vision.has_class_token:
            return self.features(pixels)
        self._check_pixels(pixels)
        return self._run("image", "pool_inputs", pixels, (vision.grid_size**2 + 1, vision.width))

    def _dense_features(self, pixels: Pixels, layer: int) -> NDArray[np.float32]:
        vision = self._config.vision
        patch = vision.patch_size
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be (B, H, W, 3) uint8, got {pixels.shape}")
        height, width = pixels.shape[1:3]
        if height % patch or width % patch:
            raise ValueError(f"height and width must be multiples of {patch}, got {pixels.shape}")
        if self.precision == "int8":
            raise UnsupportedOperationError(
                f"backend 'openvino' in int8 reads images of {vision.image_size} pixels only: its "
                "ranges were measured at that size. Leave out image_size and keep_aspect, or open "
                "the model with precision='auto' or backend='torch'"
            )
        grid = (height // patch, width // patch)
        if grid == (1, 1):
            # A graph whose first call has a single token is wrong in all later ones (openvino
            # 2026.4), so that call has four.
            self._dense_features(np.zeros((1, 2 * patch, 2 * patch, 3), np.uint8), layer)
        others = tuple(grid_inputs(vision, *grid).values())
        shape = (grid[0] * grid[1], vision.width)
        return self._run(f"{DENSE}{layer}", "features", pixels, shape, others)

    def name_instructions(self) -> str | None:
        """Name the instructions that multiply matrices here, as OpenVINO does: "avx512_amx_bf16".

        Returns:
            Those of most products of the graphs that are open, or of most steps where its products
            are a library's; None while no graph is open.
        """
        with self._lock:
            graphs = list(self._open.values())
        kernels = [kernel for graph in graphs for kernel in graph.iter_kernels()]
        products = Counter(name for name, is_product in kernels if is_product)
        names = products or Counter(name for name, _ in kernels)
        return names.most_common(1)[0][0].lower() if names else None

    def close(self) -> None:
        """See `Backend.close`."""
        with self._lock:
            self._open.clear()
            self._is_closed = True

    def renew_after_fork(self) -> None:
        """Open graphs again in a forked process; the parent's are not used, nor closed."""
        self._left_behind.append(self._open)
        self._open = {}
        self._lock = threading.Lock()

    def _check_pixels(self, pixels: Pixels) -> None:
        side = self._config.vision.image_size
        if pixels.shape[1:] != (side, side, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                f"pixels must be (B, {side}, {side}, 3) uint8, got {pixels.shape} {pixels.dtype}"
            )

    def _run(
        self,
        part: str,
        output: str,
        batch: NDArray[Any],
        row_shape: tuple[int, ...],
        others: Sequence[NDArray[Any]] = (),
    ) -> NDArray[np.float32]:
        with self._lock:
            if self._is_closed:
                raise BackendUnavailableError("this model was closed; open it again to use it")
            graph = self._open.get((part, output))
            if graph is None:
                compile_it = partial(_compiled, output=output, precision=self.precision)
                graph = _Graph(*self._graphs.opened(part, compile_it))
                self._open[part, output] = graph
        if not len(batch):  # the backend computes nothing of nothing
            return np.empty((0, *row_shape), np.float32)
        return graph.run([batch, *others])


class _Graph:
    """A compiled graph. One call at a time, because each uses all cores."""

    def __init__(self, compiled: "ov.CompiledModel", watched: Sequence[WatchedFile]) -> None:
        self._request = compiled.create_infer_request()
        self._watched = watched
        self._lock = threading.Lock()

    def run(self, inputs: list[NDArray[Any]]) -> NDArray[np.float32]:
        with self._lock, require_unchanged(self._watched):
            results = self._request.infer(inputs, share_inputs=True, share_outputs=True)
            rows: NDArray[np.float32] = results[0].copy()  # the next call writes over it
        return rows

    def iter_kernels(self) -> Iterator[tuple[str, bool]]:
        """Name the instructions of each step, and tell whether it is a matrix product."""
        for node in self._request.get_compiled_model().get_runtime_model().get_ops():
            facts = node.get_rt_info()
            found = _INSTRUCTIONS.search(facts["primitiveType"].astype(str))
            if found is not None:
                yield found[0], facts["layerType"].astype(str) in _PRODUCTS


def _compiled(source: "Path | ov.Model", output: str, precision: Precision) -> "ov.CompiledModel":
    import_without_telemetry("openvino")
    import openvino as ov

    core = ov.Core()
    whole = core.read_model(source) if isinstance(source, Path) else source  # maps the weights
    graph = ov.Model([whole.output(output)], whole.get_parameters())
    # LATENCY gives all cores to one call. On two cores that is also the fastest for batches.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision == "int8":
        precision = _best_precision(core)
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _INT8_GROUP
    settings["INFERENCE_PRECISION_HINT"] = _TYPES[precision]
    return core.compile_model(graph, "CPU", settings)


def _check(options: ComputeOptions) -> Precision:
    """Return the precision that the options select here.

    Raises:
        BackendUnavailableError: openvino is not installed, or has no such device or precision here.
    """
    if importlib.util.find_spec("openvino") is None:
        raise BackendUnavailableError(
            "openvino is not installed; install it: pip install 'perception-encoder[openvino]'"
        )
    if options.device not in ("auto", "cpu"):
        raise BackendUnavailableError(
            f"the openvino backend runs on the CPU, not on {options.device!r}; use device='cpu', "
            "or backend='torch'"
        )
    import_without_telemetry("openvino")
    import openvino as ov

    with _FIRST_CALL:
        ov.Type.u8.to_dtype()
    core = ov.Core()
    if options.precision == "auto":
        return _best_precision(core)
    needed = _CAPABILITIES.get(options.precision)
    if needed is not None and needed not in _capabilities(core):
        raise BackendUnavailableError(
            f"this CPU does not multiply {options.precision} natively, so openvino would be slow "
            "and no smaller; use precision='auto', 'fp32' or 'int8'"
        )
    return options.precision


def _of_export(stored: Precision, chosen: Precision, options: ComputeOptions) -> Precision:
    """Return the precision of exported graphs: int8 runs as int8 only, others never do.

    Raises:
        BackendUnavailableError: another precision was asked for.
    """
    if stored == "int8" and options.precision == "auto":
        return "int8"
    if (stored == "int8") == (chosen == "int8"):
        return chosen
    raise BackendUnavailableError(
        f"the graphs were exported in {stored}, so they cannot run in {chosen}; open them with "
        "precision='auto', or export the model anew"
    )


def _best_precision(core: "ov.Core") -> Precision:
    return "bf16" if "BF16" in _capabilities(core) else "fp32"


def _capabilities(core: "ov.Core") -> list[str]:
    names: list[str] = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return names
