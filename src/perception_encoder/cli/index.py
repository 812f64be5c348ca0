"""`pe index` and `pe errors`: bring images into an index, and see what could not be brought."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.model_choice import choose_model
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
    find_index,
    open_model,
)
from perception_encoder.cli.output import say, write_json, write_path, write_table

if TYPE_CHECKING:
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index, Outcome
    from perception_encoder.indexing import Run, RunOptions
    from perception_encoder.indexing.prepare import Preparation
    from perception_encoder.sources import Source

_SHOWN_FAILURES = 10  # one by one; `pe errors` lists all


def index(  # noqa: PLR0913  one parameter for each option
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, files, globs, tars, .parquet, .csv or .jsonl indexes, URLs such as "
            "s3://bucket/folder; - reads names from stdin."
        ),
    ] = None,
    index_path: IndexOption = None,
    exclude: ExcludeOption = None,
    include_hidden: Annotated[
        bool,
        typer.Option(
            "--include-hidden", help="Also names that begin with a dot, and @eaDir and its like."
        ),
    ] = False,
    null: Annotated[bool, typer.Option("-0", help="stdin is separated by NUL.")] = False,
    column: ColumnOption = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove rows of images that have gone.")
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try what failed before; just that, if no source."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Then follow changes of the folders until Ctrl-C.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for another run on the index to end.")
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
    ray_cores: Annotated[
        int | None,
        typer.Option(
            "--ray-cores",
            min=1,
            help="CPU cores of each worker there; default: its share of the smallest machine.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Embed images into an index; images that are in it already are skipped.

    Unchanged files are not read again, copies and renamed files reuse their vector, a bad file is
    reported and the others go on. A run that was stopped or killed goes on where it was. The exit
    code is 1 where any image failed: `pe errors` lists them.

    Examples:
        pe index ~/Pictures --index images.lance
        pe index "shards/{00000..00012}.tar" s3://bucket/photos urls.parquet
        find . -name '*.png' -print0 | pe index -0 -
    """
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.index import OutcomeLog
    from perception_encoder.indexing import FailedItems, RunOptions, watch_changes
    from perception_encoder.sources import SourceOptions, open_sources

    if not sources and not retry_failed:
        raise typer.BadParameter("name a source: a folder, a file, an index, or - for stdin")
    options = SourceOptions(
        exclude=tuple(exclude or ()),
        include_hidden=include_hidden,
        null_separated=null,
        column=column,
    )
    opened = open_sources(sources or [], options)  # before the model: a wrong name shows at once
    path = find_index(index_path)
    if not sources:
        failures = list(OutcomeLog(path).latest(["failed"]))
        opened = [FailedItems(failures)]
    compute = ComputeOptions(device=device, backend=backend, precision=precision, compile=compiled)
    run_options = RunOptions(
        batch_size=batch_size, prune=prune, wait=wait, retries_failures=retry_failed
    )
    with _work(path, model, compute, preprocess, ray, ray_cores, batch_size) as work:
        # Watched from before the run: it may take hours, and have passed what changes meanwhile.
        bursts = watch_changes(sources or [], options) if watch else ()
        has_failed = _run(work, opened, run_options, as_json=as_json)
        for changes in bursts:  # for ever; each deletion has been seen, so all of them are pruned
            _run(work, changes, replace(run_options, prunes_all=True), as_json=as_json)
    if has_failed:
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
            write_json(_record(failure))
    elif failures:
        write_table(
            ["reason", "message"], [[failure.reason, failure.message] for failure in failures]
        )
        retry = f"pe index --retry-failed --index {shlex.quote(index.path)}"
        say(f"{len(failures)} failed; try them again: {retry}")
    else:
        say(f"{index.path}: nothing failed")


@dataclass(frozen=True, slots=True)
class _Work:
    """A model, its index, and where items are prepared if not in this process."""

    model: "EmbeddingModel"
    index: "Index"
    open_preparing: "Callable[[], Preparation] | None" = None
    model_name: str | None = None
    """What the model was opened by in this process."""


