"""Folders that are followed: which changes are seen."""

from pathlib import Path
from threading import Event, Timer

import pytest
from small_models import save_drawings

from perception_encoder.indexing import watch_changes
from perception_encoder.sources import SourceOptions


@pytest.fixture
def stop():
    """Ends a wait that would never end."""
    stop = Event()
    timer = Timer(100, stop.set)
    timer.start()
    yield stop
    timer.cancel()


def test_changes_count_from_the_call_on_though_nobody_looks_yet(tmp_path, stop):
    """As when the first run over a folder takes long, and has passed where something is added."""
    old, gone = save_drawings(tmp_path, 2)
    bursts = watch_changes([str(tmp_path)], SourceOptions(), stop=stop)
    gone.unlink()
    (tmp_path / "new.png").write_bytes(old.read_bytes())
    (changed,) = next(bursts)
    assert [Path(item.uri).name for item in changed.items()] == ["new.png"]
    assert changed.covers(str(gone), None)
    assert not changed.covers(str(old), None)
    bursts.close()  # type: ignore[attr-defined]


def test_photos_beside_changed_and_deleted_sidecars_are_listed(tmp_path, stop):
    first, second, third = save_drawings(tmp_path, 3)
    gone = first.with_suffix(".xmp")
    gone.write_text("<x/>")
    bursts = watch_changes([str(tmp_path)], SourceOptions(), stop=stop)
    gone.unlink()
    second.with_name(f"{second.name}.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    (changed,) = next(bursts)
    assert [item.uri for item in changed.items()] == [str(first), str(second)]
    assert changed.has_changed_sidecar(str(first))  # type: ignore[attr-defined]
    assert not changed.has_changed_sidecar(str(third))  # type: ignore[attr-defined]
    assert not changed.covers(str(first), None)
    bursts.close()  # type: ignore[attr-defined]
