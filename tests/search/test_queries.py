"""Queries find their vectors in the index where they can, and in the model where they must."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from local_http import serve_files
from small_models import CORE, FP32_ON_CPU, CountingBackend, open_tiny, save_drawings

from perception_encoder.backends import open_random_backend
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import ImageError, IndexMismatchError, QueryError
from perception_encoder.index import Index, row_id
from perception_encoder.indexing import Run
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.search import Query, read_queries
from perception_encoder.search.grammar import QueryTerm, combine_vectors, parse_query
from perception_encoder.search.queries import read_query
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.types import Embeddings


class Shelf:
    """Images in a folder and in a tar, their index, and a model that counts its work."""

    def __init__(self, folder: Path) -> None:
        (folder / "in").mkdir()
        self.images = save_drawings(folder / "in", 4)
        self.tar = folder / "in.tar"
        with tarfile.open(self.tar, "w") as archive:
            for name, path in (("a/cat.png", self.images[0]), ("b/dog.png", self.images[1])):
                archive.add(path, name)
        self.backend = CountingBackend(open_random_backend(CORE, FP32_ON_CPU))
        self.model = open_tiny(backend=self.backend)
        self.index = Index.create(folder / "t.lance", self.model.identity)
        sources = open_sources([str(folder / "in"), str(self.tar)], SourceOptions())
        assert [o.status for o in Run(self.model, self.index, sources).outcomes()]
        self.index.refresh()
        self.backend.num_images = self.backend.num_texts = 0

    def stored(self, path: Path) -> Embeddings:
        return self.index.by_ids([row_id(str(path))])[row_id(str(path))][1]

    def read(self, *queries: str, stdin: bytes = b"") -> list[Query]:
        terms = [parse_query(query) for query in queries]
        return read_queries(
            self.index, terms, lambda: self.model, read_stdin=io.BytesIO(stdin).read
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def no_model() -> EmbeddingModel:
    raise AssertionError("the model was opened")


def test_indexed_images_are_not_embedded_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = shelf.images[2]
    monkeypatch.chdir(image.parent)
    for written in (str(image), image.name, f"@{image}", f"@{image.name}", "@drawing2.png",
                    f"@{row_id(str(image))}", f"@in/{image.name}"):  # fmt: skip
        (query,) = read_queries(shelf.index, [parse_query(written)], no_model)
        np.testing.assert_allclose(query.vector, shelf.stored(image), atol=1e-4)
        assert query.own == {row_id(str(image))}
        assert query.is_image


def test_an_image_in_an_archive_is_an_item_too(shelf: Shelf) -> None:
    (query,) = read_queries(shelf.index, [parse_query("@in.tar/b/dog.png")], no_model)
    assert query.own == {row_id(str(shelf.tar), "b/dog.png")}
    np.testing.assert_allclose(query.vector, shelf.stored(shelf.images[1]), atol=1e-3)
    assert callable(query.image)
    assert query.image() == shelf.images[1].read_bytes()


def test_a_changed_file_is_embedded_and_is_still_its_row(shelf: Shelf) -> None:
    image = shelf.images[0]
    image.write_bytes(shelf.images[3].read_bytes())
    (query,) = shelf.read(str(image))
    assert shelf.backend.num_images == 1
    np.testing.assert_allclose(query.vector, shelf.stored(shelf.images[3]), atol=2e-3)
    assert query.own == {row_id(str(image))}


def test_a_file_with_another_time_is_embedded(shelf: Shelf) -> None:
    os.utime(shelf.images[0], ns=(1, 1))
    shelf.read(str(shelf.images[0]))
    assert shelf.backend.num_images == 1


def test_several_queries_are_embedded_together_and_nothing_twice(shelf: Shelf) -> None:
    new = shelf.images[0].with_name("new.png")
    new.write_bytes(shelf.images[0].read_bytes())
    queries = shelf.read("cat", f"{new} + cat", "dog - cat", f"{new}", "@drawing1.png + dog")
    assert (shelf.backend.num_texts, shelf.backend.num_images) == (2, 1)
    model = open_tiny()
    cat, dog = model.embed_text(["cat", "dog"])
    difference = dog - cat
    np.testing.assert_allclose(queries[0].vector, cat, atol=1e-5)
    np.testing.assert_allclose(
        queries[2].vector, difference / np.linalg.norm(difference), atol=1e-5
    )
    np.testing.assert_allclose(queries[3].vector, model.embed_image(new)[0], atol=1e-5)
    assert [query.is_image for query in queries] == [False, True, False, True, True]
    assert [query.text for query in queries] == ["cat", "+ cat", "dog - cat", "", "+ dog"]


def test_the_image_on_stdin_is_read_once(shelf: Shelf) -> None:
    data = shelf.images[1].read_bytes()
    (query,) = shelf.read("-", stdin=data)
    np.testing.assert_allclose(query.vector, shelf.stored(shelf.images[1]), atol=2e-3)
    assert callable(query.image)
    assert query.image() == data
    assert query.own == set()


def test_what_is_no_image_on_stdin_is_told(shelf: Shelf) -> None:
    with pytest.raises(ImageError, match="standard input"):
        shelf.read("-", stdin=b"no image")
    with pytest.raises(ValueError, match="standard input"):
        read_queries(shelf.index, [parse_query("-")], no_model)


@pytest.fixture
def address(shelf: Shelf) -> Iterator[str]:
    with serve_files(shelf.images[0].parent) as url:
        yield url


def test_a_web_address_is_fetched(shelf: Shelf, address: str) -> None:
    (query,) = shelf.read(f"{address}/drawing3.png")
    np.testing.assert_allclose(query.vector, shelf.stored(shelf.images[3]), atol=2e-3)
    assert callable(query.image)
    assert query.image() == shelf.images[3].read_bytes()
    with pytest.raises(ImageError, match=r"none\.png"):
        shelf.read(f"{address}/none.png")


def test_a_model_of_other_weights_is_refused(shelf: Shelf) -> None:
    reference = ImageProcessor(CORE.image, 32, preprocess="reference")
    with pytest.raises(IndexMismatchError, match="reference"):
        read_queries(shelf.index, [parse_query("cat")], lambda: open_tiny(processor=reference))


def test_terms_that_cancel_out_and_items_that_are_not_there_are_refused(shelf: Shelf) -> None:
    with pytest.raises(QueryError, match="cancel"):
        shelf.read("@drawing1.png - @drawing1.png")
    with pytest.raises(QueryError, match=r"no item whose name ends in 'drawing9\.png'"):
        shelf.read("@drawing9.png")


def test_no_queries_are_no_work(shelf: Shelf) -> None:
    assert read_queries(shelf.index, [], no_model) == []


def test_weights_are_shown_with_their_words() -> None:
    terms = (QueryTerm(2, "text", "dog"), QueryTerm(1, "item", "x"), QueryTerm(-0.5, "text", "cat"))
    assert Query(terms, np.ones(1, np.float32)).text == "2:dog - 0.5:cat"


@pytest.mark.parametrize("form", ["{path}{box}", "@{name}{box}", "@{path}{box}"])
def test_a_part_of_an_image_is_embedded_and_leaves_the_image_out(shelf: Shelf, form: str) -> None:
    path = shelf.images[2]
    (query,) = shelf.read(form.format(path=path, name=path.name, box="#xywh=5,0,20,15"))
    expected = shelf.model.embed_image(path, crop=(5, 0, 20, 15))[0]
    np.testing.assert_allclose(query.vector, expected, atol=1e-5)
    assert query.own == {row_id(str(path))}
    assert float(query.vector @ shelf.stored(path)) < 0.999


def test_several_parts_of_one_image_are_a_sum(shelf: Shelf) -> None:
    path = shelf.images[1]
    parts = ("0,0,20,15", "percent:50,50,50,50")
    (query,) = shelf.read(" + ".join(f"{path}#xywh={part}" for part in parts))
    vectors = np.concatenate([shelf.model.embed_image(path, crop=part) for part in parts])
    np.testing.assert_allclose(query.vector, combine_vectors(vectors, [1, 1]), atol=1e-5)


def test_crop_is_for_one_image(shelf: Shelf) -> None:
    path = shelf.images[0]
    expected = shelf.model.embed_image(path, crop="0,0,9,9")[0]
    for image in (str(path), path, f"@{path.name}", path.read_bytes()):
        query = read_query(shelf.index, image, lambda: shelf.model, crop=(0, 0, 9, 9))
        np.testing.assert_allclose(query.vector, expected, atol=1e-5)
    for other in ("a dog", f"{path} + a dog", [(1.0, "a dog")], shelf.stored(path)):
        with pytest.raises(QueryError, match="crop= is for a query that is one image"):
            read_query(shelf.index, other, lambda: shelf.model, crop=(0, 0, 9, 9))


def test_an_item_whose_name_looks_like_a_part_wins(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = save_drawings(folder, 1)[0].rename(folder / "a.png#xywh=0,0,9,9.png")
    model = open_tiny()
    index = Index.create(tmp_path / "t.lance", model.identity)
    sources = open_sources([str(folder)], SourceOptions())
    assert [o.status for o in Run(model, index, sources).outcomes()] == ["embedded"]
    (query,) = read_queries(index, [parse_query("@a.png#xywh=0,0,9,9.png")], no_model)
    assert query.own == {row_id(str(path))}


def test_errors_of_parts_say_what_to_do(shelf: Shelf) -> None:
    with pytest.raises(QueryError, match="is not a box; write x,y,width,height"):
        shelf.read("@drawing2.png#xywh=1,2")
    with pytest.raises(ImageError, match=r"drawing2\.png.*outside the image of 44 × 47 pixels"):
        shelf.read(f"{shelf.images[2]}#xywh=400,0,5,5")
