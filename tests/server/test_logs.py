"""What clients and files are called neither begins a line of the log nor moves a cursor."""

import io
import json
import logging
import logging.config

import pytest
from server.serving import running

from perception_encoder.server.http.telemetry import build_log_config

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07", "a\n2026-01-01 00:00:00,000 INFO GET /healthz 200", "\r\x0b\x0c",
    "\x7f\x9b31m", "\u2028\u2029\u202e", "\udcff", "\x00",
)  # fmt: skip


@pytest.fixture(params=["text", "json"])
def written(request):
    """What the log of that form has so far."""
    stream = io.StringIO()
    config = build_log_config(request.param)
    config["handlers"]["stderr"]["stream"] = stream
    ours = logging.getLogger("perception_encoder")
    before = (list(ours.handlers), ours.level, ours.propagate)
    logging.config.dictConfig(config)
    try:
        yield request.param, stream.getvalue
    finally:
        ours.handlers[:], ours.level, ours.propagate = before[0], before[1], before[2]
        logging.getLogger("uvicorn").handlers.clear()


def check(form: str, text: str, num_events: int) -> None:
    lines = text.splitlines()
    text.encode()  # also a strict stream can take it
    assert all(line.isprintable() for line in lines)
    events = [line for line in lines if not line.startswith(" ")]
    assert len(events) == num_events
    if form == "json":
        assert len(lines) == num_events
        assert all(json.loads(line)["message"] for line in lines)
    else:
        assert not any(line.startswith("2026-01-01") for line in events)


def test_whatever_is_logged_is_one_printable_line(written):
    form, text = written
    log = logging.getLogger("perception_encoder.test")
    for sign in HOSTILE:
        log.warning("a file %s", sign)
        try:
            raise OSError(sign)
        except OSError:
            log.exception("it failed: %s", sign)
    check(form, text(), 2 * len(HOSTILE))


def test_a_path_is_logged_as_one_printable_line(written):
    form, text = written
    paths = ("%1b%5b2J", "a%0a2026-01-01%2000:00:00,000%20INFO%20x", "%0d%7f%c2%9b", "%ff%00")
    with running() as server:
        before = len(text().splitlines())
        for path in paths:
            for place in (f"/{path}", f"/v1/items/{path}", f"/v1/models/{path}"):
                headers = {"User-Agent": b"a\tb", "X-Request-ID": b"\x9b31m"}
                server.client.get(f"{place}?{path}", headers=headers)
        after = "\n".join(text().splitlines()[before:])
    check(form, after.replace("\n\n", "\n"), 3 * len(paths))
    assert "\\n2026-01-01" in text().replace("\\\\n", "\\n")


def test_another_program_logs_paths_escaped_too(caplog):
    """Where the app runs in another program, that program's handlers write."""
    with running() as server, caplog.at_level(logging.INFO, "perception_encoder"):
        server.client.get("/a%0ab%1b")
    assert all(record.getMessage().isprintable() for record in caplog.records)
