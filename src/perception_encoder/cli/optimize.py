"""`pe optimize`: compact an index and rebuild its searcher."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder.cli.options import IndexOption, JsonOption, RayCoresOption, find_index
from perception_encoder.cli.output import say, write_json

if TYPE_CHECKING:
    from perception_encoder.index.vector_index import BuildVectorIndex

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
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Build the vector index of an index on object storage on a Ray cluster: auto or "
            "HOST:PORT.",
        ),
    ] = None,
    ray_cores: RayCoresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compact an index, drop its old versions and rebuild its searcher.

    Do it after large changes: `pe index` writes many small files, and rows that are not in the
    searcher are read from the index for every query. In a bucket, the searcher is Lance's vector
    index, which all readers share. Nothing is lost if it is interrupted.

    Examples:
        pe optimize --index images.lance
        pe optimize --index s3://bucket/images.lance
        pe optimize --index s3://bucket/images.lance --ray auto
    """
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index

    index = Index.open(find_index(index_path))
    with (
        _open_builder(index.path, ray, ray_cores) as build,
        show_steps(f"optimizing {index.path}"),
    ):
        done = index.optimize(
            older_than=datetime.timedelta(days=keep_days), build_vector_index=build
        )
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


@contextmanager
def _open_builder(path: str, ray: str | None, ray_cores: int | None) -> Iterator[BuildVectorIndex]:
    """Yield what builds the vector index: this machine, or a Ray cluster."""
    from perception_encoder.index.storage import is_remote
    from perception_encoder.index.vector_index import build_vector_index

    if ray is None:
        yield build_vector_index
        return
    if not is_remote(path):
        raise typer.BadParameter(
            f"--ray builds the vector index of an index on object storage; {path} is on this "
            "machine, where optimizing needs no cluster"
        )
    from perception_encoder.distributed import vector_index_builder

    with vector_index_builder(ray, cores=ray_cores) as builder:
        say(f"pe: {builder.plan} at {ray}")
        yield builder
