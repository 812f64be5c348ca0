"""Replies' bytes: JSON, with numpy arrays as lists."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import Response

_INT64: Final = 2**63
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def json_reply(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    r"""Return a JSON reply; contiguous numpy arrays become lists, float32 in their shortest form.

    Every reply is JSON that strict parsers read: numbers that are not finite become null, halves of
    surrogate pairs in names and quoted texts are escaped ("caf\udce9.jpg"), integers beyond 64
    bits and whatever else JSON has no form for become strings.
    """
    try:
        content = orjson.dumps(body, option=_OPTIONS)
    except orjson.JSONEncodeError:
        content = orjson.dumps(_valid(body), option=_OPTIONS, default=str)
    return Response(content, status, dict(headers or {}), "application/json")


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not -_INT64 <= value < 2 * _INT64:
        return str(value)
    if isinstance(value, Mapping):
        return {_valid(str(key)): _valid(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    return value
