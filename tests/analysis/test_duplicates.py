"""Duplicates of real files and of made vectors, against rules that a person could check."""

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis.duplicate_samples import around, index_of, read, refuse, remote_rows, row_of, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_models import drawing

from perception_encoder.analysis import near_cells, near_pairs
from perception_encoder.analysis.duplicates import Duplicates, find_duplicates
from perception_encoder.analysis.ranked_images import Keep, rank_images
from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row

EAST, NORTH, UP, DOWN = np.eye(4, dtype=np.float32)


def found_in(found: Duplicates) -> dict[str, dict[str, str]]:
    """Kept names, and the tiers of the others, by names."""
    return {
        Path(group.kept.uri).name: {Path(o.row.uri).name: o.tier for o in group.others}
        for group in found.groups
    }


# Tiers


def test_each_image_is_in_the_strictest_tier_that_holds(tmp_path: Path) -> None:
    image = drawing(1, 60, 40)
    image.save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    image.save(tmp_path / "c.bmp")
    image.save(tmp_path / "d.jpg", quality=60)
    image.resize((30, 20)).save(tmp_path / "e.png")
    drawing(2, 60, 40).save(tmp_path / "f.png")
    names = ["a.png", "b.png", "c.bmp", "d.jpg", "e.png", "f.png"]
    vectors = unit(
        np.stack([EAST, EAST, EAST, EAST + NORTH * 0.05, EAST + UP * 0.1, EAST + DOWN * 0.4])
    )
    index = index_of(tmp_path, [row_of(tmp_path / name) for name in names], vectors)
    kept = "c.bmp"  # of equal size in pixels, the most bytes
    near = {"d.jpg": "near duplicate", "e.png": "near duplicate"}
    same = {"a.png": "identical pixels", "b.png": "identical pixels"}
    assert found_in(find_duplicates(index, read)) == {kept: {**same, **near}}
    assert found_in(find_duplicates(index, read, tier="identical pixels")) == {kept: same}
    only_bytes = find_duplicates(index, refuse, tier="identical bytes")
    assert found_in(only_bytes) == {"a.png": {"b.png": "identical bytes"}}
    similar = find_duplicates(index, read, tier="similar")
    assert found_in(similar) == {kept: {**same, **near, "f.png": "similar"}}
    assert similar.groups[0].tier == "similar"
    scores = [other.score for other in similar.groups[0].others]
    assert scores == pytest.approx([1, 1, 1 / 1.0025**0.5, 1 / 1.01**0.5, 1 / 1.16**0.5])


def test_only_files_of_one_kind_are_duplicates(tmp_path: Path) -> None:
    """Whoever deletes duplicates keeps the RAW files, and videos with scenes that return."""
    drawing(1, 60, 40).save(tmp_path / "a.png")
    for name in ("a.NEF", "b.png", "b.nef", "film.mp4", "copy.mp4"):
        shutil.copy2(tmp_path / "a.png", tmp_path / name)
    rows = [row_of(tmp_path / "a.png")]
    for number, name in enumerate(["a.NEF", "b.png", "b.nef"]):
        rows.append(replace(rows[0], uri=str(tmp_path / name), sha256=f"{number:02x}" * 32))
    for number, name in enumerate(["film.mp4", "film.mp4", "copy.mp4"]):
        member = f"00:00:0{number}.000"
        digest = f"{9 + number:02x}" * 32
        rows.append(replace(rows[0], uri=str(tmp_path / name), member=member, sha256=digest))
    index = index_of(tmp_path, rows, unit(np.stack([EAST] * len(rows))))
    groups = find_duplicates(index, read, tier="similar").groups
    found = {
        frozenset(Path(row.uri).name for row in (group.kept, *(o.row for o in group.others)))
        for group in groups
    }
    assert found == {
        frozenset({"a.png", "b.png"}),
        frozenset({"a.NEF", "b.nef"}),
        frozenset({"copy.mp4", "film.mp4"}),
    }


def test_pixels_are_compared_as_they_are_shown(tmp_path: Path) -> None:
    image = drawing(3, 60, 40)
    image.save(tmp_path / "straight.png")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    changed = image.copy()
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(tmp_path / "one pixel.png")
    rows = [row_of(tmp_path / name) for name in ("straight.png", "turned.png", "one pixel.png")]
    assert (rows[1].width, rows[1].height) == (40, 60)
    rows[1] = Row(uri=rows[1].uri, width=60, height=40)
    index = index_of(tmp_path, rows, np.stack([EAST] * 3))
    found = find_duplicates(index, read, tier="identical pixels")
    assert [sorted([k, *o]) for k, o in found_in(found).items()] == [["straight.png", "turned.png"]]
    assert found.left_out == ()


