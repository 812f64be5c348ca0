"""`pe index` and `pe errors`: embed images into an index, and list those that failed."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder.cli.options import (
    BackendOption,
    BatchSizeOption,
    ColumnOption,
    CompileOption,
    DeviceOption,
    ExcludeOption,
    IndexModelOption,
    IndexOption,
    JsonOption,
    NullOption,
    PathsOption,
    PrecisionOption,
    PreprocessChoice,
    PreprocessOption,
    RayCoresOption,
    choose_model,
    complete_model,
    find_index,
    open_model,
)
from perception_encoder.cli.output import format_images, say, write_json, write_path, write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from perception_encoder.backends import ComputeOptions
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index, Outcome
    from perception_encoder.index.tiles import TileGrid
    from perception_encoder.indexing import ReembedOptions, Run, RunOptions
    from perception_encoder.indexing.prepare import Preparation
    from perception_encoder.indexing.video_contents import VideoReader
    from perception_encoder.sources import Source

_MAX_FAILURES: Final = 10  # of those reported one by one; `pe errors` lists all


def index(  # noqa: PLR0913  one parameter for each option
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, files, globs, tars, .parquet, .csv or .jsonl files, URLs such as "
            "s3://bucket/folder; - reads names from stdin."
        ),
    ] = None,
    index_path: IndexOption = None,
    exclude: ExcludeOption = None,
    include_hidden: Annotated[
        bool,
        typer.Option(
            "--include-hidden", help="Include names that begin with a dot, @eaDir and the like."
        ),
    ] = False,
    null: Annotated[bool, typer.Option("-0", help="Names on stdin are separated by NUL.")] = False,
    column: ColumnOption = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the rows of images that no longer exist.")
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Retry images that failed before; without sources only those."
        ),
    ] = False,
    metadata: Annotated[
        bool | None,
        typer.Option(
            "--metadata/--no-metadata",
            help="Store what files and sidecars say of photos: date, place, camera and so on.  "
            "[default: as the index remembers; a new one: --metadata]",
            show_default=False,
        ),
    ] = None,
    tiles: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNSxROWS",
            help="Also embed each image in parts, such as 2x2 or 3x3, so that small things are "
            "found. A new index stores the choice.  [default: as the index remembers; a new one: "
            "none]",
            show_default=False,
        ),
    ] = None,
    refresh_metadata: Annotated[
        bool,
        typer.Option(
            "--refresh-metadata",
            help="Read the metadata of all indexed photos again, without embedding anything.",
        ),
    ] = False,
    reembed: Annotated[
        str | None,
        typer.Option(
            "--reembed",
            metavar="MODEL",
            autocompletion=complete_model,
            help="Change the model of the index: embed its images again. Searches find the old "
            "embeddings until all new ones are there.",
        ),
    ] = None,
    leave_missing: Annotated[
        Path | None,
        typer.Option(
            "--leave-missing",
            metavar="FILE",
            help="With --reembed: leave out images that cannot be read any more, and list them in "
            "this file as JSON lines.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Then follow changes in the folders until Ctrl-C.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for another run on this index to end.")
    ] = False,
    model: IndexModelOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = False,
    preprocess: PreprocessOption = None,
    batch_size: BatchSizeOption = 32,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Read and embed on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT.",
        ),
    ] = None,
    ray_cores: RayCoresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed images and videos into an index; those that are in it already are skipped.

    Unchanged files are not read again, and copies and renamed files reuse their embedding. A file
    that cannot be read is reported and skipped; the exit code is then 1, and `pe errors` lists
    these files. The same command continues a run that was interrupted or killed.

    With --tiles each image has further rows, of its parts. A search then finds it by its best part.

    Videos need the extra `video`. Each is divided into segments, which are found like images.

    With --reembed the index gets another model. Its images are opened again, all of their metadata
    stays, and the new embeddings replace the old ones at once when all are there.

    Examples:
        pe index ~/Pictures --index images.lance
        pe index "shards/{00000..00012}.tar" s3://bucket/photos urls.parquet
        find . -name '*.png' -print0 | pe index -0 -
        pe index ~/Pictures --tiles 2x2 --index images.lance
        pe index --refresh-metadata --index images.lance
        pe index --reembed PE-Core-B16-224 --index images.lance
    """
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.index import OutcomeLog
    from perception_encoder.indexing import (
        FailedItems,
        ReembedOptions,
        RunOptions,
        watch_changes,
    )
    from perception_encoder.sources import SourceOptions, open_sources

    if refresh_metadata and reembed is None:
        if sources or retry_failed or watch or metadata is False or tiles is not None:
            raise typer.BadParameter(
                "--refresh-metadata reads the files of the index: it goes without sources, "
                "--retry-failed, --watch, --no-metadata and --tiles"
            )
        _refresh_metadata(find_index(index_path), wait=wait, as_json=as_json)
        return
    if leave_missing is not None and reembed is None:
        raise typer.BadParameter("--leave-missing goes with --reembed")
    compute = ComputeOptions(device=device, backend=backend, precision=precision, compile=compiled)
    if reembed is not None:
        others = sources or retry_failed or prune or watch or refresh_metadata or column or exclude
        if others or metadata is not None or tiles is not None or ray:
            raise typer.BadParameter(
                "--reembed opens the images of the index and keeps its metadata and tiles: it goes "
                "without sources, --prune, --retry-failed, --watch, --metadata, --tiles, "
                "--refresh-metadata and --ray"
            )
        _reembed(
            find_index(index_path),
            reembed,
            compute,
            preprocess,
            ReembedOptions(batch_size, wait, leave_missing),
            as_json=as_json,
        )
        return
    if not sources and not retry_failed:
        raise typer.BadParameter("name a source: a folder, a file, an index, or - for stdin")
    source_options = SourceOptions(
        exclude=tuple(exclude or ()),
        include_hidden=include_hidden,
        null_separated=null,
        column=column,
        videos=True,
    )
    opened = open_sources(sources or [], source_options)  # reports a wrong name before the model
    path = find_index(index_path)
    if not sources:
        opened = [FailedItems(list(OutcomeLog(path).latest(["failed"])))]
    options = RunOptions(
        batch_size=batch_size,
        prune=prune,
        wait=wait,
        retries_failures=retry_failed,
        metadata=metadata,
        tiles=None if tiles is None else _parse_tiles(tiles),
    )
    with _open_target(path, model, compute, preprocess, ray, ray_cores, batch_size) as target:
        # From before the run, so that changes during it are seen, too.
        changes = watch_changes(sources or [], source_options) if watch else ()
        has_failed = _run(target, opened, options, as_json=as_json)
        for changed in changes:  # endless; every deletion is seen, so all of them are pruned
            _run(target, changed, replace(options, prunes_all=True), as_json=as_json)
    if has_failed:
        raise typer.Exit(1)


