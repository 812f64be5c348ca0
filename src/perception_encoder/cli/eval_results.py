"""Output of `pe eval`: tables in percent for people, shares in JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from perception_encoder.cli.output import say, write_line, write_table

if TYPE_CHECKING:
    from perception_encoder.analysis.evaluation import Accuracy, Retrieval, Share

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


def describe_accuracy(one: Accuracy, templates: Sequence[str]) -> dict[str, Any]:
    """Return an accuracy as JSON."""
    return {
        "task": "zero-shot classification",
        "templates": list(templates),
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