def test_only_candidates_are_decoded_and_each_once(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "wide.png", "far.png", "copy1.png", "copy2.png"]
    for name in names:
        drawing(4, 50 if name == "wide.png" else 40).save(tmp_path / name, compress_level=1)
    drawing(4).save(tmp_path / "b.png", compress_level=9)
    rows = [row_of(tmp_path / name) for name in names]
    rows[3] = Row(uri=rows[3].uri, width=40, height=30, sha256="f" * 64)
    vectors = np.stack([EAST, EAST, EAST, NORTH, EAST, EAST])
    times = Counter[str]()

    def counting(row: Row) -> bytes:
        times[Path(row.uri).name] += 1
        return read(row)

    found_in(find_duplicates(index_of(tmp_path, rows, vectors), counting))
    assert times == {"a.png": 1, "b.png": 1}  # a.png stands for its copies


def test_recompressed_and_resized_photos_are_found_by_a_real_model(
    tmp_path: Path, photos: list[Path]
) -> None:
    from perception_encoder import AutoModel

    paths = []
    for photo in photos:
        with Image.open(photo) as opened:
            image = opened.convert("RGB")
        if max(image.size) > 1000:
            image.thumbnail((1000, 1000))
        for change in ("original", "q40", "half"):
            paths.append(tmp_path / f"{photo.stem} {change}.jpg")
            size = (image.width // 2, image.height // 2) if change == "half" else image.size
            image.resize(size).save(paths[-1], quality=40 if change == "q40" else 95)
    vectors = AutoModel.from_pretrained("pe-nano").embed_images(paths, show_progress=False)
    found = find_duplicates(index_of(tmp_path, [row_of(path) for path in paths], vectors), read)
    assert len(found.groups) == len(photos)
    for group in found.groups:
        assert group.kept.uri.endswith("original.jpg")
        stem = Path(group.kept.uri).stem.removesuffix(" original")
        assert [Path(o.row.uri).stem.startswith(stem) for o in group.others] == [True, True]


# Groups


def test_a_chain_does_not_join_what_is_not_alike(tmp_path: Path) -> None:
    angles = np.radians(np.arange(0, 90, 8))  # a step is 0.990, two are 0.961
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    index = index_of(tmp_path, remote_rows(len(vectors)), vectors)
    found = find_duplicates(index, refuse)
    assert [len(group.others) for group in found.groups] == [1] * 6
    assert all(o.score == pytest.approx(0.9903, abs=1e-4) for g in found.groups for o in g.others)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 60),
    embed_dim=st.integers(2, 5),
    spread=st.floats(0.05, 1),
    threshold=st.floats(0.5, 0.999),
    block=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_kept_images_differ_and_each_other_is_near_its_own(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    embed_dim: int,
    spread: float,
    threshold: float,
    block: int,
    seed: int,
) -> None:
    vectors = around(count, embed_dim, spread, seed)
    order = np.random.default_rng(seed).permutation(count)
    rows = remote_rows(count)
    index = index_of(tmp_path_factory.mktemp("t"), [rows[n] for n in order], vectors[order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_pairs, "_BLOCK", block)
        found = find_duplicates(index, refuse, threshold=threshold)
    place = {row.uri: number for number, row in enumerate(rows)}
    redundant = {
        place[other.row.uri]: (place[group.kept.uri], other.score)
        for group in found.groups
        for other in group.others
    }
    assert len(redundant) == sum(len(group.others) for group in found.groups)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    for number, (kept, score) in redundant.items():
        assert kept not in redundant
        assert kept < number  # the wider one is kept
        assert score == pytest.approx(cosines[number, kept], abs=2e-6)
        assert score >= threshold - 2e-6
    left = [number for number in range(count) if number not in redundant]
    between = cosines[np.ix_(left, left)] - 3 * np.eye(len(left))
    assert (between < threshold + 2e-6).all()


def test_a_crowd_of_alike_images_is_one_group(tmp_path: Path) -> None:
    count = 5 * near_pairs.MAX_PARTNERS
    index = index_of(tmp_path, remote_rows(count), around(count, 16, 0.01))
    found = find_duplicates(index, refuse)
    assert [len(group.others) for group in found.groups] == [count - 1]
    assert found.groups[0].kept.uri == "s3://b/000000.jpg"


@pytest.mark.parametrize("group_bytes", [1, 10**4, 10**9])
@pytest.mark.parametrize("threshold", [0.9, 0.98, 0.999])
def test_cells_give_the_pairs_that_comparing_all_gives(
    tmp_path: Path, group_bytes: int, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.analysis.near_pairs._GROUP_BYTES", group_bytes)
    centers = around(100, 24, 0.8)
    spread = np.concatenate([around(8, 24, 0.02, seed) for seed in range(100)])
    vectors = unit(np.repeat(centers, 8, axis=0) + spread - np.eye(24)[0])
    rows = remote_rows(800)
    rows[7] = Row(uri=rows[7].uri, width=rows[3].width, height=1, sha256="7" * 64)
    vectors[7] = vectors[3]
    index = index_of(tmp_path, rows, vectors)
    where = "uri != 's3://b/000009.jpg'"
    images = rank_images(index, "resolution", where)
    options = {"threshold": threshold, "where": where}
    chosen = np.arange(2, len(images))
    exact = near_pairs.find_near_pairs(index, images, chosen, **options)
    monkeypatch.setattr(near_pairs, "MAX_EXACT", 100)
    monkeypatch.setattr(near_cells, "_CELL_SIZE", 40)
    divided = near_pairs.find_near_pairs(index, images, chosen, **options)

    def scores(pairs: near_pairs.NearPairs) -> dict[tuple[int, int], float]:
        ends = zip(pairs.earlier.tolist(), pairs.later.tolist(), strict=True)
        return dict(zip(ends, pairs.scores.tolist(), strict=True))

    assert len(scores(exact)) > (1000 if threshold < 0.99 else 0)
    missed = scores(exact).keys() - scores(divided).keys()
    assert len(missed) <= 0.01 * len(scores(exact))
    assert scores(divided) == pytest.approx(
        {pair: score for pair, score in scores(exact).items() if pair not in missed}, abs=1e-6
    )
    assert exact.may_be_equal.sum() == 2
    assert (divided.may_be_equal == exact.may_be_equal).all()


def test_what_was_not_looked_at_is_told(tmp_path: Path) -> None:
    """All are alike, so all are one cell, and that is too large to compare at once."""
    index = index_of(tmp_path, remote_rows(500), around(500, 16, 0.001))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_pairs, "MAX_EXACT", 100)
        found = find_duplicates(index, refuse)
    kept = 500 - sum(len(group.others) for group in found.groups)
    assert 1 < kept <= 20
    assert found.num_crowded == kept
    assert find_duplicates(index, refuse).num_crowded == 0


@pytest.mark.parametrize("most", [50_000, 100])
def test_a_search_can_be_ended_between_blocks(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "MAX_EXACT", most)
    monkeypatch.setattr(near_pairs, "_BLOCK", 50)
    index = index_of(tmp_path, remote_rows(500), around(500, 16, 0.001))
    num_calls = 0

    def count(_step: str, done: int, total: int) -> None:
        nonlocal num_calls
        num_calls += 1
        assert 0 <= done <= total or total == 0

    find_duplicates(index, refuse, report=count)
    assert num_calls > 500 / 50  # blocks are compared with each other

    class Enough(Exception):
        pass

    def stop(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Enough

    for limit in range(0, num_calls, max(1, num_calls // 20)):
        left = limit
        with pytest.raises(Enough):
            find_duplicates(index, refuse, report=stop)
        assert left == -1  # nothing was done after it


# Which is kept


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("resolution", "d"),
        ("size", "c"),
        ("oldest", "b"),
        ("newest", "a"),
        ("first", "a"),
    ],
)
def test_the_rule_says_which_is_kept(tmp_path: Path, keep: Keep, kept: str) -> None:
    facts = {"a": (11, 300, 4000), "b": (12, 300, 1000), "c": (13, 600, 2000), "d": (14, 500, None)}
    rows = [
        Row(uri=f"s3://b/{name}", width=20, height=height, bytes=num_bytes, mtime=mtime)
        for name, (height, num_bytes, mtime) in facts.items()
    ]
    index = index_of(tmp_path, rows[::-1], np.stack([EAST] * 4))
    found = find_duplicates(index, refuse, keep=keep)
    assert [group.kept.uri for group in found.groups] == [f"s3://b/{kept}"]


def test_ties_are_broken_by_bytes_and_then_by_path(tmp_path: Path) -> None:
    sizes = {"b": 2, "a": 2, "c": 1}
    rows = [Row(uri=f"s3://b/{n}", bytes=size, sha256="0" * 64) for n, size in sizes.items()]
    found = find_duplicates(index_of(tmp_path, rows, np.stack([EAST] * 3)), refuse)
    assert found_in(found) == {"a": {"b": "identical bytes", "c": "identical bytes"}}


def test_a_condition_leaves_rows_out(tmp_path: Path) -> None:
    rows = [Row(uri=f"s3://b/{n}", width=n, height=1, sha256="0" * 64) for n in range(1, 5)]
    index = index_of(tmp_path, rows, np.stack([EAST] * 4))
    found = find_duplicates(index, refuse, where="width < 4 AND width > 1")
    assert found_in(found) == {"3": {"2": "identical bytes"}}
    assert found.num_images == 2
    with pytest.raises(QueryError, match="the condition"):
        find_duplicates(index, refuse, where="nonsense ===")


def test_an_empty_table_and_one_of_strangers_have_none(tmp_path: Path) -> None:
    index = index_of(tmp_path, [], np.empty((0, 4)))
    assert find_duplicates(index, refuse) == Duplicates((), (), 0, 0)
    index.append(remote_rows(4), np.eye(4, dtype=np.float32))
    assert find_duplicates(index, refuse) == Duplicates((), (), 4, 0)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.1])
