"""Search queries as people write them, turned into weighted terms, and terms' vectors into one.

    "2:golden retriever" + pool.jpg - fruit

A query is terms joined by `+` and `-` that stand between spaces, so that "t-shirt" and "C++" stay
words; a minus at the very start needs no space. `2:` before a term is its weight ("16:9 monitor" is
a text all the same). Double quotes keep signs in a text from being read. A term that names a file,
is a web address or ends like an image's name is an image, also a video, or `clip.mp4#t=12` for
its frame at that second; `@` before a term means an image of
the index; `-` alone is the image on standard input. `#xywh=10,20,200,150` after an image or item
takes a part of it, as `preprocess.crops` describes; it stays in the term's value, and a file whose
own name ends like this wins. Knows nothing of models or of indexes.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perception_encoder.errors import ImageValueError, QueryError
from perception_encoder.index.condition import forms_of
from perception_encoder.index.condition_tokens import shorten
from perception_encoder.preprocess.crops import name_without_crop, split_crop
from perception_encoder.preprocess.files import IMAGE_SUFFIXES
from perception_encoder.types import Embeddings
from perception_encoder.video.names import is_clip, split_fragment

STDIN: Final = "-"
"""The value of the term that stands for the image on standard input."""

_SIGNS: Final = {"+": 1.0, "-": -1.0}
_OPERATOR: Final = re.compile(r"[+-](?=\s|$)")
_LEADING_MINUS: Final = re.compile(r"\s*-(?=\S)")
_WORD: Final = re.compile(r'(?P<weight>[+-]?[\d.]+:)?"(?P<quoted>[^"]*)"(?=\s|$)|\S+')
_WEIGHT: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)):")
_ITEM: Final = re.compile(r"@(?=\S)")
_ADDRESS: Final = re.compile(r"https?://\S+", re.IGNORECASE)
_SHOWN: Final = 40  # characters of a term that may be an encoded image
_SHORTEST_ENCODED: Final = 32  # characters of an image in base64
_CANCELLED: Final = 1e-6


@dataclass(frozen=True)
class QueryTerm:
    """One part of a query, and how much it counts.

    Attributes:
        weight: negative for what is wanted far away.
        kind: a text, an image, or an item of the index.
        value: the text; the image's path or web address, or `STDIN`; what comes after the `@`:
            an item's id, or the end of its name. A time and a box of an image may follow.
    """

    weight: float
    kind: Literal["text", "image", "item"]
    value: str


class _Piece(NamedTuple):
    """An operator or a word of a query, and where it begins."""

    text: str
    position: int
    is_operator: bool
    is_quoted: bool = False


def parse_query(query: str | Sequence[str], *, allow_files: bool = True) -> tuple[QueryTerm, ...]:
    """Read a query.

    Args:
        query: one string, or a command line's arguments. Of several arguments each is a word, an
            operator, or a text that the shell's quotes kept together; in that case nothing inside
            an argument is an operator.
        allow_files: Terms can be paths of image files. False for queries of other machines: no
            term is looked up on disk.

    Returns:
        At least one term, in the query's order. Negative weights are wanted far away.

    Raises:
        QueryError: nothing there, an operator without a term, a wrong weight, an open quote, or a
            image file that does not exist; the message says where.
    """
    arguments = [query] if isinstance(query, str) else list(query)
    _check_nul(" ".join(arguments))
    if len(arguments) == 1:
        text = arguments[0]
        path = None
        if allow_files:
            path = STDIN if text == STDIN else _file(text)
        if path is not None:  # whatever signs and quotes its name has
            return (QueryTerm(1.0, "image", path),)
        pieces = list(_pieces_of_text(text))
    else:
        text = " ".join(arguments)
        pieces = list(_pieces_of_arguments(arguments))
    if not pieces:
        raise QueryError('the query is empty; give words or an image, such as "a red car"')
    return tuple(_terms(pieces, text, allow_files=allow_files))


def parse_image(name: str) -> QueryTerm:
    """Read a query that is one image or item, with nothing else in it.

    Args:
        name: a file's path whatever its signs, `@` and an item, a web address, or `STDIN`.

    Raises:
        QueryError: there is no such file.
    """
    _check_nul(name)
    if name == STDIN or os.path.isfile(name) or _is_address(name):
        return QueryTerm(1.0, "image", name)
    if _ITEM.match(name):
        return QueryTerm(1.0, "item", _checked_text(name[1:]))
    path = _file(os.path.expanduser(name))
    if path is not None:
        return QueryTerm(1.0, "image", path)
    raise QueryError(
        f"{name}: no such file; check the path, or write @ before the name of an indexed image"
    )


def combine_vectors(vectors: Embeddings, weights: ArrayLike) -> Embeddings:
    """Add the terms' vectors up and bring the sum to unit length.

    Args:
        vectors: (T, E) float, unit length, one row per term.
        weights: (T,) float.

    Returns:
        (E,) float32, unit length.

    Raises:
        QueryError: the terms cancel each other out.
        ValueError: the numbers of vectors and weights differ.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    factors = np.asarray(weights, dtype=np.float64)
    if rows.ndim != 2 or factors.shape != rows.shape[:1]:
        raise ValueError(f"expected (T, E) and (T,), got {rows.shape} and {factors.shape}")
    total = factors @ rows  # (E,)
    length = float(np.linalg.norm(total))
    if length <= _CANCELLED * max(float(np.abs(factors).sum()), 1.0):
        raise QueryError("the query's terms cancel each other out; drop one or change its weight")
    return (total / length).astype(np.float32)


