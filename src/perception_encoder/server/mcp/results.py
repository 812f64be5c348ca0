"""What the tools return: structured content, and the short text of it that a model reads."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, Field, field_validator

from perception_encoder.server.api.common import Fit

_SHOWN: Final = 300  # characters of a metadata value
_MAX_COLUMNS: Final = 32  # of metadata of one image
_LISTED: Final = 20  # hits in the text; the structured content has all
_VALUES: Final = 5  # of a column, in the text


class Result(BaseModel):
    """A tool's result."""

    def text(self) -> str:
        """Return it in a few lines."""
        raise NotImplementedError


class FoundImage(BaseModel):
    """An image of the index."""

    id: str = Field(description="For the other tools.")
    name: str
    score: float | None = Field(
        default=None, description="Cosine; for a text alone BM25, for both their fused ranks."
    )
    label: Fit | None = Field(
        default=None, description="Whether it fits the query: strong, weak, or none."
    )
    width: int | None = None
    height: int | None = None
    modified: str | None = None
    moment: dict[str, Any] | None = Field(default=None, description="Of a video, in seconds.")
    box: dict[str, Any] | None = Field(default=None, description="The part that was found.")
    metadata: dict[str, Any] = Field(default={}, description="Captions, dates, places, …")
    also: list[str] = Field(default=[], description="Names of copies folded under it.")

    @field_validator("metadata", mode="before")
    @classmethod
    def _shorten(cls, found: Mapping[str, Any]) -> dict[str, Any]:
        present = [(name, value) for name, value in found.items() if value is not None]
        return {
            name: value[:_SHOWN] if isinstance(value, str) else value
            for name, value in present[:_MAX_COLUMNS]
        }

    @field_validator("also", mode="before")
    @classmethod
    def _names(cls, found: list[Any]) -> list[str]:
        return [one["name"] if isinstance(one, Mapping) else one for one in found]

    def line(self) -> str:
        """Return it in one line."""
        score = "" if self.score is None else f" · {self.score:.3f}"
        fit = "" if self.label is None else f" · {self.label}"
        return f"{self.name} (id {self.id}){score}{fit}"


class FoundImages(Result):
    """Images of an index, best first."""

    index: str
    hits: list[FoundImage]
    next_offset: int | None = Field(default=None, description="For the next page.")

    def text(self) -> str:
        """Return the first hits, one a line."""
        if not self.hits:
            return f"No image of {self.index} was found."
        lines = [f"{n}. {hit.line()}" for n, hit in enumerate(self.hits[:_LISTED], 1)]
        if len(self.hits) > _LISTED:
            lines.append(f"… and {len(self.hits) - _LISTED} more in the structured content")
        return "\n".join([f"{len(self.hits)} images of {self.index}, best first:", *lines])


class FittingLabel(BaseModel):
    """How well a label fits an image."""

    label: str
    probability: float = Field(description="Of the labels given; the best is likely in any case.")
    fit: Fit | None = Field(default=None, description="Whether it fits at all.")
    applies: bool | None = Field(default=None, description="Whether the classifier gives it.")


class ClassifiedImage(BaseModel):
    """The labels of an image, best first."""

    image: str
    labels: list[FittingLabel]
    error: str | None = None


class ClassifiedImages(Result):
    """Images with their labels."""

    model: str
    images: list[ClassifiedImage]

    def text(self) -> str:
        """Return the best labels of each image, one image a line."""
        lines = []
        for image in self.images:
            labels = ", ".join(
                f"{one.label} {one.probability:.2f}" + (f" ({one.fit})" if one.fit else "")
                for one in image.labels
            )
            lines.append(f"{image.image}: {labels if image.error is None else image.error}")
        return "\n".join(lines)


class Column(BaseModel):
    """A column of an index, for filters."""

    name: str
    kind: str = Field(description="text, number, flag or time")
    min: Any = None
    max: Any = None
    values: list[Any] = Field(default=[], description="The most frequent.")

    def line(self) -> str:
        """Return it in one line."""
        if self.values:
            return f"{self.name} ({self.kind}): {', '.join(map(str, self.values[:_VALUES]))}"
        if self.min is not None:
            return f"{self.name} ({self.kind}): {self.min} to {self.max}"
        return f"{self.name} ({self.kind})"


class Classifier(BaseModel):
    """A classifier for `classify`."""

    name: str
    labels: list[str]


class DescribedIndex(Result):
    """An index, and what else there is."""

    name: str
    rows: int
    model: str
    dimensions: int
    columns: list[Column]
    first_taken: Any = Field(default=None, description="When the oldest photo was taken.")
    last_taken: Any = None
    classifiers: list[Classifier]
    indexes: list[str] = Field(description="All indexes of this server, the default first.")

    def text(self) -> str:
        """Return it in a few lines."""
        lines = [f"{self.name}: {self.rows:,} images, embedded by {self.model}"]
        if self.first_taken is not None:
            lines.append(f"taken from {self.first_taken} to {self.last_taken}")
        lines += ["columns for filters:", *(f"  {column.line()}" for column in self.columns)]
        lines += [f"classifier {one.name}: {', '.join(one.labels)}" for one in self.classifiers]
        if len(self.indexes) > 1:
            lines.append(f"indexes: {', '.join(self.indexes)}")
        return "\n".join(lines)


class Thumbnail(Result):
    """The image that stands beside this."""

    id: str
    name: str
    width: int = Field(description="Of the thumbnail, in pixels.")
    height: int

    def text(self) -> str:
        """Return its name and size."""
        return f"{self.name} (id {self.id}), {self.width}×{self.height}"
