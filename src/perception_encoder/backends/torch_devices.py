"""What torch can compute with here: devices, precisions, CUDA streams, and `torch.compile`."""

import copy
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import renew_in_children
from perception_encoder.model import DualEncoder
from perception_encoder.types import Precision

DTYPES: Final[dict[Precision, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
NUM_STREAMS: Final = 2  # one computes; the other's images arrive, its vectors leave


class CompiledTowers:
    """A graph that is compiled when it first runs.

    Args:
        graph: takes one tensor, whose leading dimensions vary from call to call, but are
            never 0.
        num_varying: how many of them do.
    """

    def __init__(self, graph: nn.Module, num_varying: int) -> None:
        self._num_varying = num_varying
        self._program: Callable[[Tensor], Tensor] = torch.compile(graph)

    def __call__(self, batch: Tensor) -> Tensor:
        """Run a batch.

        Raises:
            BackendUnavailableError: it could not be compiled here.
        """
        if len(batch) == 1:
            # Compilers take 1 for a constant. Two rows should cost a GPU hardly more than one,
            # and another compilation takes as long as the first.
            return self(torch.cat([batch, batch]))[:1]
        for dimension in range(self._num_varying):
            torch._dynamo.maybe_mark_dynamic(batch, dimension)
        try:
            return self._program(batch)
        except torch._dynamo.exc.TorchDynamoException as err:
            reason = str(err).strip().partition("\n")[0]
            raise BackendUnavailableError(
                f"torch.compile failed: {reason}. It needs a C++ compiler, on a GPU also Triton; "
                "open the model without compile=True where they are missing"
            ) from err


class CompileLock:
    """A reader-writer lock: many shared holders, or one exclusive holder, who comes first."""

    def __init__(self) -> None:
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Forget the holders of the parent process."""
        self._changed = threading.Condition()
        self._num_inside = 0
        self._is_claimed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Acquire in shared mode."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_claimed)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_inside -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Acquire in exclusive mode, after all shared holders have released it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_claimed)
            self._is_claimed = True
            self._changed.wait_for(lambda: not self._num_inside)
        try:
            yield
        finally:
            with self._changed:
                self._is_claimed = False
                self._changed.notify_all()


computing = CompileLock()


class _Switch:
    """Turns cuDNN attention off while calls run; torch's switch is process-wide."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_calls = 0
        self._before = True

    @contextmanager
    def off(self) -> Iterator[None]:
        with self._lock:
            if self._num_calls == 0:
                self._before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
                torch.backends.cuda.enable_cudnn_sdp(False)
            self._num_calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_calls -= 1
                if self._num_calls == 0:
                    torch.backends.cuda.enable_cudnn_sdp(self._before)


disable_cudnn_attention = _Switch().off


def copy_sharing_weights(model: DualEncoder) -> DualEncoder:
    """Return a model with modules of its own and the very parameters of the given one."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    changed: DualEncoder = copy.deepcopy(model, shared)
    return changed


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        BackendUnavailableError: torch does not know the name, or the device is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise BackendUnavailableError(
            f"unknown device {name!r}; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from err
    available = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise BackendUnavailableError(
            f"device {name!r} is not available here: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA device(s); use device='auto' or 'cpu'"
        )
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of that name; "auto" is bf16 where the hardware multiplies it.

    Raises:
        BackendUnavailableError: this backend has no such precision.
    """
    if name == "auto":
        return "bf16" if _multiplies_bf16(device) else "fp32"
    for precision in DTYPES:
        if name == precision:
            return precision
    raise BackendUnavailableError(
        f"the torch backend has no precision {name!r}; use 'auto' or one of {', '.join(DTYPES)}"
    )


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Older releases of torch cannot tell; fp32 is right everywhere.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def list_devices() -> list[str]:
    """Name the devices that models can run on here, in words."""
    cpu = "cpu (bf16 in hardware)" if _multiplies_bf16(torch.device("cpu")) else "cpu"
    cuda = [
        f"cuda:{number} ({torch.cuda.get_device_name(number)})"
        for number in range(torch.cuda.device_count())
    ]
    return [cpu, *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


_INSTRUCTIONS: Final[dict[Precision, tuple[str, ...]]] = {
    "bf16": ("amx_bf16", "avx512_bf16"),
    "fp16": ("amx_fp16", "avx512_fp16"),
    "int8": ("amx_int8", "avx512_vnni"),
}
_DTYPES: Final[dict[Precision, torch.dtype]] = {**DTYPES, "int8": torch.int8}


def matrix_rate(
    precision: Precision, *, device: str = "auto", rounds: int = 5, size: int | None = None
) -> float | None:
    """Return operations a second of a product of two square matrices, the median of some rounds.

    Args:
        precision: of the factors; int8 products are summed in 32 bits.
        device: as in `AutoModel.from_pretrained`.
        rounds: products that are timed, after one that is not.
        size: rows of a matrix; None is 2048 on the CPU and 8192 elsewhere.

    Returns:
        Operations a second, or None where this device does not multiply such numbers itself.

    Raises:
        BackendUnavailableError: there is no such device here.
    """
    place = choose_device(device)
    if place.type == "cpu" and precision == "fp16" and not _multiplies_fp16():
        return None  # torch would emulate it, a thousand times slower
    size = size or (2048 if place.type == "cpu" else 8192)
    # Of all lengths: a GPU multiplies numbers of few bits faster, as it then draws less power.
    values = (
        torch.randint(-127, 128, (size, size)) if precision == "int8" else torch.randn(size, size)
    )
    factor = values.to(place, _DTYPES[precision])
    multiply = torch._int_mm if precision == "int8" else torch.mm
    with torch.inference_mode():
        try:
            multiply(factor, factor.T)
        except RuntimeError:  # what torch raises for a product it has no kernel for
            return None
        seconds = []
        for _ in range(rounds):
            _wait_for(place)
            started = time.perf_counter()
            multiply(factor, factor.T)
            _wait_for(place)
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds)


def name_instructions(precision: Precision) -> str:
    """Name this CPU's best instructions for products in a precision, such as "amx_bf16"."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    for name in _INSTRUCTIONS.get(precision, ()):
        if capabilities.get(name):
            return name
    return torch.backends.cpu.get_cpu_capability().lower()


def peak_device_bytes(device: str) -> int | None:
    """Return the most memory that torch has held on CUDA devices so far; None for others.

    Args:
        device: of a torch backend; of several devices, as "cuda:0,cuda:1", the sum is returned.
    """
    places = [torch.device(name) for name in device.split(",")]
    if places[0].type != "cuda":
        return None
    return sum(torch.cuda.max_memory_reserved(place) for place in places)


def _multiplies_fp16() -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_fp16") or capabilities.get("amx_fp16"))


def _wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class CudaStreams:
    """Lends a stream to each call; when all are lent, calls wait."""

    def __init__(self, device: torch.device) -> None:
        self._free = queue.SimpleQueue[torch.cuda.Stream]()
        for _ in range(NUM_STREAMS):
            self._free.put(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        # What was copied there before, on the default stream, is seen by these from now on.
        torch.cuda.synchronize(device)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Put what this thread does on the GPU onto a stream of its own."""
        stream = self._free.get()
        try:
            # Leaving a stream alone would select this thread's device, in a new thread the first
            # card, and take memory there though only others are used. Leaving a device does not.
            with (
                torch.cuda.device(stream.device),
                torch.cuda.stream(stream),
                disable_cudnn_attention(),
            ):
                yield
        finally:
            self._free.put(stream)
