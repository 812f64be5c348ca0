"""Replies' bytes: JSON, with numpy arrays as lists."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import Response

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def json_reply(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON reply; contiguous numpy arrays become lists, float32 in their shortest form.

    What is no valid Unicode (names of files, texts of a request) is written with question marks.
    """
    try:
        content = orjson.dumps(body, option=_OPTIONS)
    except orjson.JSONEncodeError:  # lone surrogates, mostly in an error that quotes a request
        content = orjson.dumps(_valid(body), option=_OPTIONS)
    return Response(content, status, dict(headers or {}), "application/json")


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_valid(key): _valid(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    return value