def _reembed(
    path: str,
    name: str,
    compute: ComputeOptions,
    preprocess: PreprocessChoice | None,
    options: ReembedOptions,
    *,
    as_json: bool,
) -> None:
    """Change the model of an index."""
    from perception_encoder.cli.reembed import reembed_index
    from perception_encoder.index import Index

    index = Index.open(path)
    model = open_model(
        name,
        device=compute.device,
        backend=compute.backend,
        precision=compute.precision,
        compiled=compute.compile,
        preprocess=preprocess or index.identity.preprocess,
    )
    reembed_index(index, model, options, as_json=as_json)


def _parse_tiles(text: str) -> TileGrid:
    from perception_encoder.index.tiles import TileGrid

    try:
        return TileGrid.parse(text)
    except ValueError as err:
        raise typer.BadParameter(f"--tiles: {err}") from err


def _refresh_metadata(path: str, *, wait: bool, as_json: bool) -> None:
    """Read the metadata of an index's photos again, and report it."""
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index
    from perception_encoder.indexing import MetadataRefresh

    index = Index.open(path)
    refresh, started = MetadataRefresh(index, wait=wait), time.monotonic()
    progress, work = refresh.progress, f"reading the metadata of {format_images(index.count())}"
    num_said = 0
    try:
        with show_steps(work) as report:
            for unread in refresh.unread():
                report(work, progress.num_done, progress.num_rows)
                for one in unread:
                    if as_json:
                        write_json({"status": "failed", **one._asdict()})
                    elif num_said < _MAX_FAILURES:
                        say(f"pe: {one.message}")
                        num_said += 1
    except KeyboardInterrupt:
        say("pe: interrupted; the same command continues from here")
        raise
    for note in progress.notes():
        say(f"pe: {note}")
    failed = f", {progress.num_failed:,} could not be read" if progress.num_failed else ""
    say(
        f"{path}: metadata of {progress.num_changed:,} of {format_images(progress.num_rows)} "
        f"changed{failed}; {time.monotonic() - started:.1f} s"
    )
    if progress.num_failed:
        raise typer.Exit(1)


