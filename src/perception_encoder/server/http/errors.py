"""From errors to an HTTP status, a stable code and a message, the same for every API.

Each API only decides the form of the reply's body.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from perception_encoder import errors

_NAME: Final = re.compile(r"[a-z][A-Za-z0-9_]*")
_FORMS: Final = frozenset(("str", "int", "float", "bool", "none", "nullable"))
_SHOWN: Final = 200  # characters of a name or message that may come from the request

_SERVER_FAULT: Final = "the server failed; its log says more under this request's id"


@dataclass(frozen=True)
class ItemError:
    """What is wrong with one image or text of a request.

    Attributes:
        position: among the request's items, from 0.
        code: as of `ApiError`.
        message: for people.
        name: what the message calls it, such as "input[3]"; None where it has no name.
    """

    position: int
    code: str
    message: str
    name: str | None = None


class ApiError(HTTPException):
    """An error reply; raise it anywhere below a route.

    Attributes:
        code: stable, for programs: "invalid_image", "queue_full", …
        message: what happened, to which item, and what to do.
        items: the images or texts that cannot be used.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        items: tuple[ItemError, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.message = message
        self.items = items

    def native(self) -> dict[str, Any]:
        """Return the body of the native reply: {"error": {"code", "message", "items"?}}."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.items:
            error["items"] = [
                {"index": item.position, "code": item.code, "message": item.message}
                for item in self.items
            ]
        return {"error": error}


_STATUS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (errors.QueueFullError, 429, "queue_full"),
    (errors.ModelUnavailableError, 503, "model_unavailable"),
    (errors.ServingError, 503, "unavailable"),
    (errors.ImageTooLargeError, 400, "image_too_large"),
    (errors.ImageReferenceError, 400, "invalid_image_reference"),
    (errors.ImageFetchError, 400, "image_fetch_failed"),
    (errors.ImageError, 400, "invalid_image"),
    (errors.TextTooLargeError, 400, "text_too_large"),
    (errors.QueryError, 400, "invalid_query"),
    (errors.ClassifierError, 400, "invalid_classifier"),
    (errors.UnsupportedOperationError, 400, "unsupported_by_model"),
    (errors.TokenizerNotFoundError, 503, "model_unavailable"),
    (errors.UnknownModelError, 404, "unknown_model"),
    (errors.IndexNotFoundError, 404, "unknown_index"),
    (errors.IndexMismatchError, 409, "index_of_another_model"),
    (errors.ImageIndexError, 503, "index_unavailable"),
    (errors.CheckpointError, 503, "model_unavailable"),
    (errors.DownloadError, 503, "model_unavailable"),
    (errors.BackendUnavailableError, 503, "model_unavailable"),
)


def convert_error(err: Exception) -> ApiError:
    """Return the reply to an error; 500 without details for an unexpected one."""
    if isinstance(err, ApiError):
        return err
    if isinstance(err, RequestValidationError):
        return ApiError(422, "invalid_request", _validation_message(err))
    if isinstance(err, ClientDisconnect):  # nobody reads it; it is noted as what it is
        return ApiError(499, "client_gone", "the client went away while its body was read")
    if isinstance(err, HTTPException):
        return ApiError(
            err.status_code, _code_of(err.status_code), str(err.detail), headers=err.headers
        )
    for kind, status, code in _STATUS:
        if isinstance(err, kind):
            headers = {}
            if isinstance(err, errors.ServingError):
                headers["Retry-After"] = str(err.retry_after_seconds)
            return ApiError(status, code, str(err), headers=headers)
    return ApiError(500, "internal", _SERVER_FAULT)


def build_item_error(position: int, err: errors.PerceptionEncoderError) -> ItemError:
    """Return the problem of one item of a request."""
    known = convert_error(err)
    return ItemError(position, known.code, known.message, getattr(err, "item", None))


def build_items_error(failed: Mapping[int, errors.PerceptionEncoderError], count: int) -> ApiError:
    """Return a 400 for a request with items that cannot be used.

    Args:
        failed: by position, why.
        count: of the request's items.
    """
    items = tuple(build_item_error(position, failed[position]) for position in sorted(failed))
    first = items[0]
    more = f" ({len(items)} of {count} items cannot be used)" if len(items) > 1 else ""
    return ApiError(400, first.code, f"{first.message}{more}", items=items)


def _validation_message(err: RequestValidationError) -> str:
    parts = []
    for one in sort_deepest_first(err)[:5]:
        place, message = format_field_path(one), str(one["msg"])[:_SHOWN]
        parts.append(f"{place}: {message}" if place else message)
    return "; ".join(dict.fromkeys(parts)) or "the request does not have the form of this route"


def sort_deepest_first(err: RequestValidationError) -> list[Mapping[str, Any]]:
    """Return the problems of a request, the longest path first.

    Where a field may have several forms, the form that matched furthest was meant.
    """
    return sorted(err.errors(), key=lambda one: -len(_steps(one)))


def format_field_path(problem: Mapping[str, Any]) -> str | None:
    """Return where in a request a problem of a `RequestValidationError` is: "terms[2].weight".

    Steps that only tell which form of a field was tried ("str", "list[str]", "Message") are left
    out, as they are not names of the request.
    """
    path = ""
    for step in _steps(problem):
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step[:_SHOWN]}" if path else step[:_SHOWN]
    return path or None


def _steps(problem: Mapping[str, Any]) -> list[str | int]:
    where, *steps = problem["loc"]
    if where not in ("body", "query", "path"):
        steps.insert(0, where)
    found = [step for step in steps if isinstance(step, int) or _is_name(step)]
    is_unknown = problem["type"] == "extra_forbidden"
    return [*found, steps[-1]] if is_unknown and not _is_name(steps[-1]) else found


def _is_name(step: str) -> bool:
    return _NAME.fullmatch(step) is not None and step not in _FORMS


def _code_of(status: int) -> str:
    return {
        400: "invalid_request",
        401: "unauthorized",
        404: "unknown_route",
        405: "wrong_method",
        408: "timeout",
        413: "too_large",
        422: "invalid_request",
        429: "rate_limited",
    }.get(status, "error")
