"""`pe teach`: a classifier learned from examples, with measured scores."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from perception_encoder import settings
from perception_encoder.cli.options import (
    ABOUT_DEFAULT_MODEL,
    DEFAULT_MODEL,
    BatchSizeOption,
    ColumnOption,
    ComputeFlags,
    ExcludeOption,
    IndexOption,
    JsonOption,
    RowFlags,
    SourcesModelOption,
    find_index,
    warn_of_photo_index,
    with_flags,
)
from perception_encoder.cli.output import (
    check_file,
    format_images,
    say,
    write_json,
    write_line,
    write_table,
)
from perception_encoder.errors import ClassifierError, QueryError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from perception_encoder.analysis.evaluation import Share
    from perception_encoder.analysis.few_shot import FewShotClassifier, Quality
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Row
    from perception_encoder.types import Embeddings

_MAX_FAILURES: Final = 10
_TOO_FEW: Final = "too few to say"


@with_flags
def teach(  # noqa: PLR0913  one parameter for each option
    name: Annotated[
        str, typer.Argument(help="Name of the classifier, or a path that ends in .npz.")
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders of examples, named after their labels; tars, .csv, .jsonl or .parquet "
            "files.  [default: the images of --index]",
            show_default=False,
        ),
    ] = None,
    none: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="The folder or label whose examples have none of the labels; repeat it for "
            "several.",
        ),
    ] = None,
    multi_label: Annotated[
        bool,
        typer.Option("--multi-label", help="Images may have several labels: `dog,beach`."),
    ] = False,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Column of a table or index that holds the label.  [default: label if there is "
            "one, or the name of the image's folder]",
            show_default=False,
        ),
    ] = None,
    share_right: Annotated[
        float,
        typer.Option(min=0.5, max=1, help="Share of answers that should be right; it abstains."),
    ] = 0.9,
    prompts: Annotated[
        bool,
        typer.Option(
            "--prompts/--no-prompts", help="Learn from the labels' texts, too, or from images only."
        ),
    ] = True,
    index_path: IndexOption = None,
    *,
    rows: RowFlags,
    compute: ComputeFlags,
    exclude: ExcludeOption = None,
    column: ColumnOption = None,
    as_json: JsonOption = False,
    model: SourcesModelOption = None,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Learn labels from examples: a classifier for `pe classify --classifier`.

    A few examples of each label are enough to begin with. The scores are cross-validated: each
    example is classified by what was learned from the others, near-duplicates share a fold and
    count once. In brackets are 95 % intervals. Below the cutoff an image gets no label.

    A name is kept in your data folder, for every index and folder of the same model. A path that
    ends in .npz is a file of your own.

    Examples:
        pe teach pets photos/cat photos/dog
        pe teach pets photos/cat photos/dog photos/other --none other
        pe teach pets.npz labels.csv --label-column species
        pe teach scenes labels.csv --multi-label -m PE-Core-S16-384
        pe teach rated --index photos.lance --label-column rating --where "rating IS NOT NULL"
    """
    if sources and rows:
        raise typer.BadParameter("--where and the like are for an index: name no sources")
    if not sources and (exclude or column):
        raise typer.BadParameter("--exclude and --column need sources")
    from perception_encoder.analysis.few_shot import FewShotClassifier, text_embedder

    path = find_file(name)
    check_file(path if path.parent.is_dir() else None)
    labeling = _Labeling(label_column, none or (), is_multi_label=multi_label)

    def open_named(chosen: str) -> EmbeddingModel:
        return compute.open(chosen)

    if sources:
        if model is None:
            say(f"taught with {ABOUT_DEFAULT_MODEL}")
        examples = _read_sources(
            sources, exclude or (), column, labeling, lambda: open_named(model or DEFAULT_MODEL),
            batch_size,
        )  # fmt: skip
    else:
        examples = _read_index(find_index(index_path), rows, model, compute.device, labeling)
    examples.drop_contradictions(is_multi_label=multi_label)
    try:
        classifier = FewShotClassifier.fit(
            examples.vectors,
            examples.labels,
            identity=examples.model.identity,
            is_multi_label=multi_label,
            contents=[row.sha256 for row in examples.rows],
            embed_text=text_embedder(examples.model) if prompts else None,
            share_right=share_right,
        )
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err
    path.parent.mkdir(parents=True, exist_ok=True)
    classifier.save(path)
    _write(classifier, name, path, as_json=as_json)
    if examples.num_failed:
        raise typer.Exit(1)


