"""Pairs that cameras write, and bursts: one hit, the others listed under it."""

import datetime
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import QueryError
from perception_encoder.index import Hit, Index, MetadataValue, Row
from perception_encoder.search import Query, SearchOptions
from perception_encoder.search.folding import fold_hits
from perception_encoder.search.ranking import search_index
from perception_encoder.types import Embeddings, ModelIdentity

E = 8
NOON = datetime.datetime(2026, 5, 4, 12, 0, 0)


def hits_of(*names: str) -> list[Hit]:
    """Hits of these names, best first; `a.mov|4` is a moment that ends after four seconds."""
    found = []
    for number, name in enumerate(names):
        uri, _, end = name.partition("|")
        member = "00:00:01.000" if end else None
        metadata = {"end": float(end)} if end else {}
        found.append(Hit(str(number), 1 - number / 100, uri, member, metadata))
    return found


def folded(*names: str, num_groups: int = 10) -> list[list[str]]:
    hits = hits_of(*names)
    groups = fold_hits(hits, num_groups=num_groups)
    return [[names[int(hit.id)] for hit in group] for group in groups]


class TestPairs:
    def test_a_raw_file_is_listed_under_its_photo(self):
        assert folded("/p/IMG_1.CR2", "/p/a.jpg", "/p/IMG_1.JPG") == [
            ["/p/IMG_1.JPG", "/p/IMG_1.CR2"],
            ["/p/a.jpg"],
        ]

    @pytest.mark.parametrize("clip", ["IMG_1.MOV", "IMG_1.mp4"])
    def test_a_clip_of_a_live_photo_is_listed_under_it(self, clip):
        moment = f"/p/{clip}|2.9"
        assert folded(moment, "/p/IMG_1.HEIC") == [["/p/IMG_1.HEIC", moment]]

    def test_every_moment_of_the_clip_is(self):
        moments = ["/p/IMG_1.MOV|1.4", "/p/IMG_1.MOV|2.9"]
        assert folded(moments[0], "/p/x.png", moments[1], "/p/IMG_1.HEIC") == [
            ["/p/IMG_1.HEIC", *moments],
            ["/p/x.png"],
        ]

    def test_three_files_of_one_shot_are_one_hit(self):
        assert folded("/p/IMG_1.MOV|3", "/p/IMG_1.DNG", "/p/IMG_1.HEIC") == [
            ["/p/IMG_1.HEIC", "/p/IMG_1.MOV|3", "/p/IMG_1.DNG"]
        ]

    @pytest.mark.parametrize(
        "names",
        [
            ("/p/a.jpg", "/p/a.png"),  # neither is a RAW file
            ("/p/a.jpg", "/p/a.heic"),
            ("/p/a.jpg", "/q/a.cr2"),  # another folder
            ("/p/a.jpg", "/p/b.cr2"),
            ("/p/a.tif", "/p/a.cr2"),  # an edit, which a camera does not write
            ("/p/film.jpg", "/p/film.mov|4", "/p/film.mov|90"),  # a film and its poster
            ("/p/film.mov|2", "/p/film.mov|4"),
            ("/p/a.jpg", "/p/a.mkv|2"),
        ],
    )
    def test_others_are_hits_of_their_own(self, names):
        assert folded(*names) == [[name] for name in names]

    def test_a_second_photo_of_that_name_stands_for_itself(self):
        assert folded("/p/a.jpg", "/p/a.cr2", "/p/a.heic") == [
            ["/p/a.jpg", "/p/a.cr2"],
            ["/p/a.heic"],
        ]

    def test_members_of_an_archive_are_pairs_too(self):
        hits = [Hit("0", 1.0, "/a.tar", "x/1.cr3"), Hit("1", 0.9, "/a.tar", "x/1.jpg"),
                Hit("2", 0.8, "/b.tar", "x/1.jpg")]  # fmt: skip
        groups = fold_hits(hits, num_groups=5)
        assert [[hit.id for hit in group] for group in groups] == [["1", "0"], ["2"]]

    def test_the_number_of_hits_is_one_of_shots(self):
        names = ["/p/1.jpg", "/p/1.cr2", "/p/2.jpg", "/p/2.cr2", "/p/3.jpg"]
        assert folded(*names, num_groups=2) == [names[:2], names[2:4]]


