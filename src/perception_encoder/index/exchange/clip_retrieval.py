"""The layout of clip-retrieval and autofaiss: a folder of numbered parts.

`img_emb/img_emb_00.npy` has the vectors of a part, `metadata/metadata_00.parquet` its rows in the
same order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange.rows import IMAGE_PATH, RowColumns, match_columns
from perception_encoder.index.exchange.streams import (
    RowBlock,
    RowExport,
    RowReader,
    read_provenance,
)
from perception_encoder.index.exchange.vector_files import NpyArray, create_npy
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUT: Final = "clip-retrieval"

_FOLDERS: Final = {"img_emb": ".npy", "metadata": ".parquet"}
_NUMBER: Final = re.compile(r"_(\d+)\.\w+$")


def write_folder(index: RowExport, folder: str, part_rows: int) -> None:
    """Write parts of `part_rows` rows into an empty folder; the last part may be smaller."""
    import pyarrow.parquet as pq

    for name in _FOLDERS:
        os.mkdir(os.path.join(folder, name))
    has_own = IMAGE_PATH in index.row_schema.names
    schema = index.row_schema if has_own else _with_image_path(index.row_schema)
    num_parts = max(1, -(-index.num_rows // part_rows))
    parts = groupby(_split(index.blocks(), part_rows), key=itemgetter(0))
    for number, pieces in parts if index.num_rows else [(0, ())]:
        num_rows = min(part_rows, index.num_rows - number * part_rows)
        vectors_path, rows_path = _part_paths(folder, number, num_parts)
        with (
            create_npy(vectors_path, num_rows, index.embed_dim, "float16") as file,
            pq.ParquetWriter(rows_path, schema) as writer,
        ):
            for _, rows, vectors in pieces:
                file.write(vectors)
                writer.write_batch(rows if has_own else _add_image_path(rows, schema))


def open_folder(folder: str) -> RowReader:
    """Open such a folder.

    Raises:
        ExchangeError: a part is incomplete, or its files do not match.
    """
    import pyarrow.parquet as pq

    parts = _find_parts(folder)
    provenance = read_provenance(folder)
    num_rows, dims = 0, set()
    for vectors_path, rows_path in parts:
        vectors = NpyArray(vectors_path)
        num_described = pq.read_metadata(rows_path).num_rows
        if vectors.num_rows != num_described:
            raise ExchangeError(
                f"{vectors_path} has {vectors.num_rows} vectors, {rows_path} {num_described} rows; "
                "they do not belong together"
            )
        num_rows += vectors.num_rows
        dims.add(vectors.embed_dim)
    if len(dims) != 1:
        raise ExchangeError(f"{folder}: its parts have vectors of different lengths: {dims}")
    columns = match_columns(pq.read_schema(parts[0][1]), provenance, parts[0][1])
    return RowReader(
        path=folder,
        layout=LAYOUT,
        num_rows=num_rows,
        embed_dim=dims.pop(),
        provenance=provenance,
        dropped=columns.dropped,
        read=partial(_read, parts, columns),
    )


def _read(
    parts: Iterable[tuple[str, str]], columns: RowColumns, block_rows: int
) -> Iterator[RowBlock]:
    import pyarrow.parquet as pq

    for vectors_path, rows_path in parts:
        vectors, start = NpyArray(vectors_path), 0
        with pq.ParquetFile(rows_path, pre_buffer=False) as file:
            for batch in file.iter_batches(block_rows, columns=list(columns.types)):
                end = start + batch.num_rows
                yield RowBlock(columns.rows(batch, rows_path), vectors.rows(start, end))
                start = end


def _find_parts(folder: str) -> list[tuple[str, str]]:
    """Return the files of the parts, by number."""
    found = []
    for name, suffix in _FOLDERS.items():
        below = os.path.join(folder, name)
        files = os.listdir(below) if os.path.isdir(below) else []
        numbered = [(_NUMBER.search(file), os.path.join(below, file)) for file in files]
        found.append(
            {int(match[1]): path for match, path in numbered if match and path.endswith(suffix)}
        )
    vectors, rows = found
    lonely = sorted(vectors.keys() ^ rows.keys())
    if lonely or not vectors:
        missing = f"part {lonely[0]} is in one of them only" if lonely else "there are none"
        raise ExchangeError(
            f"{folder}: img_emb/*.npy and metadata/*.parquet have to come in pairs of one number; "
            f"{missing}"
        )
    return [(vectors[number], rows[number]) for number in sorted(vectors)]


def _part_paths(folder: str, number: int, num_parts: int) -> list[str]:
    """Return the paths of a part as clip-retrieval names them, with padded numbers."""
    digits = str(number).zfill(len(str(num_parts)))
    return [
        os.path.join(folder, name, f"{name}_{digits}{suffix}") for name, suffix in _FOLDERS.items()
    ]


def _split(
    blocks: Iterable[tuple[pa.RecordBatch, Embeddings]], part_rows: int
) -> Iterator[tuple[int, pa.RecordBatch, Embeddings]]:
    """Split blocks at the ends of parts, and yield them with the number of their part."""
    done = 0
    for rows, vectors in blocks:
        start = 0
        while start < len(vectors):
            end = min(len(vectors), start + part_rows - done % part_rows)
            yield done // part_rows, rows.slice(start, end - start), vectors[start:end]
            done += end - start
            start = end


def _with_image_path(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return schema.insert(0, pa.field(IMAGE_PATH, pa.string()))


def _add_image_path(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Add the column with the image's name: the file, a slash and the member."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inside = pc.binary_join_element_wise(rows["uri"], rows["member"], "/")
    names = pc.coalesce(inside, rows["uri"])
    return pa.record_batch([names, *rows.columns], schema=schema)
