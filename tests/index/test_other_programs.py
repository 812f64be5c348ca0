"""LanceDB and DuckDB open an index as it is: the real packages.

DuckDB has no 16-bit floats and refuses Arrow data with such a column, asked for or not: of a
float16 index it is given the other columns.
"""

from pathlib import Path

import duckdb
import lance
import numpy as np
import pytest
from numpy.typing import NDArray

from perception_encoder.index import Index, Row, VectorDtype
from perception_encoder.types import ModelIdentity

EMBED_DIM = 16


def unit(count: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, EMBED_DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=["float16", "float32"])
def index(tmp_path: Path, request: pytest.FixtureRequest) -> Index:
    """An index of two commits and a deletion."""
    dtype: VectorDtype = request.param
    identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", EMBED_DIM)
    opened = Index.create(tmp_path / "images.lance", identity, vector_dtype=dtype)
    rows = [
        Row(
            uri=f"/p/{number:03}.jpg",
            width=100 + number,
            mtime=1_700_000_000_000_000_000 + number,
            metadata={"album": f"a{number % 3}", "stars": number % 5},
        )
        for number in range(200)
    ]
    opened.append(rows[:120], unit(120, seed=1))
    opened.append(rows[120:], unit(80, seed=2))
    opened.delete(rows[number].id for number in range(0, 200, 10))
    return opened


def test_lancedb_finds_the_same_nearest(index: Index) -> None:
    import lancedb

    path = Path(index.path)
    opened = lancedb.connect(path.parent).open_table(path.stem)
    assert opened.count_rows() == index.count() == 180
    for query in unit(5, seed=3):
        for where in (None, "album = 'a1' AND width < 250"):
            search = opened.search(query.astype(np.float32)).distance_type("cosine").limit(10)
            if where is not None:
                search = search.where(where, prefilter=True)
            theirs = search.select(["uri", "_distance"]).to_list()
            ours = index.search(query[None], k=10, where=where)[0]
            assert [found["uri"] for found in theirs] == [hit.uri for hit in ours]
            scores = [1 - found["_distance"] for found in theirs]
            assert scores == pytest.approx([hit.score for hit in ours], abs=2e-3)


def test_duckdb_asks_the_columns_in_sql(index: Index) -> None:
    dataset = lance.dataset(index.path)
    names = [name for name in dataset.schema.names if name != "vector"]
    images = dataset.scanner(columns=names).to_reader()
    found = duckdb.sql(
        "SELECT album, count(*), avg(stars), max(width), max(epoch_ns(mtime)) FROM images "
        "WHERE width >= 150 GROUP BY album ORDER BY album"
    ).fetchall()
    rows = [row for row in index.rows() if (row.width or 0) >= 150]
    expected = []
    for album in ("a0", "a1", "a2"):
        of_album = [row for row in rows if row.metadata["album"] == album]
        stars = np.mean([float(row.metadata["stars"] or 0) for row in of_album])
        widths, times = ([getattr(row, n) for row in of_album] for n in ("width", "mtime"))
        expected.append((album, len(of_album), pytest.approx(stars), max(widths), max(times)))
    assert found == expected
    assert images.schema.names == names


@pytest.mark.parametrize("index", ["float32"], indirect=True)
def test_duckdb_computes_with_float32_vectors(index: Index) -> None:
    images = lance.dataset(index.path)
    query = unit(1, seed=4)
    numbers = ", ".join(map(str, query[0].tolist()))
    found = duckdb.sql(
        f"SELECT uri FROM (SELECT uri, vector::FLOAT[{EMBED_DIM}] AS v FROM images) "
        f"ORDER BY array_cosine_similarity(v, [{numbers}]::FLOAT[{EMBED_DIM}]) DESC LIMIT 5"
    ).fetchall()
    assert [uri for (uri,) in found] == [hit.uri for hit in index.search(query, k=5)[0]]
    assert images.count_rows() == 180