def make_index(folder: Path, rows: list[Row], vectors: Embeddings) -> Index:
    index = Index.create(folder / "t.lance", ModelIdentity("m", "f", "standard", E))
    index.append(rows, vectors)
    return index


def towards(*cosines: float) -> Embeddings:
    """Vectors of these cosines with the first axis, each in a plane of its own."""
    vectors = np.zeros((len(cosines), E), np.float32)
    vectors[:, 0] = cosines
    for number, cosine in enumerate(cosines):
        vectors[number, 1 + number % (E - 1)] = np.sqrt(1 - cosine**2)
    return vectors


QUERY = Query((), np.eye(E, dtype=np.float32)[0])


def names_of(index: Index, options: SearchOptions) -> list[list[str]]:
    (found,) = search_index(index, [QUERY], options)
    return [[Path(hit.uri).name for hit in (one.hit, *one.also)] for one in found]


def test_pairs_are_folded_unless_switched_off(tmp_path):
    rows = [Row(f"/p/{name}") for name in ("1.cr2", "1.jpg", "2.nef", "2.jpg", "3.jpg")]
    index = make_index(tmp_path, rows, towards(0.9, 0.8, 0.7, 0.6, 0.5))
    assert names_of(index, SearchOptions(k=2)) == [["1.jpg", "1.cr2"], ["2.jpg", "2.nef"]]
    assert names_of(index, SearchOptions(k=2, offset=2)) == [["3.jpg"]]
    assert names_of(index, SearchOptions(k=2, pairs=False)) == [["1.cr2"], ["1.jpg"]]


def test_a_photo_that_is_left_out_takes_its_raw_file_with_it(tmp_path):
    rows = [Row(f"/p/{name}") for name in ("1.cr2", "1.jpg", "2.nef")]
    index = make_index(tmp_path, rows, towards(1.0, 0.99, 0.5))
    query = Query((), QUERY.vector, frozenset([rows[1].id]))
    for pairs, expected in ((True, ["2.nef"]), (False, ["1.cr2", "2.nef"])):
        (found,) = search_index(index, [query], SearchOptions(pairs=pairs), leave_out_own=True)
        assert [Path(one.uri).name for one in found] == expected


class TestBursts:
    @pytest.fixture
    def index(self, tmp_path):
        """Five photos 1.5 s apart of one camera, the third unlike them, then other ones."""
        names = ["1", "2", "3", "4", "5", "other-camera", "later", "undated"]
        times = [1.5 * n for n in range(5)] + [0, 60, None]
        alike = towards(0.98, 0.975, 0.2, 0.97, 0.965, 0.96, 0.955, 0.95)
        rows = []
        for name, seconds in zip(names, times, strict=True):
            metadata: dict[str, MetadataValue] = {
                "camera": "B" if name.startswith("other") else "A"
            }
            if seconds is not None:
                metadata["taken_at"] = NOON + datetime.timedelta(seconds=seconds)
            rows.append(Row(f"/p/{name}.jpg", metadata=metadata))
        return make_index(tmp_path, rows, alike)

    def test_photos_within_seconds_that_look_alike_are_one_hit(self, index):
        assert names_of(index, SearchOptions(bursts=2.0)) == [
            ["1.jpg", "2.jpg", "4.jpg", "5.jpg"],
            ["other-camera.jpg"],
            ["later.jpg"],
            ["undated.jpg"],
            ["3.jpg"],
        ]

    def test_a_longer_gap_ends_a_burst(self, index):
        assert len(names_of(index, SearchOptions(bursts=1.0))) == 8
        assert names_of(index, SearchOptions(bursts=60.0))[0][-1] == "later.jpg"

    def test_nothing_is_folded_unasked(self, index):
        assert len(names_of(index, SearchOptions())) == 8

    def test_near_duplicates_are_folded_with_them(self, index):
        found = names_of(index, SearchOptions(bursts=2.0, unique=0.9))
        assert len(found) == 2
        assert found[1] == ["3.jpg"]

    def test_an_index_without_dates_says_how_to_get_them(self, tmp_path):
        index = make_index(tmp_path, [Row("/p/1.jpg")], towards(0.9))
        with pytest.raises(QueryError, match="--refresh-metadata"):
            names_of(index, SearchOptions(bursts=2.0))