def find_file(name: str) -> Path:
    """Return the file of a classifier that the user names."""
    from perception_encoder.analysis.classifier_file import find_classifier

    try:
        return find_classifier(name, settings.data_folder() / "classifiers")
    except ClassifierError as err:
        raise typer.BadParameter(str(err)) from err


def read_named(name: str) -> FewShotClassifier:
    """Read the classifier that the user names.

    Raises:
        ClassifierError: there is none, or it is damaged.
    """
    from perception_encoder.analysis.classifier_file import list_classifiers, load_classifier

    path = find_file(name)
    if not path.is_file():
        known = ", ".join(list_classifiers(settings.data_folder() / "classifiers")) or "none"
        raise ClassifierError(
            f"there is no classifier {path}; teach one with: pe teach {name} FOLDERS…; taught "
            f"already: {known}"
        )
    return load_classifier(path)


class _Labeling:
    """How labels are read."""

    def __init__(self, column: str | None, none: Collection[str], *, is_multi_label: bool) -> None:
        self.column: Final = column
        self._none: Final = none
        self._is_multi_label: Final = is_multi_label

    def read(self, items: Sequence[Any]) -> dict[str, tuple[str, ...]]:
        """Return the labels of each item that has some, by its id; report the others."""
        from perception_encoder.analysis.labels import read_label_sets

        found = read_label_sets(
            items, self.column, none=self._none, is_multi_label=self._is_multi_label
        )
        if len(found) < len(items):
            say(f"{format_images(len(items) - len(found))} without a label left out")
        if not found:
            raise SourceError(
                "no image has a label: put examples into a folder for each label, or name the "
                "column with --label-column"
            )
        return found


class _Examples:
    """Embedded examples with their labels."""

    def __init__(self, model: EmbeddingModel) -> None:
        import numpy as np

        self.model: Final = model
        self.rows: list[Row] = []
        self.labels: list[tuple[str, ...]] = []
        self.num_failed = 0
        self.vectors: Embeddings = np.empty((0, model.identity.embed_dim), np.float32)

    def set_vectors(self, blocks: Sequence[Embeddings]) -> None:
        """Join the embeddings of all rows.

        Raises:
            SourceError: there are none.
        """
        import numpy as np

        if not self.rows:
            raise SourceError("none of the examples could be read")
        self.vectors = np.concatenate(blocks)

    def drop_contradictions(self, *, is_multi_label: bool) -> None:
        """Join the labels of equal files; leave out those of which they contradict each other."""
        found: dict[str, dict[tuple[str, ...], None]] = defaultdict(dict)
        for row, labels in zip(self.rows, self.labels, strict=True):
            found[row.sha256 or row.id][labels] = None
        if is_multi_label:
            joined = {
                key: tuple(dict.fromkeys(label for labels in sets for label in labels))
                for key, sets in found.items()
            }
            self.labels = [joined[row.sha256 or row.id] for row in self.rows]
            return
        kept = [n for n, row in enumerate(self.rows) if len(found[row.sha256 or row.id]) == 1]
        if len(kept) == len(self.rows):
            return
        first = next(row for row in self.rows if len(found[row.sha256 or row.id]) > 1)
        names = " and ".join(", ".join(one) or "none" for one in found[first.sha256 or first.id])
        say(
            f"{format_images(len(self.rows) - len(kept))} left out: the same file is an example of "
            f"several labels, such as {first.name} of {names}; remove one, or use --multi-label"
        )
        self.vectors = self.vectors[kept]
        self.rows = [self.rows[n] for n in kept]
        self.labels = [self.labels[n] for n in kept]