def errors(
    index_path: IndexOption = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
) -> None:
    """List the images that could not be indexed, and why.

    Example:
        pe errors --paths | xargs ls -l
    """
    from perception_encoder.index import Index, OutcomeLog

    index = Index.open(find_index(index_path))
    failures = list(OutcomeLog(index.path).latest(["failed"]))
    if null or paths:
        for failure in failures:
            write_path(failure.uri, null=null)
    elif as_json:
        for failure in failures:
            write_json(_to_record(failure))
    elif failures:
        write_table(["reason", "message"], [[one.reason, one.message] for one in failures])
        retry = f"pe index --retry-failed --index {shlex.quote(index.path)}"
        say(f"{len(failures)} failed; to retry them: {retry}")
    else:
        say(f"{index.path}: nothing failed")


@dataclass(frozen=True, slots=True)
class IndexTarget:
    """A model and the index that it fills.

    Attributes:
        open_preparing: prepares items on a cluster; None for this process.
        open_videos: likewise for videos.
    """

    model: EmbeddingModel
    index: Index
    open_preparing: Callable[[], Preparation] | None = None
    open_videos: Callable[[], VideoReader] | None = None


@contextmanager
def _open_target(
    path: str,
    name: str | None,
    options: ComputeOptions,
    preprocess: PreprocessChoice | None,
    ray: str | None,
    ray_cores: int | None,
    batch_size: int,
) -> Iterator[IndexTarget]:
    """Open the model, here or on a Ray cluster, and the index."""
    if ray is None:
        yield _open_local(path, name, options, preprocess)
        return
    from perception_encoder.distributed import on_cluster
    from perception_encoder.index import Index
    from perception_encoder.search.query_model import refuse_another

    index, expected = _find_existing(path), None
    if index is not None:
        expected = index.identity
        name, preprocess = name or expected.model_id, preprocess or expected.preprocess
        refuse_another(index, name)
    name = name or choose_model()
    with on_cluster(
        ray, name, options, preprocess=preprocess, cores=ray_cores, expected=expected
    ) as cluster:
        say(f"pe: {cluster.plan} at {ray}")
        index = index or Index.open_or_prepare(path, cluster.model.identity)
        yield IndexTarget(
            cluster.model,
            index,
            lambda: cluster.preparing(batch_size),
            lambda: cluster.videos(batch_size),
        )


def _open_local(
    path: str, name: str | None, options: ComputeOptions, preprocess: PreprocessChoice | None
) -> IndexTarget:
    """Open the model and the index. The model of an index that has rows is the default."""
    from perception_encoder.index import Index
    from perception_encoder.search.query_model import open_index_model

    index = _find_existing(path)
    if index is not None and (index.count() or name is None):
        model = open_index_model(index, name, options, preprocess=preprocess)
        return IndexTarget(model, index)
    name = name or choose_model()
    model = open_model(
        name,
        device=options.device,
        backend=options.backend,
        precision=options.precision,
        compiled=options.compile,
        preprocess=preprocess,
    )
    return IndexTarget(model, Index.open_or_prepare(path, model.identity))