def test_a_threshold_that_is_no_cosine_is_refused(tmp_path: Path, threshold: float) -> None:
    index = index_of(tmp_path, [], np.empty((0, 4)))
    with pytest.raises(ValueError, match="a cosine above 0"):
        find_duplicates(index, refuse, threshold=threshold)


# Files that are not what the index remembers


def copies(folder: Path, *names: str) -> Index:
    drawing(5).save(folder / names[0])
    for name in names[1:]:
        shutil.copy(folder / names[0], folder / name)
    rows = [row_of(folder / name) for name in names]
    return index_of(folder, rows, np.stack([EAST] * len(rows)))


def test_a_vanished_file_is_reported_and_never_the_one_to_keep(tmp_path: Path) -> None:
    index = copies(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.png").unlink()
    found = find_duplicates(index, read)
    assert found_in(found) == {"b.png": {"c.png": "identical bytes"}}
    assert [(Path(o.row.uri).name, o.reason) for o in found.left_out] == [
        ("a.png", "has gone or cannot be read (No such file or directory)")
    ]
    (tmp_path / "b.png").unlink()
    assert found_in(find_duplicates(index, read)) == {}


def test_a_file_that_was_changed_since_is_nobodys_copy(tmp_path: Path) -> None:
    index = copies(tmp_path, "a.png", "b.png")
    drawing(6).save(tmp_path / "b.png")
    found = find_duplicates(index, read)
    assert found.groups == ()
    assert [o.reason for o in found.left_out] == ["has changed since it was indexed"]


def test_other_names_of_the_same_file_are_no_copies(tmp_path: Path) -> None:
    drawing(7).save(tmp_path / "b.png")
    (tmp_path / "a.png").symlink_to("b.png")
    os.link(tmp_path / "b.png", tmp_path / "c.png")
    shutil.copy(tmp_path / "b.png", tmp_path / "d.png")
    rows = [row_of(tmp_path / name) for name in ("a.png", "b.png", "c.png", "d.png")]
    found = find_duplicates(index_of(tmp_path, rows, np.stack([EAST] * 4)), read)
    assert found_in(found) == {"b.png": {"d.png": "identical bytes"}}
    assert [(Path(o.row.uri).name, o.reason) for o in found.left_out] == [
        ("a.png", "is a link to another file"),
        ("c.png", f"is another name of {tmp_path / 'b.png'}"),
    ]


def test_what_cannot_be_read_is_left_out_with_its_copies(tmp_path: Path) -> None:
    drawing(8).save(tmp_path / "whole.bmp")
    drawing(8).save(tmp_path / "whole.png")
    cut = (tmp_path / "whole.bmp").read_bytes()[:-200]
    for name in ("cut.bmp", "cut2.bmp"):
        (tmp_path / name).write_bytes(cut)
    rows = [row_of(tmp_path / n) for n in ("whole.bmp", "whole.png", "cut.bmp", "cut2.bmp")]
    found = find_duplicates(index_of(tmp_path, rows, np.stack([EAST] * 4)), read)
    assert found_in(found) == {"whole.bmp": {"whole.png": "identical pixels"}}
    assert [Path(o.row.uri).name for o in found.left_out] == ["cut.bmp", "cut2.bmp"]
    assert all(o.reason.startswith("cannot be read: ") for o in found.left_out)
