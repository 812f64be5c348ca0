"""The tools: search, similar, classify, describe_index and get_thumbnail.

They call the functions of the native API, so its limits and errors hold here too. None of them
changes anything.
"""

import io
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from PIL import Image

from perception_encoder.errors import ImageError
from perception_encoder.index import Row
from perception_encoder.server.api.base import Services
from perception_encoder.server.api.native.embed import classify_images
from perception_encoder.server.api.native.indexes import describe_served_index
from perception_encoder.server.api.native.search import (
    SearchBody,
    TermBody,
    find_named_item,
    search_index,
)
from perception_encoder.server.core.facets import list_facets
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.requests import RequestBody
from perception_encoder.server.mcp.arguments import (
    ClassifyArguments,
    IndexArguments,
    SearchArguments,
    SimilarArguments,
    ThumbnailArguments,
)
from perception_encoder.server.mcp.results import (
    ClassifiedImages,
    DescribedIndex,
    FoundImages,
    Result,
    Thumbnail,
)

ArgumentsT = TypeVar("ArgumentsT", bound=RequestBody)

MAX_THUMBNAIL_BYTES: Final = 700_000
"""Of a JPEG: hosts refuse results of more than a megabyte, and base64 adds a third."""

_SIDES: Final = (1024, 512, 256, 128)
_MAX_VALUES: Final = 20  # of a column
_TAKEN_AT: Final = "taken_at"
_TERM: Final = re.compile(r"\bterms\[(\d+)\]\.(\w+)")


@dataclass(frozen=True)
class ToolResult:
    """What a tool returns.

    Attributes:
        result: the structured content.
        jpeg: an image beside it.
    """

    result: Result
    jpeg: bytes | None = None


@dataclass(frozen=True)
class McpTool:
    """A tool.

    Attributes:
        name: of the tool, likewise `title` and `description`, for the language model.
        arguments: the form of what it takes.
        result: the form of what it returns.
        run: called with the services and the arguments; raises this package's errors.
        terms: the arguments' names of what errors call `terms[n].query` and the like; {} is n.
    """

    name: str
    title: str
    description: str
    arguments: type[RequestBody]
    result: type[Result]
    run: Callable[[Services, Any], Awaitable[ToolResult]]
    terms: Mapping[str, str] = field(default_factory=dict)

    def rename_terms(self, message: str) -> str:
        """Return an error's message with the names that the caller knows."""
        return _TERM.sub(lambda found: self.terms.get(found[2], found[0]).format(found[1]), message)


async def _search(services: Services, asked: SearchArguments) -> ToolResult:
    return await _find(services, asked.body())


async def _find_similar(services: Services, asked: SimilarArguments) -> ToolResult:
    item = None
    if asked.item is not None:
        item = (await _find_row(services, services.indexes.get(asked.index), asked.item)).id
    term = TermBody(item=item, image=asked.image, crop=asked.region)
    return await _find(services, SearchBody(terms=[term], **asked.page()))


async def _find(services: Services, body: SearchBody) -> ToolResult:
    return ToolResult(FoundImages.model_validate(await search_index(services, body)))


async def _classify(services: Services, asked: ClassifyArguments) -> ToolResult:
    model: str | None = None
    names = [f"images[{n}]" for n in range(len(asked.images))]
    references: list[str | bytes] = [*asked.images]
    if asked.items:
        served = services.indexes.get(asked.index)
        if asked.classifier is None:
            model = served.identity.model_id
            model = services.served_models.text_model_of(model) or model
        for item in asked.items:
            row = await _find_row(services, served, item)
            references.append(await _read_image(services, row))
            names.append(row.name)
    found = await classify_images(services, asked, references, model)
    images = [
        {
            "image": name,
            "labels": one["labels"][: asked.k],
            "error": (one.get("error") or {}).get("message"),
        }
        for name, one in zip(names, found["results"], strict=True)
    ]
    return ToolResult(ClassifiedImages.model_validate({"model": found["model"], "images": images}))


async def _describe_index(services: Services, asked: IndexArguments) -> ToolResult:
    served = services.indexes.get(asked.index)
    known = await services.pools.searches.run(describe_served_index, served)
    facets = await services.summaries.get(served, list_facets)
    columns = []
    for column in known["columns"]:
        if column["filter"] is not None:
            facet = facets.get(column["name"], {})
            values = [one["value"] for one in facet.get("values", ())][:_MAX_VALUES]
            columns.append({**column, "kind": column["filter"], **facet, "values": values})
    taken = facets.get(_TAKEN_AT, {})
    return ToolResult(
        DescribedIndex.model_validate(
            {
                **known,
                "columns": columns,
                "first_taken": taken.get("min"),
                "last_taken": taken.get("max"),
                "classifiers": [
                    {"name": name, "labels": list(one.labels)} for name, one in services.classifiers
                ],
                "indexes": [one.name for one in services.indexes],
            }
        )
    )


async def _get_thumbnail(services: Services, asked: ThumbnailArguments) -> ToolResult:
    row = await _find_row(services, services.indexes.get(asked.index), asked.item)
    smaller = [side for side in _SIDES if side <= asked.size]
    for side in [asked.size, *(side for side in smaller if side < asked.size)]:
        try:
            jpeg = await services.pools.files.run(services.thumbnails.get, row, side)
        except ImageError as err:
            raise ApiError(404, "no_image", str(err)) from err
        if len(jpeg) <= MAX_THUMBNAIL_BYTES:
            break
    with Image.open(io.BytesIO(jpeg)) as image:
        width, height = image.size
    return ToolResult(Thumbnail(id=row.id, name=row.name, width=width, height=height), jpeg)


async def _find_row(services: Services, served: ServedIndex, item: str) -> Row:
    row, _ = await services.pools.searches.run(find_named_item, served, item)
    return row


async def _read_image(services: Services, row: Row) -> bytes:
    try:
        return await services.pools.files.run(services.thumbnails.original, row)
    except ImageError as err:
        raise ApiError(404, "no_image", str(err)) from err


TOOLS: Final = (
    McpTool(
        "search",
        "Search images",
        "Find images of the user's collection by what they show (`query`, in plain English), by "
        "example (`images`), or by words in their names and captions (`text`). Narrow down by "
        "date (`since`, `until`), place (`near`), `camera` and `filters`. Hits are ranked; a hit "
        "labeled `none` does not fit, even if it is the first. Look at a hit with get_thumbnail.",
        SearchArguments,
        FoundImages,
        _search,
        {"query": "query", "image": "images[{}]"},
    ),
    McpTool(
        "similar",
        "Find similar images",
        "Find images that look like one of the collection (`item`) or another (`image`), or like "
        "a part of it (`region`).",
        SimilarArguments,
        FoundImages,
        _find_similar,
        {"image": "image", "crop": "region"},
    ),
    McpTool(
        "classify",
        "Classify images",
        "Say which of the given labels fits each image best. `fit` says whether a label fits at "
        "all; `none` means that no label may be right. Labels are free: words or short phrases.",
        ClassifyArguments,
        ClassifiedImages,
        _classify,
    ),
    McpTool(
        "describe_index",
        "Describe the collection",
        "Say how many images there are, when they were taken, which columns `filters` can use and "
        "what these hold, and which indexes and classifiers there are. Call it once, before you "
        "filter.",
        IndexArguments,
        DescribedIndex,
        _describe_index,
    ),
    McpTool(
        "get_thumbnail",
        "Look at an image",
        "Return a small JPEG of an image of the collection, to look at it.",
        ThumbnailArguments,
        Thumbnail,
        _get_thumbnail,
    ),
)
