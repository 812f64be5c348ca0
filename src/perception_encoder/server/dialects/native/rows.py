"""How a table's rows look in native replies."""

import datetime
from typing import Any

from perception_encoder.index import Hit, Row
from perception_encoder.pipeline.search import Found


def described(item: Row | Hit) -> dict[str, Any]:
    """Return a row as JSON, without its vector."""
    return {
        "id": item.id,
        "name": item.name,
        "uri": item.uri,
        "member": item.member,
        "width": item.width,
        "height": item.height,
        "bytes": item.bytes,
        "modified": None if item.mtime is None else _moment(item.mtime),
        "sha256": item.sha256,
        "metadata": {name: _plain(value) for name, value in item.metadata.items()},
    }


def described_hit(found: Found) -> dict[str, Any]:
    """Return a hit as JSON, with what was folded under it."""
    return {
        **described(found.hit),
        "score": found.hit.score,
        "label": found.label,
        "also": [{**described(hit), "score": hit.score} for hit in found.also],
    }


def _moment(nanoseconds: int) -> str | None:
    try:
        moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC)
    except (OverflowError, ValueError, OSError):  # a wild file time
        return None
    return moment.isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """Return what JSON can hold: metadata of other programs' tables may be anything."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)
