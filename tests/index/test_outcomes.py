from pathlib import Path

import lance

from perception_encoder.index.outcomes import Outcome, OutcomeLog


def failed(uri: str, reason: str = "ImageDecodeError", **facts: object) -> Outcome:
    return Outcome(uri, "failed", reason=reason, message=f"{uri}: bad", **facts)  # type: ignore[arg-type]


def test_the_last_word_about_an_item_counts(tmp_path: Path) -> None:
    log = OutcomeLog(str(tmp_path / "t.lance"))
    assert list(log.latest()) == []
    assert not log.counts()
    log.append([], "first")
    bad = failed("b.jpg", bytes=3, mtime=4, metadata={"label": "cat", "size": 2})
    inside = failed("c.tar", member="1.png", offset=512)
    log.append([Outcome("a.jpg", "embedded", decode_ms=1.5, encode_ms=2.5), bad, inside], "first")
    assert list(log.latest(["failed"])) == [bad, inside]
    mended = Outcome("b.jpg", "embedded", bytes=5, mtime=6)
    log.append([mended, Outcome("a.jpg", "skipped")], "second")
    assert list(log.latest()) == [inside, mended, Outcome("a.jpg", "skipped")]
    assert log.counts() == {"failed": 1, "embedded": 1, "skipped": 1}
    assert list(log.latest(["failed"])) == [inside]


def test_compacting_keeps_the_last_words_and_drops_the_rest(tmp_path: Path) -> None:
    log = OutcomeLog(str(tmp_path / "t.lance"))
    log.compact()
    for run in range(5):
        status = "embedded" if run == 0 else "skipped"
        log.append([Outcome(f"{number}.jpg", status) for number in range(50)], str(run))
        log.append([failed("bad.jpg", bytes=run)], str(run))
    before = list(log.latest())
    assert lance.dataset(log.path).count_rows() == 255
    log.compact()
    assert list(log.latest()) == before
    assert lance.dataset(log.path).count_rows() == 51
    log.append([Outcome("bad.jpg", "embedded")], "last")
    log.compact()
    assert log.counts() == {"skipped": 50, "embedded": 1}
