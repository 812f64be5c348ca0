"""One Parquet file: a column `vector` of float32 lists beside the table's own columns.

embedding-atlas opens it (`embedding-atlas FILE --vector vector`), and so do DuckDB and pandas.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange.arrow_rows import RowColumns, row_columns
from perception_encoder.index.exchange.provenance import provenance_of
from perception_encoder.index.exchange.streams import Block, Incoming, Outgoing
from perception_encoder.index.schema import VECTOR
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUT: Final = "parquet"


def write_file(table: Outgoing, path: str) -> None:
    """Write the file, a row group for each block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.float32(), table.embed_dim)
    schema = table.row_schema.append(pa.field(VECTOR, kind, nullable=False))
    with pq.ParquetWriter(path, schema) as writer:
        for rows, vectors in table.blocks():
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
            writer.write_batch(pa.record_batch([*rows.columns, column], schema=schema))


def open_file(path: str) -> Incoming:
    """Recognise such a file; the vectors may be lists of one length of any float type.

    Raises:
        ExchangeError: it has no column of vectors, or none that names the pictures.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        if VECTOR not in schema.names:
            raise ExchangeError(
                f"{path}: no column {VECTOR!r}; it has {', '.join(schema.names)}. Rename the one "
                "that holds the vectors"
            )
        first = next(file.iter_batches(1, columns=[VECTOR]), None)
    provenance = provenance_of(schema, path)
    columns = row_columns(schema, provenance, path)
    if first is not None:
        embed_dim = _matrix(first[VECTOR], path).shape[1]
    else:
        embed_dim = 0 if provenance is None else provenance.identity.embed_dim
    return Incoming(
        path=path,
        layout=LAYOUT,
        num_rows=num_rows,
        embed_dim=embed_dim,
        provenance=provenance,
        dropped=columns.dropped,
        read=partial(_read, path, columns),
    )


def _read(path: str, columns: RowColumns, block_rows: int) -> Iterator[Block]:
    import pyarrow.parquet as pq

    # Arrow's reading ahead would keep all of the file in memory until the end.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(block_rows, columns=[*columns.types, VECTOR]):
            yield Block(columns.rows(batch, path), _matrix(batch[VECTOR], path))


def _matrix(column: pa.Array, path: str) -> Embeddings:
    """Return a column of lists as (R, E) float32."""
    import pyarrow.compute as pc
    from pyarrow import types

    kind = column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not types.is_floating(kind.value_type):
        raise ExchangeError(f"{path}: {VECTOR} is of type {kind}, not lists of floats")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    numbers = column.flatten()
    if column.null_count or numbers.null_count or len(set(lengths.tolist())) > 1:
        raise ExchangeError(
            f"{path}: some rows have no vector, or one of another length; remove these rows"
        )
    flat = np.asarray(numbers.to_numpy(zero_copy_only=False), np.float32)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
