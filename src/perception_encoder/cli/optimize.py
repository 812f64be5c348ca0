"""`pe optimize`: compact an index and rebuild its searcher."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Annotated, Final

import typer

from perception_encoder.cli.options import IndexOption, JsonOption, find_index
from perception_encoder.cli.output import say, write_json

_SEARCHERS: Final = {
    "none": "not needed, the index is small",
    "exact": "exact, compares every embedding",
    "approximate": "approximate",
    "vector-index": "Lance's vector index, approximate",
}


def optimize(
    index_path: IndexOption = None,
    keep_days: Annotated[
        float,
        typer.Option(
            min=0,
            max=36_500,
            help="Drop older versions of the index. 0 keeps only the current one, and breaks "
            "searches that are running.",
        ),
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Compact an index, drop its old versions and rebuild its searcher.

    Do it after large changes: `pe index` writes many small files, and rows that are not in the
    searcher are read from the index for every query. In a bucket, the searcher is Lance's vector
    index, which all readers share. Nothing is lost if it is interrupted.

    Examples:
        pe optimize --index images.lance
        pe optimize --index s3://bucket/images.lance
    """
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index

    index = Index.open(find_index(index_path))
    with show_steps(f"optimizing {index.path}"):
        done = index.optimize(older_than=datetime.timedelta(days=keep_days))
    if as_json:
        write_json(dataclasses.asdict(done))
        return
    say(
        f"{index.path}: {done.num_rows} images in {done.fragments_after} files (before: "
        f"{done.fragments_before}); {done.versions_removed} old versions dropped, "
        f"{done.bytes_freed / 1e6:.1f} MB freed; {done.seconds:.1f} s"
    )
    detail = "" if done.recall is None else f", finds {done.recall:.1%} of the true best 10"
    size = f", {done.searcher_bytes / 1e6:.1f} MB" if done.searcher_bytes else ""
    built = f", built in {done.build_seconds:.1f} s" if done.build_seconds else ""
    say(f"searcher: {_SEARCHERS[done.searcher]}{detail}{size}{built}")
