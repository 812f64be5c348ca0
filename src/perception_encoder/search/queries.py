"""Embeds queries: terms of texts, images and items of an index become one embedding.

Items, and files that have not changed since they were indexed, take their embeddings from the
index. The model is opened only if other terms are left, which are embedded together.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import ImageValueError, QueryError
from perception_encoder.index import Index, Row, row_id
from perception_encoder.index.condition_tokens import shorten
from perception_encoder.index.rows import clamp_time
from perception_encoder.preprocess.crops import (
    CropBox,
    CropInput,
    CroppedImage,
    name_without_crop,
    split_crop,
    split_crop_of_path,
    with_crop,
)
from perception_encoder.search.grammar import (
    STDIN,
    QueryTerm,
    combine_vectors,
    parse_image,
    parse_query,
)
from perception_encoder.sources.item import is_unicode
from perception_encoder.types import ColorFormat, Embeddings
from perception_encoder.video.names import is_clip, is_video, split_fragment

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.preprocess import ImageInput


_ID: Final = re.compile(r"[0-9a-f]{32}")
_NAME: Final = "coalesce(uri || '/' || member, uri)"  # `item_name` in SQL
_NUM_SHOWN: Final = 5
_SHORTEST_SECONDS: Final = 0.001  # of a segment
_StoredImage: TypeAlias = "str | CroppedImage | Callable[[], ImageInput]"
"""The path of an image or a part of it, or a function that reads it."""

QueryImage: TypeAlias = "ImageInput | Callable[[], ImageInput]"
QueryInput: TypeAlias = "str | os.PathLike[str] | ImageInput | list[tuple[float, QueryInput]]"
"""What `read_query` takes."""

_Term: TypeAlias = tuple[str, str]
"""The kind and value of a term."""


def find_item(index: Index, name: str) -> tuple[Row, Embeddings]:
    """Find an item of an index by its name.

    Args:
        index: the index.
        name: the id of an item; its name; its path from the current folder; or the end of its name,
            if no other name ends like it. Whole file names win over parts. Composed and decomposed
            Unicode forms are equal.

    Returns:
        The row and its (E,) embedding.

    Raises:
        QueryError: there is no such item, or there are several.
    """
    if not is_unicode(name):
        raise QueryError(f"@{name!a} is not valid Unicode, and so no name of {index.path}")
    ids = [name, row_id(name), row_id(os.path.abspath(name))]
    known = index.by_ids(ids if _ID.fullmatch(name) else ids[1:])
    for key in ids:
        if key in known:
            return known[key]
    for find in _WAYS:
        found = find(index, name)
        if len(found) > 1:
            shown = "".join(f"\n  @{row.id}  {row.name}" for row in found[:_NUM_SHOWN])
            more = "\n  …" if len(found) > _NUM_SHOWN else ""
            raise QueryError(
                f"@{name} could be several items of {index.path}; write more of the name, or one "
                f"of these ids:{shown}{more}"
            )
        if found:
            return index.by_ids([found[0].id])[found[0].id]
    raise QueryError(
        f"{index.path} has no item whose name ends in {shorten(name)}; look it up with "
        "`pe search`, or put the words in double quotes if they are meant as a text"
    )


def find_item_part(index: Index, name: str) -> tuple[Row, CropBox | None, Embeddings]:
    """Find an item by its name, or by a name with a box: `dog.jpg#xywh=10,20,200,150`.

    An item whose own name ends like this wins.

    Returns:
        The row, the box, and the (E,) embedding of the whole item.

    Raises:
        QueryError: as `find_item`, or what should be the box is none.
    """
    without = name_without_crop(name)
    if without != name:
        with suppress(QueryError):
            row, vector = find_item(index, name)
            return row, None, vector
    row, vector = find_item(index, without)
    try:
        return row, split_crop(name)[1], vector
    except ImageValueError as err:
        raise QueryError(str(err)) from err


def _ending_in(index: Index, ending: str) -> list[Row]:
    """Return the first items whose names have that ending."""
    quoted = ending.replace("'", "''")
    return list(islice(index.rows(where=f"ends_with({_NAME}, '{quoted}')"), _NUM_SHOWN + 1))


def _ending_alike(index: Index, name: str) -> list[Row]:
    """As `_ending_in`, for names with parts in different Unicode forms."""
    import pyarrow.compute as pc

    if name.isascii():
        return []
    ending = unicodedata.normalize("NFC", name)
    ids = list[str]()
    for batch in index.scan(["uri", "member"]):
        inside = pc.binary_join_element_wise(batch["uri"], batch["member"], "/")
        names = pc.utf8_normalize(pc.coalesce(inside, batch["uri"]), form="NFC")
        found = batch.filter(pc.ends_with(names, pattern=ending))
        ids += [row_id(row["uri"], row["member"]) for row in found.to_pylist()]
        if len(ids) > _NUM_SHOWN:
            break
    return [row for row, _ in index.by_ids(ids).values()]


_WAYS: Final[tuple[Callable[[Index, str], list[Row]], ...]] = (
    lambda index, name: _ending_in(index, f"/{name}"),
    _ending_in,
    _ending_alike,
)


@dataclass(frozen=True, slots=True)
class Query:
    """An embedded query.

    Attributes:
        terms: the terms of the query; none if an embedding was given.
        vector: (E,) float32, unit length.
        own: ids of the items and files that the query names, also if the index lacks them.
        image: the first image or item of the query.
    """

    terms: tuple[QueryTerm, ...]
    vector: Embeddings
    own: frozenset[str] = frozenset()
    image: QueryImage | None = None

    @property
    def text(self) -> str:
        """The texts of the query with their signs and weights, without images."""
        words = [term for term in self.terms if term.kind == "text"]
        return " ".join(_format_term(term, is_first=term is self.terms[0]) for term in words)

    @property
    def is_image(self) -> bool:
        """Whether an image or item has a positive weight in the query."""
        return any(term.kind != "text" and term.weight > 0 for term in self.terms)


def read_queries(
    index: Index,
    queries: Sequence[Sequence[QueryTerm]],
    open_model: Callable[[], EmbeddingModel],
    *,
    read_stdin: Callable[[], bytes] | None = None,
    by_index_model: bool = True,
) -> list[Query]:
    """Embed queries.

    Args:
        index: the index that will be searched.
        queries: the terms of each query, from `parse_query`.
        open_model: opens the index's model; called at most once.
        read_stdin: reads the image on standard input, for the term `-`.
        by_index_model: whether it is the index's model. False embeds every term by another one,
            indexed images from their sources, see `reranking`.

    Raises:
        QueryError: an item is not in the index, or the terms of a query cancel out.
        ImageError: an image cannot be used.
        IndexMismatchError: the model is not the index's.
        ValueError: a query needs `read_stdin`, which is missing.
    """
    terms = list(dict.fromkeys((term.kind, term.value) for query in queries for term in query))
    known = _Known(index, terms, read_stdin)
    if not by_index_model:
        known.vectors.clear()
    left = [term for term in terms if term not in known.vectors]
    if left:
        model = open_model()
        if by_index_model:
            index.check(model.identity)
        known.vectors |= _embedded(model, left, known.images)
    return [known.query(terms) for terms in queries]


def read_query(
    index: Index,
    query: QueryInput,
    open_model: Callable[[], EmbeddingModel],
    *,
    input_color_format: ColorFormat = "bgr",
    crop: CropInput | None = None,
    by_index_model: bool = True,
) -> Query:
    """Read a query of any kind.

    Args:
        index: the index that will be searched.
        query: a string as `parse_query` reads it; a path; an image in memory, as
            `EmbeddingModel.embed_image` takes it; an (E,) or (1, E) embedding; or a sum of these,
            as a list of (weight, query) pairs.
        open_model: as in `read_queries`.
        input_color_format: channel order of arrays.
        crop: the part of the image that counts; the query is one image or item.
        by_index_model: as in `read_queries`; an embedding can be no query of another model.

    Raises:
        QueryError, ImageError, IndexMismatchError: as `read_queries`.
        TypeError: the query is of another type.
    """
    if isinstance(query, str):
        terms = crop_terms(parse_query(query), crop)
        return read_queries(index, [terms], open_model, by_index_model=by_index_model)[0]
    if isinstance(query, os.PathLike):
        terms = crop_terms([parse_image(os.fspath(query))], crop)
        return read_queries(index, [terms], open_model, by_index_model=by_index_model)[0]
    if isinstance(query, list):
        _check_no_crop(crop)
        read = partial(
            read_query,
            index,
            open_model=open_model,
            input_color_format=input_color_format,
            by_index_model=by_index_model,
        )
        return _sum_of([(weight, read(part)) for weight, part in map(_checked_pair, query)])
    embed_dim = index.identity.embed_dim
    if isinstance(query, np.ndarray) and query.shape in ((embed_dim,), (1, embed_dim)):
        _check_no_crop(crop)
        if not by_index_model:
            raise QueryError(
                "an embedding is one of the index's model, which another model cannot read; "
                "give a text or an image"
            )
        return Query((), combine_vectors(query.reshape(1, -1), [1.0]))
    model = open_model()
    if by_index_model:
        index.check(model.identity)
    vector = model.embed_image(query, input_color_format=input_color_format, crop=crop)[0]
    if isinstance(query, np.ndarray) and query.ndim == 3 and input_color_format == "rgb":
        query = query[..., ::-1]  # whoever draws the query takes arrays for BGR
    image = query if crop is None else CroppedImage(query, CropBox.of(crop))
    return Query((QueryTerm(1.0, "image", ""),), vector, image=image)


def crop_terms(terms: Sequence[QueryTerm], crop: CropInput | None) -> Sequence[QueryTerm]:
    """Return the terms of a query that is one image or item, of which only a part counts.

    Args:
        terms: of the query.
        crop: the part; None changes nothing.

    Raises:
        QueryError: the query is something else.
        ImageValueError, TypeError: as `CropBox.of`.
    """
    if crop is None:
        return terms
    (term, *others) = terms
    if others or term.kind == "text" or term.value == STDIN:
        _check_no_crop(crop)
    return [replace(term, value=with_crop(term.value, crop))]


def _check_no_crop(crop: CropInput | None) -> None:
    if crop is not None:
        raise QueryError(
            "crop= is for a query that is one image or @item; in a sum write the box after the "
            'image: "dog.jpg#xywh=10,20,200,150 + red"'
        )


def _checked_pair(pair: object) -> tuple[float, QueryInput]:
    if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], int | float):
        return pair
    raise TypeError(f"a sum is a list of (weight, query) pairs; got {pair!r} in it")


def _sum_of(parts: Sequence[tuple[float, Query]]) -> Query:
    if not parts:
        raise QueryError("the query is empty; give a text, an image or an item")
    weights = [weight for weight, _ in parts]
    queries = [query for _, query in parts]
    return Query(
        tuple(
            replace(term, weight=weight * term.weight)
            for weight, query in parts
            for term in query.terms
        ),
        combine_vectors(np.stack([query.vector for query in queries]), weights),
        frozenset().union(*(query.own for query in queries)),
        next((query.image for query in queries if query.image is not None), None),
    )


class _Known:
    """The embeddings, ids and images of terms."""

    def __init__(
        self, index: Index, terms: Iterable[_Term], read_stdin: Callable[[], bytes] | None
    ) -> None:
        self.vectors: dict[_Term, Embeddings] = {}
        self.ids: dict[_Term, frozenset[str]] = {}
        self.images: dict[_Term, _StoredImage] = {}
        files: dict[str, list[_Term]] = {}
        for term in terms:
            kind, value = term
            if kind == "item":
                self._add_item(index, term)
            elif kind == "image" and value == STDIN:
                self.images[term] = _once(read_stdin)
            elif kind == "image":
                self._add_image(index, term, files)
        for key, (row, vector) in index.by_ids(files).items():
            for term in files[key]:
                if _is_unchanged(term[1], row):
                    self.vectors[term] = vector

    def _add_item(self, index: Index, term: _Term) -> None:
        """Add an item; of a part of it only the image, which is to be embedded."""
        row, box, vector = find_item_part(index, term[1])
        self.ids[term] = frozenset((row.id,))
        self.images[term] = _part_of(partial(_read, row.uri, row.member, row.offset), box)
        if box is None:
            self.vectors[term] = vector

    def _add_image(self, index: Index, term: _Term, files: dict[str, list[_Term]]) -> None:
        value, box = split_crop_of_path(term[1])
        if _is_address(value):
            self.images[term] = _part_of(partial(_read, value), box)
        elif is_clip(value):
            self._add_video(index, term, value, box)
        else:
            self.images[term] = value if box is None else CroppedImage(value, box)
            if is_unicode(path := os.path.abspath(value)):  # other paths cannot be in an index
                self.ids[term] = frozenset((row_id(path),))
                if box is None:
                    files.setdefault(row_id(path), []).append(term)

    def _add_video(self, index: Index, term: _Term, value: str, box: CropBox | None) -> None:
        """Add a video, or its frame at a time; from the index if the file is unchanged there.

        A box is that of the frame, by default of the first.
        """
        video, seconds = split_fragment(value)
        self.images[term] = _part_of(partial(_read_frame, video, seconds or 0.0), box)
        if box is not None and seconds is None:
            seconds = 0.0
        path = os.path.abspath(video)
        found = index.moments(path) if is_unicode(path) else []
        spans = [row.moment for row, _ in found if row.moment is not None]
        if seconds is not None:
            place = sum(span.start <= seconds for span in spans[1:])
            found, spans = found[place : place + 1], spans[place : place + 1]
        self.ids[term] = frozenset(row.id for row, _ in found)
        if found and box is None and _is_unchanged(path, found[0][0]):
            lengths = [max(span.end - span.start, _SHORTEST_SECONDS) for span in spans]
            self.vectors[term] = combine_vectors(np.stack([v for _, v in found]), lengths)

    def query(self, terms: Sequence[QueryTerm]) -> Query:
        """Combine the embeddings of terms to a query."""
        keys = [(term.kind, term.value) for term in terms]
        vectors = np.stack([self.vectors[key] for key in keys])
        return Query(
            tuple(terms),
            combine_vectors(vectors, [term.weight for term in terms]),
            frozenset[str]().union(*(self.ids[key] for key in keys if key in self.ids)),
            next((self.images[key] for key in keys if key in self.images), None),
        )


def _embedded(
    model: EmbeddingModel, terms: Sequence[_Term], opened: dict[_Term, _StoredImage]
) -> dict[_Term, Embeddings]:
    texts = [term for term in terms if term[0] == "text"]
    videos = [term for term in terms if term[0] == "image" and is_video(term[1])]
    images = [term for term in terms if term[0] != "text" and term not in videos]
    vectors: dict[_Term, Embeddings] = {}
    if texts:
        embedded = model.embed_text([value for _, value in texts], show_progress=False)
        vectors |= dict(zip(texts, embedded, strict=True))
    for term in videos:
        vectors[term] = model.embed_video(term[1])[0]
    if images:
        inputs = [_input(model, opened[term], term[1]) for term in images]
        embedded = model.embed_images(inputs, input_color_format="rgb", show_progress=False)
        vectors |= dict(zip(images, embedded, strict=True))
    return vectors


def _input(model: EmbeddingModel, image: _StoredImage, name: str) -> ImageInput:
    """Return a path as it is, and a fetched image as (S, S, 3) uint8 RGB, which is small."""
    if not callable(image):
        return image
    name = "the image on standard input" if name == STDIN else name
    resized: NDArray[np.uint8] = model.processor(image(), item=name)
    return resized


def _read(uri: str, member: str | None = None, offset: int | None = None) -> bytes:
    """As `read_image`, which is imported when an image is read."""
    from perception_encoder.sources import read_image

    return read_image(uri, member, offset)


def _read_frame(path: str, seconds: float) -> bytes:
    """As `read_frame`, which is imported when a frame is read."""
    from perception_encoder.video import read_frame

    return read_frame(path, seconds)


def _part_of(read: Callable[[], ImageInput], box: CropBox | None) -> Callable[[], ImageInput]:
    """Return a function that reads a part of an image; of None all of it."""
    return read if box is None else lambda: CroppedImage(read(), box)


def _once(read: Callable[[], bytes] | None) -> Callable[[], ImageInput]:
    """Return a function that reads a stream once, for the model and for a contact sheet."""
    if read is None:
        raise ValueError(f"{STDIN!r} stands for standard input, which is not read here")
    return cache(read)


def _is_unchanged(path: str, row: Row) -> bool:
    """Whether a file has the size and time of its row, by which `pe index` decides too."""
    try:
        status = os.stat(path)
    except OSError:  # it has gone; reading it reports that
        return False
    return (status.st_size, clamp_time(status.st_mtime_ns)) == (row.bytes, row.mtime)


def _is_address(value: str) -> bool:
    return value.lower().startswith(("http://", "https://"))


def _format_term(term: QueryTerm, *, is_first: bool) -> str:
    sign = "- " if term.weight < 0 else "" if is_first else "+ "
    weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}:"
    return f"{sign}{weight}{term.value}"
