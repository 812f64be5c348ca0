"""A table's rows with what was found of each picture as further columns, in one Parquet file.

embedding-atlas, DuckDB and pandas open it. Vectors are left out: `pe table export` writes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from perception_encoder.analysis.whole_file import whole_file
from perception_encoder.errors import ExchangeError
from perception_encoder.index import Index
from perception_encoder.index.schema import VECTOR

if TYPE_CHECKING:
    import pyarrow as pa


def write_labelled(
    index: Index, where: str | None, columns: Mapping[str, pa.Array], path: str | os.PathLike[str]
) -> None:
    """Write the file; it appears, or replaces the one that is there, when it is whole.

    A column of the table that has the name of a further one gives way to it.

    Args:
        index: the table.
        where: an SQL condition; other rows are left out.
        columns: further columns, by name, for each of these rows, in the table's order.
        path: of the file.

    Raises:
        ExchangeError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = [name for name in index.schema.names if name != VECTOR and name not in columns]
    fields = [index.schema.field(name) for name in own]
    fields += [pa.field(name, column.type) for name, column in columns.items()]
    schema = pa.schema(fields)
    start = 0
    # Arrow takes no name that is not valid Unicode, but any open file.
    with (
        whole_file(path, ExchangeError) as partial,
        partial.open("wb") as file,
        pq.ParquetWriter(file, schema) as writer,
    ):
        for batch in index.scan(own, where=where):
            further = [column.slice(start, len(batch)) for column in columns.values()]
            laid_out = [*(batch[name] for name in own), *further]
            writer.write_batch(pa.record_batch(laid_out, schema=schema))
            start += len(batch)