def _read_sources(
    sources: Sequence[str],
    exclude: Sequence[str],
    column: str | None,
    labeling: _Labeling,
    open_named: Callable[[], EmbeddingModel],
    batch_size: int,
) -> _Examples:
    from perception_encoder.cli.progress import ProgressDisplay
    from perception_encoder.indexing import Progress
    from perception_encoder.indexing.stream import embed_items, iter_items
    from perception_encoder.sources import SourceOptions, open_sources
    from perception_encoder.sources.item import collect_notes

    opened = open_sources(sources, SourceOptions(exclude=tuple(exclude), column=column))
    items = list(iter_items(opened))
    for note in collect_notes(opened):
        say(f"pe: {note}")
    labels = labeling.read(items)
    examples, progress, blocks = _Examples(open_named()), Progress(), []
    chosen = [item for item in items if item.id in labels]
    with ProgressDisplay(progress) as display:
        for block in embed_items(examples.model, chosen, batch_size=batch_size, progress=progress):
            for failure in block.failed:
                examples.num_failed += 1
                if examples.num_failed <= _MAX_FAILURES:
                    display.say(f"pe: {failure.message}")
            examples.rows += block.rows
            blocks.append(block.vectors)
            display.update()
    examples.labels = [labels[row.id] for row in examples.rows]
    examples.set_vectors(blocks)
    return examples


def _read_index(
    path: str, flags: RowFlags, model: str | None, device: str, labeling: _Labeling
) -> _Examples:
    from perception_encoder.analysis.ranked_images import read_blocks
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.index import Index
    from perception_encoder.search.query_model import open_index_model

    index = Index.open(path)
    warn_of_photo_index(index)
    rows, blocks = [], []
    if labeling.column is not None and labeling.column not in index.schema.names:
        raise QueryError(
            f"{index.path} has no column {labeling.column!r}; its columns: "
            f"{', '.join(name for name in index.schema.names if name != 'vector')}"
        )
    more = ("sha256", labeling.column or "label")
    for block in read_blocks(index, flags.condition(index), more=more):
        rows += block.rows
        blocks.append(block.vectors)
    labels = labeling.read(rows)
    examples = _Examples(open_index_model(index, model, ComputeOptions(device=device)))
    examples.rows = rows
    examples.set_vectors(blocks)
    kept = [n for n, row in enumerate(rows) if row.id in labels]
    examples.rows = [rows[n] for n in kept]
    examples.vectors = examples.vectors[kept]
    examples.labels = [labels[row.id] for row in examples.rows]
    return examples


def _write(classifier: FewShotClassifier, name: str, path: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    quality = classifier.quality
    assert quality is not None  # `fit` measures it
    if as_json:
        about = {"classifier": name, "path": str(path), "model": asdict(classifier.identity)}
        shown = {"cutoff": round(classifier.cutoff, 4), **asdict(quality)}
        write_json(about | {"is_multi_label": classifier.is_multi_label} | shown)
        return
    write_table(
        ["label", "examples", "different", "recall %", "precision %"],
        [
            [
                one.label,
                f"{one.num_examples:,}",
                f"{one.num_different:,}",
                _format(one.recall),
                _format(one.precision),
            ]
            for one in quality.labels
        ],
    )
    write_line("", *_describe(classifier, quality))
    say(f"saved as {path}; use it with: pe classify IMAGES --classifier {name}")


def _describe(classifier: FewShotClassifier, quality: Quality) -> list[str]:
    """Return what cross-validation says, in sentences."""
    about = f"{quality.num_examples:,} examples, {quality.num_different:,} different"
    if quality.right is None or quality.right_if_answered is None:
        return [f"{about}: too few to say how good it is; add examples"]
    what = "have exactly their labels" if classifier.is_multi_label else "get the right label"
    return [
        f"{about}, {quality.num_folds} folds: {_format(quality.right)} % {what}",
        f"below a probability of {classifier.cutoff:.2f} it abstains: "
        f"{_format(quality.answered)} % get a label, {_format(quality.right_if_answered)} % of "
        "these are right",
    ]


def _format(share: Share | None) -> str:
    if share is None:
        return _TOO_FEW
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
