"""How `pe embed` writes vectors: lines to stdout, or one file that is whole or not there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perception_encoder.cli.output import json_text, write_json

if TYPE_CHECKING:
    from perception_encoder.types import Embeddings

Format = Literal["jsonl", "npy", "parquet"]


def write_vectors(
    names: Sequence[str],
    vectors: "Embeddings",
    kept: Sequence[int],
    out: Path | None,
    chosen: Format,
) -> None:
    """Write the vectors of N items.

    Args:
        names: of all N.
        vectors: (N, E) float32, NaN where there is none.
        kept: positions of the items that have a vector. A `.npy` has all N rows, so that positions
            hold; the other formats name their items, and have only these.
        out: the file; None for stdout.
        chosen: its format.

    Raises:
        OutputError: the file cannot be written; what was there is as it was.
    """
    if out is None:
        for place in kept:
            write_json({"item": names[place], "vector": vectors[place].tolist()})
        return
    from perception_encoder.atomic import atomic_write
    from perception_encoder.errors import OutputError

    with atomic_write(out, OutputError) as path:
        if chosen == "npy":
            _write_npy(path, vectors)
        elif chosen == "jsonl":
            _write_lines(path, [names[place] for place in kept], vectors[kept])
        else:
            _write_parquet(path, [names[place] for place in kept], vectors[kept])


def _write_npy(path: Path, vectors: "Embeddings") -> None:
    import numpy as np

    # Not by `np.save`: on a full disk that cuts the rows off and says nothing.
    with path.open("wb") as file:
        described = np.lib.format.header_data_from_array_1_0(vectors)
        np.lib.format.write_array_header_1_0(file, described)
        file.write(np.ascontiguousarray(vectors).data)


def _write_lines(path: Path, names: Sequence[str], vectors: "Embeddings") -> None:
    with path.open("w", encoding="utf-8") as lines:
        for name, vector in zip(names, vectors, strict=True):
            lines.write(json_text({"item": name, "vector": vector.tolist()}) + "\n")


def _write_parquet(path: Path, names: Sequence[str], vectors: "Embeddings") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from perception_encoder.sources.item import escape_name

    column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    with path.open("wb") as file:  # Arrow itself takes no name that is not valid Unicode
        pq.write_table(pa.table({"item": list(map(escape_name, names)), "vector": column}), file)
