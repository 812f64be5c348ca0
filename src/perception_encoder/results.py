"""Lists of images that were found, with tables, contact sheets and thumbnails of them."""

from __future__ import annotations

import base64
import html
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow, save_contact_sheet
from perception_encoder.analysis.drawing import (
    image_source_of,
    outline_of,
    read_tiles,
    short_name_of,
)
from perception_encoder.index import Hit, Outcome, Row
from perception_encoder.search.calibration import Label
from perception_encoder.search.ranking import SearchResult
from perception_encoder.sources import load_image

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from PIL import Image

    from perception_encoder.search.queries import Query
    from perception_encoder.search.reranking import RerankReport

_NUM_SHOWN: Final = 24  # thumbnails in a notebook
_SIDE: Final = 112  # pixels of one
_SHOWN_FAILURES: Final = 10
_PER_LABEL: Final = 16  # images of a label on a sheet


@dataclass(frozen=True, slots=True)
class ClassifiedImage:
    """An image and the label that fits it best.

    Attributes:
        row: where the image is.
        label: the best label; None where a few-shot classifier is not sure enough.
        score: its cosine, from -1 to 1; a few-shot classifier's logit.
        probability: of the best label, from 0 to 1. Zero-shot, it compares the labels with each
            other; one of them is likely even where none fits.
        fit: whether the label fits at all: "strong", "weak" or "none"; None where the classifier
            cannot tell.
        labels: all labels that the image has; several from a classifier for several only.
    """

    row: Row
    label: str | None
    score: float
    probability: float
    fit: Label | None
    labels: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """The path or URL of the image, or of the archive that holds it."""
        return self.row.uri

    @property
    def member(self) -> str | None:
        """The image's name inside an archive; None for a plain file."""
        return self.row.member

    def image(self) -> Image.Image:
        """Load the image: upright, RGB.

        Raises:
            ImageError: the image is gone or cannot be read.
        """
        return load_image(self.row)


@dataclass(frozen=True)
class AddReport:
    """What `ImageIndex.add` did.

    Attributes:
        counts: images by what became of them: "embedded", "reused" (a copy of an indexed image),
            "skipped" (unchanged), "failed", "vanished", "pruned".
        failed: the images that could not be used, with `uri`, `reason` and `message`.
        notes: what else there is to know, such as rows that were kept.
        seconds: the time it took.
    """

    counts: Mapping[str, int]
    failed: Sequence[Outcome] = ()
    notes: Sequence[str] = ()
    seconds: float = 0.0

    def __repr__(self) -> str:
        listed = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count)
        lines = [f"<AddReport: {listed or 'no images found'}; {self.seconds:.1f} s>"]
        lines += [f"  {outcome.message}" for outcome in self.failed[:_SHOWN_FAILURES]]
        if (more := len(self.failed) - _SHOWN_FAILURES) > 0:
            lines.append(f"  … and {more:,} more")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class RefreshReport:
    """What `ImageIndex.refresh_metadata` did.

    Attributes:
        num_images: of the index.
        num_changed: those whose metadata changed.
        failed: why images could not be read; their metadata is as before.
        notes: what else there is to know, such as values that do not fit a table's column.
        seconds: the time it took.
    """

    num_images: int
    num_changed: int
    failed: Sequence[str] = ()
    notes: Sequence[str] = ()
    seconds: float = 0.0

    def __repr__(self) -> str:
        lines = [
            f"<RefreshReport: {self.num_changed:,} of {self.num_images:,} changed, "
            f"{len(self.failed):,} failed; {self.seconds:.1f} s>"
        ]
        lines += [f"  {message}" for message in self.failed[:_SHOWN_FAILURES]]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class ReembedReport:
    """What `ImageIndex.reembed` did.

    Attributes:
        counts: images and videos by what became of them: "embedded", "reused" (a copy), "skipped"
            (embedded by an interrupted call), "failed". Empty if the index had the model already.
        num_images: of the index now.
        num_left: images that cannot be read any more and were left out.
        num_changed: images that have changed since they were indexed; they are embedded as they are
            now, and the next `add` of their folder reads their metadata again.
        failed: the images that could not be read, with `uri`, `reason` and `message`.
        notes: saved searches whose query the new model cannot embed.
        seconds: the time it took.
    """

    counts: Mapping[str, int]
    num_images: int
    num_left: int = 0
    num_changed: int = 0
    failed: Sequence[Outcome] = ()
    notes: Sequence[str] = ()
    seconds: float = 0.0

    def __repr__(self) -> str:
        listed = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count)
        lines = [
            f"<ReembedReport: {listed or 'nothing to do'}; {self.num_images:,} images, "
            f"{self.num_left:,} left out; {self.seconds:.1f} s>"
        ]
        lines += [f"  {one.message}" for one in self.failed[:_SHOWN_FAILURES]]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


_T = TypeVar("_T", bound=SearchResult | ClassifiedImage)


