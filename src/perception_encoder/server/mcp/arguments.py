"""What the tools take. Field descriptions are written for the language model that calls them."""

from typing import Any, Final, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.json_schema import JsonSchemaValue

from perception_encoder.index.full_text import MAX_TEXT_QUERY
from perception_encoder.server.api.common import MOST_HITS
from perception_encoder.server.api.native.embed import LabelFields
from perception_encoder.server.api.native.search import (
    MAX_CROP_TEXT,
    MOST_DEEP,
    FilterBody,
    PhotoFields,
    SearchBody,
    TermBody,
)
from perception_encoder.server.http.requests import ListOf, RequestBody

MAX_IMAGES: Final = 16
MAX_ITEM_TEXT: Final = 4096
MAX_SIDE: Final = 1024
_IMAGE: Final = "Base64 or a data URI of a JPEG, PNG or WebP image."
_ITEM: Final = "Id of an image, as `search` returns it; or its file name."
_INDEX: Final = "Name of an index, if there are several; `describe_index` lists them."
_NULL: Final = {"type": "null"}


class PageArguments(PhotoFields):
    """Which images may be hits, and how many of the hits are returned."""

    model_config = ConfigDict(extra="forbid")

    index: str | None = Field(default=None, description=_INDEX)
    k: int = Field(default=10, ge=1, le=MOST_HITS, description="How many images to return.")
    offset: int = Field(
        default=0, ge=0, le=MOST_DEEP, description="`next_offset` of the page before."
    )
    filters: ListOf[FilterBody] = Field(
        default=[],
        max_length=32,
        description=(
            "Conditions on columns that `describe_index` lists; all must hold, such as "
            '{"column": "width", "op": ">=", "value": 1000}.'
        ),
    )

    def page(self) -> dict[str, Any]:
        """Return these fields as `SearchBody` has them."""
        return {name: getattr(self, name) for name in PageArguments.model_fields}


class SearchArguments(PageArguments):
    """What is searched for."""

    query: str | None = Field(
        default=None,
        description=(
            "What the images show, in English: `a dog running on a beach`. Join terms with + and "
            "- between spaces, and weigh them: `2:red car + snow - people`. @ITEM is an image of "
            "the index: `@beach.jpg + at night`."
        ),
    )
    images: ListOf[str] = Field(
        default=[], max_length=MAX_IMAGES, description=f"Images that hits look like. {_IMAGE}"
    )
    text: str | None = Field(
        default=None,
        max_length=MAX_TEXT_QUERY,
        description=(
            'Words, and phrases in "quotes", of file names, captions and other metadata; alone or '
            "with a query."
        ),
    )

    @model_validator(mode="after")
    def _has_a_query(self) -> Self:
        if self.query is None and not self.images and self.text is None:
            raise ValueError("give a query, images, or a text")
        return self

    def body(self) -> SearchBody:
        """Return the request of the native API."""
        terms = [TermBody(image=image) for image in self.images]
        if self.query is not None:
            terms.append(TermBody(query=self.query))  # last: errors number the images as here
        return SearchBody(terms=terms, text=self.text, **self.page())


class SimilarArguments(PageArguments):
    """The image that hits look like."""

    item: str | None = Field(default=None, max_length=MAX_ITEM_TEXT, description=_ITEM)
    image: str | None = Field(default=None, description=_IMAGE)
    region: str | None = Field(
        default=None,
        max_length=MAX_CROP_TEXT,
        description="The part that counts: `x,y,width,height` in pixels, or "
        "`percent:x,y,width,height`.",
    )

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.item is None) == (self.image is None):
            raise ValueError("give either item or image")
        return self


class ClassifyArguments(LabelFields):
    """Images, and the labels to choose from."""

    model_config = ConfigDict(extra="forbid")

    index: str | None = Field(default=None, description=_INDEX)
    items: ListOf[str] = Field(
        default=[], max_length=MAX_IMAGES, description="Images of the index, by id or file name."
    )
    images: ListOf[str] = Field(
        default=[], max_length=MAX_IMAGES, description=f"Other images. {_IMAGE}"
    )
    labels: ListOf[str] = Field(
        default=[], description="What the images may show: [`cat`, `dog`]; or give a classifier."
    )
    classifier: str | None = Field(
        default=None, description="One of those that `describe_index` lists, in place of labels."
    )
    k: int = Field(default=5, ge=1, le=MOST_HITS, description="Labels to return for each image.")

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if not self.items and not self.images:
            raise ValueError("give items or images")
        return self


class IndexArguments(RequestBody):
    """The index to describe."""

    model_config = ConfigDict(extra="forbid")

    index: str | None = Field(default=None, description="Its name; default: the first.")


class ThumbnailArguments(RequestBody):
    """The image to look at."""

    model_config = ConfigDict(extra="forbid")

    item: str = Field(max_length=MAX_ITEM_TEXT, description=_ITEM)
    index: str | None = Field(default=None, description=_INDEX)
    size: int = Field(
        default=512, ge=1, le=MAX_SIDE, description="Pixels of the longer side: 128, 256, …, 1024."
    )


def schema_of(kind: type[RequestBody]) -> JsonSchemaValue:
    """Return the JSON Schema of a tool's arguments, without null: leaving out is shorter."""
    schema = kind.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("title", None)
        part["properties"] = {
            name: _without_null(field) for name, field in part.get("properties", {}).items()
        }
    return schema


def _without_null(field: JsonSchemaValue) -> JsonSchemaValue:
    kept = {key: value for key, value in field.items() if key not in ("title", "anyOf")}
    if kept.get("default", 0) is None:
        del kept["default"]
    choices = [one for one in field.get("anyOf", ()) if one != _NULL]
    if len(choices) == 1:
        return {**choices[0], **kept}
    return {**kept, "anyOf": choices} if choices else kept
