"""Replies and their headers, and the shapes of errors."""

import json
import time
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from perception_encoder.errors import UnknownModelError
from perception_encoder.server.dialects.roboflow.bodies import Body
from perception_encoder.server.dialects.roboflow.models import Lent, described
from perception_encoder.server.problems import ApiError
from perception_encoder.server.replies import json_reply

_NOT_FOUND = (
    "Requested Roboflow resource not found. Make sure that workspace, project or model you "
    "referred in request exists."
)


def reply(request: Request, body: Body, lent: Lent, **content: Any) -> Response:
    """Return a reply: the fields that all have, then its content."""
    seconds = time.perf_counter() - lent.started
    return json_reply(
        {
            "inference_id": body.id or request.scope.get("pe.request_id"),
            "frame_id": None,
            "time": seconds,
            "resolved_model": described(lent),
            **content,
        },
        headers=_headers(lent, seconds),
    )


def error_body(answer: ApiError, err: Exception) -> Any:
    """Return the JSON of an error: always an object, which is what the SDK can read."""
    if isinstance(err, RequestValidationError):
        # Without what was sent: that may be a picture.
        detail = [{key: one[key] for key in ("type", "loc", "msg")} for one in err.errors()]
        return {"detail": detail, "message": answer.message}
    if answer.status_code == 401:
        return {"status": 401, "message": f"Unauthorized api_key: {answer.message}"}
    if isinstance(err, UnknownModelError):
        return {"message": f"{_NOT_FOUND} ({answer.message})"}
    return {"message": answer.message}


def _in_ascii(name: str) -> str:
    """Return a name as headers can carry it: a model may be called as its folder is."""
    return name.encode("ascii", "replace").decode()


def _headers(lent: Lent, seconds: float) -> dict[str, str]:
    headers = {
        "X-Inference-Engine": "perception-encoder",
        "X-Model-Id": _in_ascii(lent.model_id),
        "X-Model-Cold-Start": str(lent.load_seconds is not None).lower(),
        "X-Processing-Time": f"{seconds:.6f}",
    }
    if lent.load_seconds is not None:
        headers["X-Model-Cold-Start-Count"] = "1"
        headers["X-Model-Load-Time"] = f"{lent.load_seconds:.6f}"
        headers["X-Model-Load-Details"] = json.dumps(
            [{"m": lent.model_id, "t": round(lent.load_seconds, 6)}]
        )
    return headers