def _pieces_of_arguments(arguments: Sequence[str]) -> Iterator[_Piece]:
    position = 0
    for argument in arguments:
        word = argument.strip()
        if position == 0 and _LEADING_MINUS.match(word):
            yield _Piece("-", 0, True)
            word = word[1:]
        if word:
            yield _Piece(word, position, word in _SIGNS)
        position += len(argument) + 1


def _pieces_of_text(text: str) -> Iterator[_Piece]:
    position = 0
    if leading := _LEADING_MINUS.match(text):
        yield _Piece("-", leading.end() - 1, True)
        position = leading.end()
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        found = _OPERATOR.match(text, position)
        if found is not None:
            yield _Piece(found.group(), position, True)
        else:
            found = _WORD.match(text, position)
            assert found is not None  # there is a character that is no space
            is_quoted = found["quoted"] is not None
            yield _Piece(_unquoted(found), position, False, is_quoted)
        position = found.end()


def _unquoted(word: re.Match[str]) -> str:
    quoted = word["quoted"]
    if quoted is not None:
        return f"{word['weight'] or ''}{quoted}"
    if re.match(r'(?:[+-]?[\d.]+:)?"', word.group()):
        raise QueryError(
            f"the quote at character {word.start() + 1} of the query {word.string!r} has no "
            "partner that ends the term; close it before a space, or leave it out"
        )
    return word.group()


def _terms(pieces: Sequence[_Piece], query: str, *, allow_files: bool) -> Iterator[QueryTerm]:
    """Join neighboring words to terms, and give each the sign before it."""
    sign, words = 1.0, list[_Piece]()
    for piece in pieces:
        if not piece.is_operator:
            words.append(piece)
            continue
        if words:
            yield _term(words, sign, query, allow_files=allow_files)
        elif piece is not pieces[0]:
            raise _misplaced(piece, query)
        sign, words = _SIGNS[piece.text], []
    if not words:
        raise _misplaced(pieces[-1], query)
    yield _term(words, sign, query, allow_files=allow_files)