class ImageResults(Sequence[_T]):
    """A list of images. A notebook shows their thumbnails.

    Args:
        images: in their order.
    """

    def __init__(self, images: Sequence[_T]) -> None:
        self._images: list[_T] = list(images)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, place: int) -> _T: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> _T | Self:
        return self._like(self._images[place]) if isinstance(place, slice) else self._images[place]

    def __repr__(self) -> str:
        lines = [f"  {_describe(one)}" for one in self._images[:_NUM_SHOWN]]
        if len(self) > _NUM_SHOWN:
            lines.append(f"  … and {len(self) - _NUM_SHOWN:,} more")
        return "\n".join([f"<{type(self).__name__}: {len(self):,} images>", *lines])

    def to_arrow(self) -> pa.Table:
        """Return a table with a row for each image; metadata are columns."""
        import pyarrow as pa

        records = [_record(one) for one in self._images]
        names = dict.fromkeys(name for record in records for name in record)
        return pa.table({name: [record.get(name) for record in records] for name in names})

    def to_pandas(self) -> pd.DataFrame:
        """Return `to_arrow` as a data frame; needs pandas."""
        return self.to_arrow().to_pandas()

    def sheet(self, path: str | os.PathLike[str]) -> list[Path]:
        """Draw the images as a contact sheet.

        Args:
            path: the suffix decides the format: .png, .jpg, .webp, or .html for one page.

        Returns:
            The files: a long sheet has several.

        Raises:
            ImageWriteError: the file cannot be written.
        """
        return save_contact_sheet(self._sheet_rows(), path)

    def _repr_html_(self) -> str:
        shown = self._images[:_NUM_SHOWN]
        captions = [_describe(one, short=True) for one in shown]
        note = f"<p>{len(shown)} of {len(self):,} images</p>" if len(shown) < len(self) else ""
        return thumbnails_html([_row_of(one) for one in shown], captions) + note

    def _like(self, images: Sequence[_T]) -> Self:
        return type(self)(images)

    def _sheet_rows(self) -> list[SheetRow]:
        raise NotImplementedError


class SearchHits(ImageResults[SearchResult]):
    """The hits of one query, best first.

    Attributes:
        reranked: what a second model did that ordered them; None without `rerank`.
    """

    def __init__(
        self,
        images: Sequence[SearchResult],
        query: Query | None = None,
        reranked: RerankReport | None = None,
    ) -> None:
        super().__init__(images)
        self._query = query
        self.reranked = reranked

    def _like(self, images: Sequence[SearchResult]) -> Self:
        return type(self)(images, self._query, self.reranked)

    def _sheet_rows(self) -> list[SheetRow]:
        hits = [
            SheetHit(
                image_source_of(one.hit), one.score, short_name_of(one.hit), outline_of(one.hit)
            )
            for one in self
        ]
        if self._query is None:
            return [SheetRow(hits)]
        return [SheetRow(hits, text=self._query.text, image=self._query.image)]


class ClassifiedImages(ImageResults[ClassifiedImage]):
    """Images with their labels, in the order of the index."""

    @property
    def counts(self) -> Counter[str]:
        """How many images have each label."""
        return Counter(label for one in self for label in one.labels)

    def _sheet_rows(self) -> list[SheetRow]:
        rows = []
        for label, count in self.counts.most_common():
            best = sorted((one for one in self if label in one.labels), key=lambda one: -one.score)
            hits = [
                SheetHit(image_source_of(one.row), one.score, short_name_of(one.row))
                for one in best
            ]
            rows.append(SheetRow(hits[:_PER_LABEL], text=f"{label} ({count:,})"))
        return rows or [SheetRow([])]


def thumbnails_html(rows: Sequence[Row | Hit], captions: Sequence[str]) -> str:
    """Return an HTML fragment that shows images in lines, each with a caption."""
    tiles = []
    images = read_tiles(map(image_source_of, rows), _SIDE)
    for row, image, caption in zip(rows, images, captions, strict=True):
        title = html.escape(row.name, quote=True)
        source = f'<img src="{_data_url(image)}" alt="{title}">' if image else "<i>unreadable</i>"
        tiles.append(
            f'<figure title="{title}" style="display:inline-block;width:{_SIDE}px;margin:4px;'
            f'vertical-align:top;text-align:center;font-size:11px;overflow-wrap:anywhere">'
            f"{source}<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return f"<div>{''.join(tiles)}</div>"


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _row_of(one: SearchResult | ClassifiedImage) -> Row | Hit:
    return one.hit if isinstance(one, SearchResult) else one.row


def _describe(one: SearchResult | ClassifiedImage, *, short: bool = False) -> str:
    row = _row_of(one)
    fields = [f"{one.score:.3f}", *([one.label] if one.label is not None else [])]
    return " ".join([*fields, short_name_of(row) if short else row.shown_name])


def _record(one: SearchResult | ClassifiedImage) -> dict[str, Any]:
    if isinstance(one, ClassifiedImage):
        scores = {"probability": one.probability, "fit": one.fit}
        return {
            "uri": one.uri,
            "member": one.member,
            "label": one.label,
            "score": one.score,
        } | scores
    hit = one.hit
    size = {"width": hit.width, "height": hit.height}
    found = {"uri": hit.uri, "member": hit.member, "score": one.score, "label": one.label}
    if one.kind != "cosine":
        found |= {"cosine": one.cosine, "text_score": one.text_score}
    part = {} if hit.box is None else {"box": str(hit.box)}
    return {**found, **size, **part, **hit.metadata}