@contextmanager
def _work(
    path: str,
    name: str | None,
    options: "ComputeOptions",
    preprocess: PreprocessChoice | None,
    ray: str | None,
    ray_cores: int | None,
    batch_size: int,
) -> "Iterator[_Work]":
    """Open the model, here or on a cluster, and the index."""
    if ray is None:
        yield _opened(path, name, options, preprocess)
        return
    from perception_encoder.distributed import on_cluster
    from perception_encoder.index import Index
    from perception_encoder.search.query_model import refuse_another

    expected = None
    if (index := _index_at(path)) is not None:
        expected = index.identity
        name, preprocess = name or expected.model_id, preprocess or expected.preprocess
        refuse_another(index, name)
    if name is None:
        name = choose_model()
    with on_cluster(
        ray, name, options, preprocess=preprocess, cores=ray_cores, expected=expected
    ) as place:
        say(f"pe: {place.plan} at {ray}")
        index = index or Index.open_or_prepare(path, place.model.identity)
        yield _Work(place.model, index, lambda: place.preparing(batch_size))


def _opened(
    path: str,
    name: str | None,
    options: "ComputeOptions",
    preprocess: PreprocessChoice | None,
) -> _Work:
    """Open the model and the index. The model of an index that has rows is the default."""
    from perception_encoder.index import Index
    from perception_encoder.search.query_model import open_index_model

    index = _index_at(path)
    if index is not None and (index.count() or name is None):
        model = open_index_model(index, name, options, preprocess=preprocess)
        return _Work(model, index, model_name=name or index.identity.model_id)
    if name is None:
        name = choose_model()
    model = open_model(
        name,
        device=options.device,
        backend=options.backend,
        precision=options.precision,
        compiled=options.compile,
        preprocess=preprocess,
    )
    return _Work(model, Index.open_or_prepare(path, model.identity), model_name=name)


def _index_at(path: str) -> "Index | None":
    from perception_encoder.errors import IndexNotFoundError
    from perception_encoder.index import Index

    try:
        return Index.open(path)
    except IndexNotFoundError:
        return None


def _run(
    work: _Work,
    sources: "Sequence[Source]",
    options: "RunOptions",
    *,
    as_json: bool,
) -> bool:
    """Do one run, tell of it, and return whether anything failed."""
    from perception_encoder.cli.progress import ProgressDisplay
    from perception_encoder.indexing import Run
    from perception_encoder.search.upkeep import prepare_for_search

    model, index = work.model, work.index
    run = Run(model, index, sources, options, open_preparing=work.open_preparing)
    started = time.monotonic()
    try:
        with ProgressDisplay(run.progress) as display:
            for outcome in run.outcomes():
                if outcome.status == "failed" and run.progress.counts["failed"] <= _SHOWN_FAILURES:
                    display.say(f"pe: {outcome.message}")
                if as_json:
                    write_json(_record(outcome))
                display.update()
    except KeyboardInterrupt:
        say("pe: stopped; the same command goes on from here")
        raise
    finally:
        for note in run.progress.notes:
            say(f"pe: {note}")
        say(_summary(run, index, time.monotonic() - started))
    sys.stdout.flush()  # who reads the lines of --watch need not wait for more
    counts = run.progress.counts
    prepare_for_search(
        index,
        model,
        num_changed=counts["embedded"] + counts["reused"] + counts["pruned"],
        model_name=work.model_name,
        on_optimize=lambda: say(
            f"{index.path}: being optimized for search; Ctrl-C leaves it as it is"
        ),
    )
    return run.progress.counts["failed"] > 0


def _summary(run: "Run", index: "Index", seconds: float) -> str:
    counts = run.progress.counts
    if not index.is_created:
        failed = counts["failed"]
        why = f"none of {failed:,} images could be read" if failed else "no images were found"
        return f"{index.path}: {why}, so no index was created; {seconds:.1f} s"
    listed = ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts) if counts[name])
    held = index.count()
    images = "1 image" if held == 1 else f"{held:,} images"
    text = f"{index.path}: {listed or 'no images found'}; {images} in the index"
    if counts["vanished"]:
        text += " (--prune removes those that have vanished)"
    text += f"; {seconds:.1f} s"
    if counts["failed"]:
        text += f"; see the failures: pe errors --index {shlex.quote(index.path)}"
    return text


def _record(outcome: "Outcome") -> dict[str, object]:
    """Return an outcome as JSON, without what it has nothing to say about."""
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
