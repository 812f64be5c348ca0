"""Files named `.npy` that are something else, lie about their size, or hold no usable vectors."""

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ExchangeError
from perception_encoder.index import Index
from perception_encoder.index.exchange import import_index, open_source
from perception_encoder.types import ModelIdentity

E = 4
IDENTITY = ModelIdentity("pe-nano", "0" * 16, "standard", E)
ROW = np.eye(1, E, dtype="<f4").tobytes()


def array(shape: str, rows: bytes, descr: str = "'<f4'", extra: str = "") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {extra}}}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + rows


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, vectors=np.eye(1, E))
    return stream.getvalue()


def folder(root: Path, content: bytes, num_rows: int = 1) -> Path:
    (root / "in").mkdir()
    (root / "in" / "vectors.npy").write_bytes(content)
    lines = [json.dumps({"uri": f"/x/{place}.png"}) + "\n" for place in range(num_rows)]
    (root / "in" / "rows.jsonl").write_text("".join(lines))
    return root / "in"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(array("(1000000000000, 4)", ROW), id="more rows than the file"),
        pytest.param(array("(2, 4)", ROW), id="cut off"),
        pytest.param(array("(-1, 4)", ROW), id="negative"),
        pytest.param(array(f"({2**62}, {2**62})", ROW), id="overflow"),
        pytest.param(array("(1.5, 4)", ROW), id="no whole number"),
        pytest.param(array("(1, 4)", ROW, extra="'x': " + "[" * 5000), id="deep header"),
        pytest.param(array("(1, 4)", ROW, extra=f"'x': '{'a' * 20000}',"), id="long header"),
        pytest.param(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"x", id="huge header"),
        pytest.param(array("(1, 4)", pickle.dumps([1] * E), "'|O'"), id="objects"),
        pytest.param(array("(1, 4)", ROW * 2, "'<c8'"), id="complex"),
        pytest.param(array("(4,)", ROW), id="one dimension"),
        pytest.param(b"PK\x03\x04 no archive", id="no archive"),
        pytest.param(npz(), id="archive"),
        pytest.param(b"", id="empty"),
        pytest.param(pickle.dumps([1]), id="pickle"),
    ],
)
def test_what_is_no_array_of_vectors_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ExchangeError, match=r"vectors\.npy"):
        open_source(folder(tmp_path, content))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_vector_that_says_nothing_is_refused_with_its_number(
    tmp_path: Path, value: float
) -> None:
    vectors = np.eye(3, E, dtype=np.float32)
    vectors[1] = value
    stream = io.BytesIO()
    np.save(stream, vectors)
    source = open_source(folder(tmp_path, stream.getvalue(), 3))
    with pytest.raises(ExchangeError, match="vector number 1, of "):
        import_index(source, tmp_path / "t.lance", identity=IDENTITY)
    index = tmp_path / "t.lance"
    assert not index.exists() or Index.open(index).count() == 0
