"""Labels say what a cosine is worth in one index, by what others reach there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_models import open_tiny

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexMismatchError, QueryError
from perception_encoder.index import Index, Row
from perception_encoder.search import Query, SearchOptions
from perception_encoder.search import null_distribution as background
from perception_encoder.search.calibration import (
    Calibration,
    Cutoffs,
    calibrate,
    can_be_calibrated,
    read_calibration,
    update_calibration,
)
from perception_encoder.search.grammar import QueryTerm
from perception_encoder.search.null_distribution import (
    NUM_QUERIES,
    NullDistribution,
    load_null_distribution,
)
from perception_encoder.search.ranking import search_index
from perception_encoder.types import Embeddings, ModelIdentity

E = 32


def unit(vectors: NDArray[np.floating]) -> Embeddings:
    rows: Embeddings = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype("f4")
    return rows


def made(seed: int, count: int, embed_dim: int = E) -> Embeddings:
    return unit(np.random.default_rng(seed).normal(size=(count, embed_dim)))


def make_index(folder: Path, vectors: Embeddings, identity: ModelIdentity | None = None) -> Index:
    identity = identity or ModelIdentity("m", "f", "standard", vectors.shape[1])
    index = Index.create(folder / "t.lance", identity)
    index.add([Row(f"/p/{n:05}.png") for n in range(len(vectors))], vectors)
    return index


def words(vector: Embeddings) -> Query:
    return Query((QueryTerm(1, "text", "words"),), vector)


def image(vector: Embeddings, *more: QueryTerm) -> Query:
    return Query((QueryTerm(1, "image", "p.png"), *more), vector)


def calibrated(index: Index, seed: int = 99) -> Calibration:
    return Calibration(
        NullDistribution.of(index, made(seed, NUM_QUERIES, index.identity.embed_dim))
    )


@pytest.mark.parametrize("num_rows", [60, 700])
def test_words_that_fit_nothing_are_rarely_strong_and_words_that_fit_always(
    tmp_path: Path, num_rows: int
) -> None:
    stored = made(0, num_rows)
    index = make_index(tmp_path, stored)
    calibration = calibrated(index)
    unrelated = [words(vector) for vector in made(1, 400)]
    fitting = [words(vector) for vector in unit(stored[:40] + 0.6 * made(2, 40))]
    labels = [
        found[0].label
        for found in search_index(index, unrelated, SearchOptions(k=1), calibration=calibration)
    ]
    assert 0.01 < labels.count("strong") / 400 < 0.11  # promised: 0.05
    assert 0.4 < labels.count("none") / 400 < 0.6  # promised: 0.5
    for found in search_index(index, fitting, SearchOptions(k=1), calibration=calibration):
        assert found[0].label == "strong"


def test_the_bar_rises_with_the_size_of_the_index(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    small = calibrated(make_index(tmp_path / "small", made(0, 50)))
    large = calibrated(make_index(tmp_path, made(0, 5000)))
    query = words(made(5, 1)[0])
    assert large.cutoffs(query).strong > small.cutoffs(query).strong + 0.05
    assert large.cutoffs(query).weak > small.cutoffs(query).weak + 0.05


def test_an_index_in_which_everything_fits_is_strong_throughout(tmp_path: Path) -> None:
    """Nothing but cats: the scores of "cat" do not stand out from each other, yet all fit."""
    cat = made(3, 1)[0]
    index = make_index(tmp_path, unit(cat + 0.15 * made(4, 100)))
    calibration = calibrated(index)
    (found,) = search_index(index, [words(cat)], SearchOptions(k=100), calibration=calibration)
    assert {one.label for one in found} == {"strong"}


def motifs(count: int, each: int, noise: float) -> Embeddings:
    centers = made(10, count)
    return unit(np.repeat(centers, each, axis=0) + noise * made(11, count * each))


def test_an_image_unlike_all_others_is_told_from_one_of_their_kind(tmp_path: Path) -> None:
    stored = motifs(40, 8, 0.6)
    index = make_index(tmp_path, stored)
    calibration = calibrated(index)
    kin = [image(vector) for vector in unit(made(10, 40) + 0.6 * made(12, 40))]
    strange = [image(vector) for vector in made(13, 100)]
    options = SearchOptions(k=1)
    of_kin = [f[0].label for f in search_index(index, kin, options, calibration=calibration)]
    of_strange = [
        f[0].label for f in search_index(index, strange, options, calibration=calibration)
    ]
    assert of_kin.count("none") <= 4
    assert of_kin.count("strong") >= 12
    assert of_strange.count("none") >= 90


def test_copies_in_the_index_do_not_raise_the_bar(tmp_path: Path) -> None:
    stored = motifs(30, 5, 0.6)
    (tmp_path / "twice").mkdir()
    once = calibrated(make_index(tmp_path, stored)).cutoffs(image(stored[0]))
    twice = calibrated(make_index(tmp_path / "twice", np.concatenate([stored, stored])))
    assert twice.cutoffs(image(stored[0])).strong == pytest.approx(once.strong, abs=0.03)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, -1.0), (-1.0,)])
def test_a_sum_of_words_is_held_against_sums_of_words(
    tmp_path: Path, weights: tuple[float, ...]
) -> None:
    index = make_index(tmp_path, made(0, 300))
    calibration = calibrated(index)
    terms = tuple(QueryTerm(weight, "text", str(n)) for n, weight in enumerate(weights))
    parts = made(20, 300 * len(weights)).reshape(300, len(weights), E)
    sums = [Query(terms, vector) for vector in unit(np.tensordot(parts, weights, ((1,), (0,))))]
    found = search_index(index, sums, SearchOptions(k=1), calibration=calibration)
    labels = [one[0].label for one in found]
    assert 0.005 < labels.count("strong") / 300 < 0.13
    assert 0.35 < labels.count("none") / 300 < 0.65


def test_an_image_with_words_is_held_against_such_sums_and_not_against_images(
    tmp_path: Path,
) -> None:
    stored = motifs(40, 8, 0.4)
    index = make_index(tmp_path, stored)
    calibration = calibrated(index)
    word = QueryTerm(1, "text", "red")
    sums = [image(vector, word) for vector in unit(stored[::9] + made(30, len(stored))[::9])]
    alone = calibration.cutoffs(image(stored[0]))
    together = calibration.cutoffs(sums[0])
    assert together.strong < alone.strong - 0.1
    found = search_index(index, sums, SearchOptions(k=1), calibration=calibration)
    assert [one[0].label for one in found].count("none") <= len(sums) // 5


def test_a_label_can_be_the_threshold(tmp_path: Path) -> None:
    stored = made(0, 200)
    index = make_index(tmp_path, stored)
    calibration = calibrated(index)
    queries = [words(stored[3]), words(made(77, 1)[0]), words(stored[5])]
    strong = search_index(
        index, queries, SearchOptions(threshold="strong"), calibration=calibration
    )
    weak = search_index(
        index, queries, SearchOptions(threshold="weak", k=99), calibration=calibration
    )
    everything = search_index(index, queries, SearchOptions(k=200), calibration=calibration)
    for number in range(3):
        assert strong[number] == [f for f in everything[number] if f.label == "strong"][:10]
        assert weak[number] == [f for f in everything[number] if f.label != "none"][:99]
    unique = SearchOptions(threshold="strong", unique=0.9)
    assert len(search_index(index, queries, unique, calibration=calibration)[0]) == len(strong[0])
    with pytest.raises(QueryError, match="no labels"):
        search_index(index, queries, SearchOptions(threshold="strong"))


def test_labels_fall_with_the_score() -> None:
    cutoffs = Cutoffs(strong=0.3, weak=0.2)
    scores = [0.31, 0.3, 0.29, 0.2, 0.19, -1]
    labels = ["strong", "strong", "weak", "weak", "none", "none"]
    assert [cutoffs.label(score) for score in scores] == labels


class Opener:
    """Opens the tiny model and counts how often."""

    def __init__(self) -> None:
        self.model = open_tiny()
        self.num_opened = 0

    def __call__(self) -> EmbeddingModel:
        self.num_opened += 1
        return self.model


@pytest.fixture
def opener() -> Opener:
    return Opener()


def tiny_index(folder: Path, opener: Opener, count: int = 60) -> Index:
    identity = opener.model.identity
    return make_index(folder, made(0, count, identity.embed_dim), identity)


def test_prompts_are_embedded_once_for_an_index(tmp_path: Path, opener: Opener) -> None:
    index = tiny_index(tmp_path, opener)
    one = made(1, 1, index.identity.embed_dim)[0]
    assert read_calibration(index, [image(one)]) is None
    first = calibrate(index, opener, [image(one)])
    assert opener.num_opened == 0  # images need no prompts
    kept = read_calibration(Index.open(index.path), [image(one)])
    assert kept is not None
    assert kept.cutoffs(image(one)) == first.cutoffs(image(one))
    assert read_calibration(index, [words(one)]) is None
    calibrate(index, opener, [words(one)])
    assert opener.num_opened == 1
    assert read_calibration(index, [words(one), image(one)]) is not None
    index.add([Row(f"/more/{n}") for n in range(7)], made(2, 7, index.identity.embed_dim))
    assert read_calibration(index, [words(one)]) is None  # too much has changed
    calibrate(index, opener)
    assert opener.num_opened == 1
    assert read_calibration(index, [words(one)]) is not None


def test_a_few_more_rows_do_not_outdate_it(tmp_path: Path, opener: Opener) -> None:
    index = tiny_index(tmp_path, opener)
    calibrate(index, opener)
    index.add([Row("/one/more")], made(2, 1, index.identity.embed_dim))
    assert read_calibration(index, [words(made(1, 1)[0])]) is not None


def test_a_run_calibrates_where_it_changed_much(tmp_path: Path, opener: Opener) -> None:
    index = tiny_index(tmp_path, opener)
    embed_dim = index.identity.embed_dim
    query = words(made(1, 1, embed_dim)[0])
    update_calibration(index, opener.model, num_changed=60)
    first = read_calibration(index, [query])
    assert first is not None
    index.add([Row(f"/p/{n:05}.png") for n in range(60)], made(9, 60, embed_dim))
    update_calibration(index, opener.model, num_changed=3)
    same = read_calibration(index, [query])
    assert same is not None
    assert same.cutoffs(query) == first.cutoffs(query)
    update_calibration(index, opener.model, num_changed=60)  # all replaced, none more or less
    another = read_calibration(index, [query])
    assert another is not None
    assert another.cutoffs(query) != first.cutoffs(query)


def test_a_damaged_or_foreign_file_is_as_good_as_none(tmp_path: Path, opener: Opener) -> None:
    index = tiny_index(tmp_path, opener)
    calibrate(index, opener)
    (path,) = (tmp_path / "t.lance" / "_pe").glob("background*")
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[:-40], whole[:300] + b"\0" * 99 + whole[399:]):
        path.write_bytes(damaged)
        assert load_null_distribution(index) is None
    path.write_bytes(whole)
    assert load_null_distribution(index) is not None
    other = tmp_path / "other"
    other.mkdir()
    stranger = make_index(other, made(0, 60), ModelIdentity("m", "f", "standard", E))
    (other / "t.lance" / "_pe").mkdir(exist_ok=True)
    (other / "t.lance" / "_pe" / path.name).write_bytes(whole)
    assert load_null_distribution(stranger) is None


def test_an_index_that_cannot_be_written_beside_is_calibrated_all_the_same(
    tmp_path: Path, opener: Opener
) -> None:
    index = tiny_index(tmp_path, opener)
    shutil.rmtree(tmp_path / "t.lance" / "_pe")  # it holds the journal
    (tmp_path / "t.lance" / "_pe").write_bytes(b"in the way")
    calibration = calibrate(index, opener)
    assert calibration.cutoffs(words(made(1, 1)[0])).strong > 0
    assert load_null_distribution(index) is None


def test_another_model_is_refused(tmp_path: Path, opener: Opener) -> None:
    index = make_index(tmp_path, made(0, 60))
    with pytest.raises(IndexMismatchError):
        calibrate(index, opener)


@pytest.mark.parametrize("count", [0, 1, 19])
def test_small_indexes_have_no_labels(tmp_path: Path, opener: Opener, count: int) -> None:
    index = tiny_index(tmp_path, opener, count)
    assert not can_be_calibrated(index)
    update_calibration(index, opener.model, num_changed=count)
    assert load_null_distribution(index) is None
    calibrate(index, opener)  # and yet nothing breaks


def test_prompts_are_as_many_as_promised_and_differ() -> None:
    prompts = background.read_prompts()
    assert len(prompts) == len(set(prompts)) == NUM_QUERIES
    assert all(prompt == prompt.strip() != "" for prompt in prompts)
