"""Writes a table, or what meets a condition, in a layout that other programs read."""

import logging
import os
from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

from perception_encoder.index.exchange import clip_retrieval, line_files, parquet_file
from perception_encoder.index.exchange.output import whole
from perception_encoder.index.exchange.provenance import Provenance
from perception_encoder.index.exchange.streams import Outgoing
from perception_encoder.index.schema import FACTS, VECTOR
from perception_encoder.index.table import Index

Layout: TypeAlias = Literal["clip-retrieval", "parquet", "npy", "faiss"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)

logger = logging.getLogger(__name__)

PART_ROWS: Final = 1_000_000


def export_table(
    index: Index,
    path: str | os.PathLike[str],
    layout: Layout,
    *,
    where: str | None = None,
    part_rows: int = PART_ROWS,
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Write rows and vectors to files; they appear under their name when all is written.

    Args:
        index: the table.
        path: what to make: a file for "parquet", a folder for the others. It must not exist.
        layout: "clip-retrieval": `img_emb/img_emb_0.npy` (float16) and
            `metadata/metadata_0.parquet`, and so on. "parquet": one file with a column `vector` of
            float32 lists, as embedding-atlas and DuckDB read it. "npy": `vectors.npy` in the
            table's own type and `rows.jsonl`. "faiss": an `IndexFlatIP` in `vectors.faiss`, and
            `rows.jsonl` in its order. NaN and infinities are null in `rows.jsonl`; how many is
            logged.
        where: an SQL condition; other rows are left out.
        part_rows: rows of one part of clip-retrieval's layout.
        progress: told of how many rows were written since the last call.

    Returns:
        How many rows were written.

    Raises:
        ExchangeError: something is there already, or it cannot be written.
        QueryError: the condition is wrong.
        ValueError: part_rows below 1.
    """
    if part_rows < 1:
        raise ValueError(f"part_rows must be at least 1, got {part_rows}")
    num_rows = sum(len(batch) for batch in index.scan(["id"], where=where))
    ours = ("id", VECTOR, *FACTS)
    metadata = tuple(name for name in index.schema.names if name not in ours)
    provenance = Provenance(index.identity, index.vector_dtype, metadata)
    table = Outgoing(index, where, num_rows, provenance, progress)
    with whole(os.fspath(path), is_folder=layout != "parquet") as target:
        if layout == "parquet":
            parquet_file.write_file(table, target)
        elif layout == "clip-retrieval":
            clip_retrieval.write_folder(table, target, part_rows)
            provenance.save(target)
        else:
            line_files.write_folder(table, target, layout)
            provenance.save(target)
    if table.left_out:
        logger.warning(
            "%s: %d values that JSON cannot hold (NaN, infinities) are null in %s: %s; "
            "parquet keeps them",
            path,
            table.left_out.total(),
            line_files.ROWS,
            ", ".join(table.left_out),
        )
    return num_rows