def _term(words: Sequence[_Piece], sign: float, query: str, *, allow_files: bool) -> QueryTerm:
    weight, text = _split_weight(" ".join(word.text for word in words))
    where = f"at character {words[0].position + 1} of the query {shorten(query)}"
    if not math.isfinite(weight):
        raise QueryError(f"{where}: the weight is too large")
    if not text:
        raise QueryError(f"{where}: there is no text or image; write one, or drop the term")
    if _ITEM.match(text) and not words[0].is_quoted:
        return QueryTerm(sign * weight, "item", _checked_text(text[1:]))
    if _is_address(text):
        return QueryTerm(sign * weight, "image", text)
    path = _file(os.path.expanduser(text)) if allow_files else None
    if path is not None:
        return QueryTerm(sign * weight, "image", path)
    if (kind := _encoded_image(text)) is not None:
        raise QueryError(
            f"the query's term {text[:_SHOWN]!r}… is the {kind} of an image, not a text; "
            "save the image, and give its path"
        )
    if _ends_like_an_image(text):
        if not allow_files:
            raise QueryError(f"{where}: to search with an image of the index, write @{text}")
        raise QueryError(
            f"{where}: there is no image {text}; check the path, and put + between terms"
        )
    return QueryTerm(sign * weight, "text", _checked_text(text))


def _file(path: str) -> str | None:
    """Return the path of a file that may be stored in another Unicode form; None for no file.

    A video may have a time after it, and all a box: `clip.mp4#t=12&xywh=0,0,640,360`.

    Raises:
        QueryError: the file is there, but what should be its box is none.
    """
    if (found := _stored_form(path)) is not None:
        return found
    base, name = path.rpartition("#")[0], name_without_crop(path)
    if any(sign.isspace() for sign in path[len(base) :]):  # further terms of the query
        return None
    has_crop = name != path
    has_time = split_fragment(name)[1] is not None
    if not (has_time or (has_crop and name == base)) or (found := _stored_form(base)) is None:
        return None
    if has_crop:
        _check_crop(path)
    return found + path[len(base) :]


def _stored_form(path: str) -> str | None:
    return next((form for form in forms_of(path) if os.path.isfile(form)), None)


def _check_crop(name: str) -> None:
    """Check the box of a name.

    Raises:
        QueryError: what should be one is none.
    """
    try:
        split_crop(name)
    except ImageValueError as err:
        raise QueryError(str(err)) from err


def _is_address(text: str) -> bool:
    """Whether a text is a web address; its box is checked.

    Raises:
        QueryError: what should be its box is none.
    """
    if _ADDRESS.fullmatch(text) is None:
        return False
    _check_crop(text)
    return True


def _check_nul(query: str) -> None:
    if "\0" in query:
        raise QueryError(
            f"the query {shorten(query)} holds a NUL at character {query.index(chr(0)) + 1}, "
            "which no text, path or name can; leave it out"
        )


def _checked_text(text: str) -> str:
    """Return what is to be embedded or looked up, which has to be Unicode.

    Raises:
        QueryError: it is not: half of a pair, or bytes of an old encoding.
    """
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise QueryError(
            f"the query's term {shorten(text)} is not valid Unicode at character "
            f"{err.start + 1}; write that character anew"
        ) from err
    return text


def _encoded_image(text: str) -> str | None:
    """As `image_in_text`, which is imported only for what is long enough or has a colon."""
    if ":" not in text and len(text) < _SHORTEST_ENCODED:
        return None
    from perception_encoder.preprocess.image_strings import image_in_text

    return image_in_text(text)


def _split_weight(text: str) -> tuple[float, str]:
    found = _WEIGHT.match(text)
    if found is None:
        return 1.0, text
    rest = text[found.end() :].strip()
    if rest[:1].isdigit() and not _ends_like_an_image(rest):  # 16:9, 12:30
        return 1.0, text
    return float(found.group(1)), rest


def _ends_like_an_image(text: str) -> bool:
    name = name_without_crop(text)
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES or is_clip(name)


def _misplaced(piece: _Piece, query: str) -> QueryError:
    return QueryError(
        f"at character {piece.position + 1} of the query {query!r}: {piece.text!r} needs a text or "
        "an image on its right; to search for the sign itself, put the text in double quotes"
    )
