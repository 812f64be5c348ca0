"""Lost and damaged files of an index are noticed, whatever was done to it in between."""

import os
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest

from perception_encoder.errors import IndexNotFoundError, IndexStorageError
from perception_encoder.index import Index, Row
from perception_encoder.index.checksums import BLOCK_BYTES, sum_blocks, sum_file
from perception_encoder.index.commits import Journal, files_of, find_damaged_files
from perception_encoder.index.optimize import describe_index
from perception_encoder.types import ModelIdentity

IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 8)


def add(index: Index, *names: str) -> None:
    index.add([Row(name) for name in names], np.eye(8, dtype=np.float32)[: len(names)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index after two commits."""
    index = Index.create(tmp_path / "t", IDENTITY)
    add(index, "a", "b")
    add(index, "b", "c")
    return tmp_path / "t"


def manifests(path: Path) -> list[Path]:
    """Newest first: their names count down."""
    return sorted((path / "_versions").glob("*.manifest"))


def lost(path: Path) -> list[tuple[str, str]]:
    return [
        (one.name, one.reason) for one in find_damaged_files(lance.dataset(str(path)), str(path))
    ]


# The last version


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_newest_manifest_that_was_deleted_is_noticed(path: Path, count: int) -> None:
    reader = Index.open(path)
    last = lance.dataset(str(path)).version
    for manifest in manifests(path)[:count]:
        manifest.unlink()
    (path / "_versions" / "latest_version_hint.json").unlink(missing_ok=True)
    for ask in (Index.open, describe_index, lambda _: reader.refresh()):
        with pytest.raises(IndexStorageError, match=f"version {last} was committed") as caught:
            ask(path)
        assert "pe index FOLDER" in str(caught.value)
    with pytest.raises(IndexStorageError, match="was committed"):
        Index.open_or_create(path, IDENTITY)
    with pytest.raises(IndexStorageError, match="was committed"):
        add(reader, "d")


def test_one_can_go_on_with_what_is_left(path: Path) -> None:
    manifests(path)[0].unlink()
    (path / "_versions" / "latest_version_hint.json").unlink(missing_ok=True)
    with pytest.raises(IndexStorageError, match=r"delete .*_pe/journal"):
        Index.open(path)
    (path / "_pe" / "journal").unlink()
    index = Index.open(path)
    assert index.count() == 2
    add(index, "d")
    assert Index.open(path).count() == 3


def test_a_damaged_newest_manifest_is_told_before_lance_reads_it(path: Path) -> None:
    newest = manifests(path)[0]
    newest.write_bytes(newest.read_bytes().replace(b"pe-nano", b"pe-mono"))
    with pytest.raises(IndexStorageError, match=rf"{newest.name} is damaged.*copy of the folder"):
        Index.open(path)


def test_commits_of_other_programs_are_no_damage(path: Path) -> None:
    dataset = lance.dataset(str(path))
    dataset.delete("uri = 'a'")
    dataset.optimize.compact_files()
    index = Index.open(path)
    assert sorted(row.uri for row in index.rows()) == ["b", "c"]
    assert lost(path) == []
    add(index, "d")
    assert Index.open(path).count() == 3
    assert lost(path) == []


def test_versions_that_were_dropped_are_no_damage(path: Path) -> None:
    import datetime

    Index.open(path).optimize(older_than=datetime.timedelta(0))
    assert len(manifests(path)) == 1
    assert Index.open(path).count() == 3
    lance.dataset(str(path)).delete("uri = 'a'")  # somebody else's, who then drops ours
    lance.dataset(str(path)).cleanup_old_versions(older_than=datetime.timedelta(0))
    assert Index.open(path).count() == 2


def test_an_index_made_where_another_was_deleted_begins_anew(path: Path) -> None:
    for name in os.listdir(path):
        if name != "_pe":
            shutil.rmtree(path / name)
    with pytest.raises(IndexNotFoundError):
        Index.open(path)
    index = Index.create(path, IDENTITY)
    assert Index.open(path).count() == 0
    add(index, "x")
    assert Index.open(path).count() == 1


def test_an_index_of_an_earlier_version_has_no_journal_and_gets_one(path: Path) -> None:
    (path / "_pe" / "journal").unlink()
    index = Index.open(path)
    add(index, "d")
    manifests(path)[0].unlink()
    (path / "_versions" / "latest_version_hint.json").unlink(missing_ok=True)
    with pytest.raises(IndexStorageError, match="was committed"):
        Index.open(path)


def test_a_line_that_a_crash_has_cut_is_left_out(path: Path) -> None:
    journal = path / "_pe" / "journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])
    index = Index.open(path)
    add(index, "d")
    assert Journal(str(path)).check_manifest() == lance.dataset(str(path)).version
    assert lost(path) == []


def test_a_journal_that_cannot_be_written_costs_no_rows(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path / "_pe" / "journal").unlink()
    (path / "_pe" / "journal").mkdir()
    add(Index.open(path), "d")
    assert Index.open(path).count() == 4
    assert "journal cannot be written" in caplog.text


def test_an_index_that_may_only_be_read_is_read(path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    index = Index.open(path)
    index.search(np.eye(8, dtype=np.float32)[:1], k=2)
    index.refresh()
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


# Checksums of files


def test_every_file_has_a_checksum_after_whatever_was_done(path: Path) -> None:
    index = Index.open(path)
    index.append([Row("d", metadata={"new": 1})], np.eye(8, dtype=np.float32)[:1])
    index.delete([Row("a").id])
    dataset = lance.dataset(str(path))
    assert set(files_of(dataset)) <= set(Journal(str(path)).files())
    for name in files_of(dataset):
        kept = (path / name).read_bytes()
        (path / name).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert lost(path) == [(name, "not as it was written")]
        (path / name).unlink()
        assert lost(path) == [(name, "missing")]
        (path / name).write_bytes(kept)
    assert lost(path) == []


def test_optimizing_forgets_old_files_and_knows_the_new_ones(path: Path) -> None:
    index = Index.open(path)
    index.optimize()
    assert index.count() == 3
    dataset = lance.dataset(str(path))
    assert set(Journal(str(path)).files()) == set(files_of(dataset))
    (name,) = files_of(dataset)
    kept = (path / name).read_bytes()
    (path / name).write_bytes(kept[:100] + bytes(8) + kept[108:])
    assert lost(path) == [(name, "not as it was written")]


def test_optimizing_does_not_copy_damage_into_files_that_look_good(path: Path) -> None:
    name = next(iter(files_of(lance.dataset(str(path)))))
    kept = (path / name).read_bytes()
    (path / name).write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    version = lance.dataset(str(path)).version
    with pytest.raises(IndexStorageError, match=rf"damaged files: {name}.*pe doctor --index"):
        Index.open(path).optimize()
    assert lance.dataset(str(path)).version == version


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5])
def test_any_changed_byte_changes_the_sum_of_its_block(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    sums = sum_blocks(data)
    assert len(sums) == -(-size // BLOCK_BYTES)
    file = tmp_path / "file"
    data.tofile(file)
    before = sum_file(str(file))
    for place in {0, size // 2, size - 1} if size else ():
        for change in (1, 128, 255):
            other = data.copy()
            other[place] ^= change
            assert np.flatnonzero(sum_blocks(other) != sums).tolist() == [place // BLOCK_BYTES]
            other.tofile(file)
            assert sum_file(str(file)) != before


def test_swapped_pages_and_pages_of_zeros_change_the_sum() -> None:
    data = np.random.default_rng(0).integers(0, 256, BLOCK_BYTES, np.uint8)
    pages = data.reshape(-1, 4096)
    swapped, zeroed = pages.copy(), pages.copy()
    swapped[[1, 2]] = pages[[2, 1]]
    zeroed[3] = 0
    sums = {int(sum_blocks(one.reshape(-1))[0]) for one in (pages, swapped, zeroed)}
    assert len(sums) == 3


def test_sums_are_the_same_in_every_version_of_numpy() -> None:
    """They are stored: a change of the weights would condemn every index there is."""
    data = np.arange(BLOCK_BYTES + 3, dtype=np.uint64).astype(np.uint8)
    assert sum_blocks(data).tolist() == [3051363008039723104, 8150160412494245632]
