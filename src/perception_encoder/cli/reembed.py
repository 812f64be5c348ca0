"""`pe index --reembed`: changes the model of an index."""

from __future__ import annotations

import shlex
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from perception_encoder.cli.output import format_images, say, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index
    from perception_encoder.indexing import Reembedding, ReembedOptions
    from perception_encoder.indexing.reembed import ReembedPlan
    from perception_encoder.types import ModelIdentity

_OF_FAILURE: Final = ("uri", "member", "status", "reason", "message")
_MAX_FAILURES: Final = 10  # of those reported one by one; the list has all


def reembed_index(
    index: Index, model: EmbeddingModel, options: ReembedOptions, *, as_json: bool
) -> None:
    """Embed the images of an index by another model, and report it.

    Raises:
        ImageIndexError: as `Reembedding.outcomes`.
    """
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index
    from perception_encoder.search.upkeep import finish_reembedding

    path, before, started = index.path, index.identity, time.monotonic()
    reembedding = _run(index, model, options, as_json=as_json)
    for note in reembedding.progress.notes:
        say(f"pe: {note}")
    result = reembedding.result
    if reembedding.given_up is not None:
        say(f"{path}: the change to {reembedding.given_up} was given up")
    if result is None:
        say(f"{path}: the index has embeddings of {before.model_id} already; nothing to do")
        return
    new = Index.open(path)
    with show_steps(f"preparing {path} for searches; Ctrl-C skips this"):
        notes = finish_reembedding(new, model, num_rows=result.num_rows)
    for note in notes:
        say(f"pe: {note}")
    counts = reembedding.progress.counts
    if as_json:
        write_json(
            {
                "status": "reembedded",
                "index": path,
                "model": new.identity.model_id,
                "model_before": before.model_id,
                "embedded": counts["embedded"],
                "reused": counts["reused"],
                "skipped": counts["skipped"],
                "rows": new.count(),
                "changed": result.num_changed,
                "left_behind": result.num_left,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    done = ", ".join(
        f"{counts[name]:,} {name}" for name in ("embedded", "reused", "skipped") if counts[name]
    )
    old_name, new_name = _tell_apart(before, new.identity)
    say(
        f"{path}: {format_images(new.count())} have embeddings of {new_name} now, no longer of "
        f"{old_name} ({done}); {time.monotonic() - started:.1f} s"
    )
    if result.num_left:
        say(
            f"pe: {format_images(result.num_left)} that cannot be read any more were left behind: "
            f"{options.leave_missing} lists them"
        )
    if result.num_changed:
        say(
            f"pe: {format_images(result.num_changed)} have changed since they were indexed; they "
            "were embedded as they are now, and `pe index FOLDER` reads their metadata again"
        )
    if result.num_tiles_left:
        say(
            f"pe: {result.num_tiles_left:,} tiles of images that have another size now were left "
            "out; `pe index FOLDER` makes new ones"
        )
    say(
        "pe: the old embeddings are kept as an older version for programs that still read them; to "
        f"free their space: pe optimize --keep-days 0 --index {shlex.quote(path)}"
    )


def _run(
    index: Index, model: EmbeddingModel, options: ReembedOptions, *, as_json: bool
) -> Reembedding:
    """Do the work and show how far it is."""
    from perception_encoder.cli.progress import ProgressDisplay, show_steps
    from perception_encoder.indexing import Reembedding

    swap = f"writing the rows of {index.path}"
    steps: list[Callable[[str, int, int], None]] = []

    def announce(plan: ReembedPlan) -> None:
        display.total = plan.num_files
        display.say(_describe_plan(plan, index, model))

    def show_swap(done: int, total: int) -> None:
        if not steps:
            display.close()
            steps.append(stack.enter_context(show_steps(swap)))
        steps[0](swap, done, total)

    reembedding = Reembedding(index, model, options, on_plan=announce, on_commit=show_swap)
    display = ProgressDisplay(reembedding.progress)
    counts = reembedding.progress.counts
    try:
        with ExitStack() as stack, display:
            for outcome in reembedding.outcomes():
                if outcome.status == "failed":
                    if as_json:
                        write_json({name: getattr(outcome, name) for name in _OF_FAILURE})
                    if counts["failed"] <= _MAX_FAILURES:
                        display.say(f"pe: {outcome.message}")
                display.update()
    except KeyboardInterrupt:
        say("pe: interrupted; the index is as before, and the same command continues from here")
        raise
    return reembedding


def _tell_apart(old: ModelIdentity, new: ModelIdentity) -> tuple[str, str]:
    """Return the names of two models; of one model, with what differs."""
    if old.model_id != new.model_id:
        return old.model_id, new.model_id
    if old.preprocess != new.preprocess:
        return f"{old.model_id} ({old.preprocess})", f"{new.model_id} ({new.preprocess})"
    return f"{old.model_id} ({old.fingerprint})", f"{new.model_id} ({new.fingerprint})"


def _describe_plan(plan: ReembedPlan, index: Index, model: EmbeddingModel) -> str:
    old_name, new_name = _tell_apart(index.identity, model.identity)
    rows = "" if plan.num_rows == plan.num_files else f" ({plan.num_rows:,} rows)"
    text = f"pe: embedding {format_images(plan.num_files)}{rows} again: {old_name} → {new_name}"
    if plan.num_present:
        text += f"; {plan.num_present:,} are done already"
    text += f"; about {max(1, plan.needed_bytes // 10**6):,} MB"
    if plan.free_bytes is not None:
        text += f" of {plan.free_bytes / 1e6:,.0f} MB that are free"
    return f"{text}. Searches find the old embeddings until then"
