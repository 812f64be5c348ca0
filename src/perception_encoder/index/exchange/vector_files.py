"""Matrices of vectors as single files, written row by row: numpy's `.npy` and faiss's flat index.

Both begin with the number of rows, so it has to be known first; then the rows follow as they are.
Nothing but the block that is written is in memory.
"""

import struct
from types import TracebackType
from typing import Final, Self

import numpy as np

from perception_encoder.errors import ExchangeError
from perception_encoder.index.schema import VectorDtype
from perception_encoder.types import Embeddings

_FAISS_FLAT_INNER_PRODUCT: Final = b"IxFI"
_NPY: Final = b"\x93NUMPY"
_INNER_PRODUCT: Final = 0  # faiss.METRIC_INNER_PRODUCT
_DUMMY: Final = 1 << 20  # two fields that faiss once used


class VectorFile:
    """A file of vectors that grows; a context manager.

    Args:
        path: the file to make.
        header: what goes before the first vector.
        dtype: of its numbers.
    """

    def __init__(self, path: str, header: bytes, dtype: VectorDtype) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._file = open(path, "wb")  # noqa: SIM115  closed by __exit__
        self._file.write(header)

    def write(self, vectors: Embeddings) -> None:
        """Add vectors, (R, E)."""
        self._file.write(np.ascontiguousarray(vectors, self._dtype).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def npy_file(path: str, num_rows: int, embed_dim: int, dtype: VectorDtype) -> VectorFile:
    """Begin a `.npy` of (num_rows, embed_dim)."""
    described = {
        "descr": np.dtype(dtype).newbyteorder("<").str,
        "fortran_order": False,
        "shape": (num_rows, embed_dim),
    }
    text = repr(described)
    padding = -(10 + len(text) + 1) % 64
    header = text + " " * padding + "\n"
    start = _NPY + b"\x01\x00" + struct.pack("<H", len(header))
    return VectorFile(path, start + header.encode("ascii"), dtype)


def faiss_file(path: str, num_rows: int, embed_dim: int) -> VectorFile:
    """Begin what `faiss.write_index` writes of an `IndexFlatIP`, without building it in memory."""
    header = _FAISS_FLAT_INNER_PRODUCT + struct.pack(
        "<iqqq?iQ",
        embed_dim,
        num_rows,
        _DUMMY,
        _DUMMY,
        True,  # trained
        _INNER_PRODUCT,
        num_rows * embed_dim,
    )
    return VectorFile(path, header, "float32")


class NpyArray:
    """A `.npy` of (R, E) floats that is read where it is asked for.

    Not mapped: pages of a mapping would count as this process's memory until the end.

    Raises:
        ExchangeError: it holds something else.
    """

    def __init__(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                is_array = file.read(len(_NPY)) == _NPY
            if not is_array:  # `np.load` would also open archives
                raise ValueError("it does not begin as a .npy does; save one array with numpy.save")
            with np.errstate(over="ignore"):
                mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as err:  # reading a damaged header ends in errors of many kinds
            reason = str(err).strip().partition("\n")[0] or type(err).__name__
            raise ExchangeError(f"{path}: cannot be read as a numpy array: {reason}") from err
        if mapped.ndim != 2 or mapped.dtype.kind != "f" or not mapped.flags.c_contiguous:
            raise ExchangeError(
                f"{path}: an array of shape {mapped.shape} and type {mapped.dtype}; it has to be "
                "(R, E) of floats, row by row"
            )
        self._path = path
        self._dtype: np.dtype[np.floating] = mapped.dtype
        self._start: int = mapped.offset
        self.num_rows: Final[int] = mapped.shape[0]
        self.embed_dim: Final[int] = mapped.shape[1]

    def rows(self, start: int, end: int) -> Embeddings:
        """Return rows from `start` to before `end`, float32."""
        offset = self._start + start * self.embed_dim * self._dtype.itemsize
        count = (end - start) * self.embed_dim
        numbers = np.fromfile(self._path, self._dtype, count, offset=offset)
        return numbers.reshape(end - start, self.embed_dim).astype(np.float32)
