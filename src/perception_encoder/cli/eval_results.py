"""Output of `pe eval`: tables in percent for people, shares in JSON for programs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from perception_encoder.cli.output import say, write_line, write_table

if TYPE_CHECKING:
    from perception_encoder.analysis.evaluation import Accuracy, Retrieval, Share
    from perception_encoder.embedder import EmbeddingModel

ClipBenchmarkTask: TypeAlias = Literal[
    "zeroshot_classification", "zeroshot_retrieval", "linear_probe", "knn"
]

_MAX_CLASSES: Final = 5  # of the worst classes and of confusions
_WILSON: Final = "95 %, Wilson"
_NORMAL: Final = "95 %, normal with Agresti-Coull variances"


def write_accuracies(results: Mapping[str, Accuracy]) -> None:
    """Write a row for each model, then the worst classes of each."""
    write_table(
        ["model", "images", "labels", "top-1 %", "top-5 %", "mean recall %"],
        [
            [
                name,
                f"{one.num_images:,}",
                f"{one.num_labels:,}",
                _format_share(one.top1),
                _format_share(one.top5),
                _format_share(one.mean_recall),
            ]
            for name, one in results.items()
        ],
    )
    if len(results) > 1:
        _write_comparisons(results)
    for name, one in results.items():
        _write_worst(name, one)
    say(
        "in brackets: 95 % Wilson intervals; for the mean recall a normal interval with "
        "Agresti-Coull variances"
    )


def write_retrievals(results: Mapping[str, Retrieval]) -> None:
    """Write a row for each model and direction."""
    lines = []
    for name, one in results.items():
        for direction, recall in (
            ("caption to image", one.text_to_image),
            ("image to caption", one.image_to_text),
        ):
            lines.append([name, direction, *map(_format_share, recall.values())])
    one = next(iter(results.values()))
    recalls = [f"recall@{k} %" for k in one.text_to_image]
    write_table(["model", "", *recalls], lines)
    say(
        f"{one.num_images:,} images, {one.num_texts:,} captions; in brackets: 95 % Wilson intervals"
    )


def describe_accuracy(one: Accuracy, task: str) -> dict[str, Any]:
    """Return an accuracy as JSON."""
    return {
        "task": task,
        "images": one.num_images,
        "labels": one.num_labels,
        "top1": _to_record(one.top1, _WILSON),
        "top5": _to_record(one.top5, _WILSON),
        "mean_recall": _to_record(one.mean_recall, _NORMAL),
        "classes": [
            {
                "label": each.label,
                "images": each.num_images,
                "recall": round(each.recall, 6),
            }
            for each in one.classes
        ],
        "confusions": [
            {"label": each.label, "taken_for": each.taken_for, "images": each.count}
            for each in one.confusions
        ],
    }


def describe_retrieval(one: Retrieval) -> dict[str, Any]:
    """Return recalls as JSON."""
    recalls = {"text_to_image": one.text_to_image, "image_to_text": one.image_to_text}
    return {
        "task": "retrieval",
        "images": one.num_images,
        "captions": one.num_texts,
        **{
            f"{direction}_recall@{k}": _to_record(share, _WILSON)
            for direction, recall in recalls.items()
            for k, share in recall.items()
        },
    }


def write_result(
    folder: Path,
    task: ClipBenchmarkTask,
    sources: Sequence[str],
    name: str,
    model: EmbeddingModel,
    result: Accuracy | Retrieval,
) -> None:
    """Write the measures of a model as CLIP_benchmark does; `clip_benchmark build` reads them.

    LAION-AI/CLIP_benchmark clip_benchmark/cli.py: `run` writes this record, `main_build` reads it.

    Raises:
        OutputError: the file cannot be written.
    """
    from perception_encoder.atomic import atomic_write
    from perception_encoder.cli.output import to_json
    from perception_encoder.errors import OutputError

    dataset = "+".join(Path(source.rstrip("/")).name or source for source in sources)
    record = {
        "dataset": dataset,
        "model": name,
        "pretrained": model.identity.fingerprint,
        "task": task,
        "metrics": _metrics(task, result),
        "language": "en",
    }
    written = "_".join((dataset, name, model.identity.fingerprint, task))
    path = folder / f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', written)[-200:]}.json"
    with atomic_write(path, OutputError) as partial:
        partial.write_text(to_json(record) + "\n", encoding="utf-8")
    say(f"{path}: {task} of {name}")


def _metrics(task: ClipBenchmarkTask, result: Accuracy | Retrieval) -> dict[str, float | None]:
    """Return measures under the names of CLIP_benchmark; those of k neighbors begin with "knn"."""
    from perception_encoder.analysis.evaluation import Retrieval

    if isinstance(result, Retrieval):
        recalls = {"image": result.text_to_image, "text": result.image_to_text}
        return {
            f"{kind}_retrieval_recall@{k}": share.value
            for kind, recall in recalls.items()
            for k, share in recall.items()
        }
    prefix = {"linear_probe": "lp_", "knn": "knn_"}.get(task, "")
    return {
        f"{prefix}acc1": result.top1.value,
        f"{prefix}acc5": None if result.top5 is None else result.top5.value,
        f"{prefix}mean_per_class_recall": result.mean_recall.value,
    }


def _write_comparisons(results: Mapping[str, Accuracy]) -> None:
    """Compare each model with the first, image by image."""
    from perception_encoder.analysis.evaluation import compare_accuracies

    (first, base), *others = results.items()
    lines = []
    for name, one in others:
        found = compare_accuracies(one, base)
        lines.append(
            [
                name,
                _format_share(found.difference),
                f"{found.num_only_one:,}",
                f"{found.num_only_other:,}",
            ]
        )
    write_line("", f"compared with {first}, image by image")
    write_table(["model", "top-1 difference", "only this right", f"only {first} right"], lines)


def _write_worst(name: str, one: Accuracy) -> None:
    worst = [each for each in one.classes if each.recall < 1][:_MAX_CLASSES]
    if not worst:
        return
    write_line("", f"{name}: worst classes")
    write_table(
        ["class", "images", "recall %"],
        [[each.label, f"{each.num_images:,}", f"{100 * each.recall:.1f}"] for each in worst],
    )
    write_line("", f"{name}: most frequent confusions")
    write_table(
        ["class", "taken for", "images"],
        [[each.label, each.taken_for, f"{each.count:,}"] for each in one.confusions[:_MAX_CLASSES]],
    )


def _format_share(share: Share | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _to_record(share: Share | None, interval: str) -> dict[str, Any] | None:
    if share is None:
        return None
    return {
        "value": round(share.value, 6),
        "low": round(share.low, 6),
        "high": round(share.high, 6),
        "interval": interval,
    }