def fill_index(
    path: str, sources: Sequence[str], model: str | None, options: ComputeOptions
) -> tuple[Index, bool]:
    """Bring an index up to date with its sources; make it if there is none.

    Returns:
        The index, and whether an image failed.

    Raises:
        IndexNotFoundError: no image could be read, so there is no index.
    """
    from perception_encoder.errors import IndexNotFoundError
    from perception_encoder.index import Index
    from perception_encoder.indexing import RunOptions
    from perception_encoder.sources import SourceOptions, open_sources

    opened = open_sources(list(sources), SourceOptions(videos=True))
    target = _open_local(path, model, options, None)
    has_failed = _run(target, opened, RunOptions(prune=True), as_json=False)
    if not target.index.is_created:
        raise IndexNotFoundError(f"{', '.join(sources)}: there are no images to look at")
    return Index.open(path), has_failed


def _find_existing(path: str) -> Index | None:
    from perception_encoder.errors import IndexNotFoundError
    from perception_encoder.index import Index

    try:
        return Index.open(path)
    except IndexNotFoundError:
        return None


def _run(
    target: IndexTarget, sources: Sequence[Source], options: RunOptions, *, as_json: bool
) -> bool:
    """Do one run and report it; return whether anything failed."""
    from perception_encoder.cli.progress import ProgressDisplay, show_steps
    from perception_encoder.indexing import Run
    from perception_encoder.search.upkeep import prepare_for_search

    index = target.index
    run = Run(
        target.model,
        index,
        sources,
        options,
        open_preparing=target.open_preparing,
        open_videos=target.open_videos,
    )
    counts, started = run.progress.counts, time.monotonic()
    try:
        with ProgressDisplay(run.progress) as display:
            for outcome in run.outcomes():
                if outcome.status == "failed" and counts["failed"] <= _MAX_FAILURES:
                    display.say(f"pe: {outcome.message}")
                if as_json:
                    write_json(_to_record(outcome))
                display.update()
    except KeyboardInterrupt:
        say("pe: interrupted; the same command continues from here")
        raise
    finally:
        for note in run.progress.notes:
            say(f"pe: {note}")
        say(_summarize(run, index, time.monotonic() - started))
    sys.stdout.flush()  # for readers of --watch --json
    with show_steps(f"preparing {index.path} for searches; Ctrl-C skips this"):
        prepare_for_search(
            index,
            target.model,
            num_changed=counts["embedded"] + counts["reused"] + counts["pruned"],
        )
    return counts["failed"] > 0


def _summarize(run: Run, index: Index, seconds: float) -> str:
    counts = run.progress.counts
    if not index.is_created:
        failed = counts["failed"]
        why = f"none of {failed:,} images could be read" if failed else "no images were found"
        return f"{index.path}: {why}, so no index was created; {seconds:.1f} s"
    listed = ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts) if counts[name])
    text = f"{index.path}: {listed or 'no images found'}"
    text += f"; {format_images(index.count())} in the index"
    if counts["vanished"]:
        text += " (--prune removes the vanished ones)"
    text += f"; {seconds:.1f} s"
    if counts["failed"]:
        text += f"; to list the failures: pe errors --index {shlex.quote(index.path)}"
    return text


def _to_record(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as JSON, without empty fields."""
    fields = {
        "uri": outcome.uri,
        "member": outcome.member,
        "status": outcome.status,
        "reason": outcome.reason or None,
        "message": outcome.message or None,
        "bytes": outcome.bytes,
        "decode_ms": round(outcome.decode_ms, 2) or None,
        "encode_ms": round(outcome.encode_ms, 2) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
