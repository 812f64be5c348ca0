import dataclasses
import logging
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_models import (
    CORE,
    FP32_ON_CPU,
    WITHOUT_TEXT,
    CountingBackend,
    as_bgr,
    drawing,
    open_tiny,
    save_drawings,
)

from perception_encoder.backends import ComputeOptions, open_random_backend
from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.errors import CacheError, ImageTooLargeError, PerceptionEncoderError
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.preprocess.vocabulary import build
from perception_encoder.registry import ImageConfig

SIDE = CORE.vision.image_size


def counting(options: ComputeOptions = FP32_ON_CPU, config=CORE) -> CountingBackend:
    return CountingBackend(open_random_backend(config, options))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "new folder" / "vectors.sqlite"


@pytest.fixture
def files(tmp_path):
    return save_drawings(tmp_path, 5, suffix=".jpg")


# -- what is reused -------------------------------------------------------------------------------


def test_nothing_is_computed_twice_and_the_vectors_are_the_same(cache, files):
    texts = ["cat", "a dog"]
    with open_tiny() as plain:
        expected = plain.embed_images(files), plain.embed_text(texts)
    for num_computed in (len(files), 0):
        backend = counting()
        with open_tiny(backend=backend, cache=cache) as model:
            assert np.array_equal(model.embed_images(files), expected[0])
            assert np.array_equal(model.embed_text(texts), expected[1])
        assert backend.num_images == num_computed
    assert backend.num_texts == 0


def test_copies_renamed_files_and_their_bytes_are_known(cache, files, tmp_path):
    backend = counting()
    model = open_tiny(backend=backend, cache=cache)
    vectors = model.embed_images(files)
    copy = shutil.copy(files[3], tmp_path / "a copy.jpeg")
    renamed = files[1].rename(tmp_path / "renamed.jpg")
    again = model.embed_images([copy, str(renamed), files[0].read_bytes()])
    assert backend.num_images == len(files)
    assert np.array_equal(again, vectors[[3, 1, 0]])


def test_a_changed_file_is_computed_anew(cache, files):
    backend = counting()
    model = open_tiny(backend=backend, cache=cache)
    before = model.embed_images(files)
    drawing(77).save(files[2])
    after = model.embed_images(files)
    assert backend.num_images == len(files) + 1
    assert (before != after).any(axis=1).tolist() == [False, False, True, False, False]


def test_what_is_known_is_not_even_decoded(cache, files):
    with open_tiny(cache=cache) as model:
        expected = model.embed_images(files)
    decodes_nothing = ImageProcessor(CORE.image, SIDE, max_pixels=1)
    with open_tiny(cache=cache, processor=decodes_nothing) as model:
        assert np.array_equal(model.embed_images(files), expected)
        with pytest.raises(ImageTooLargeError):
            model.embed_image(drawing(99))


def test_arrays_and_pil_images_are_known_by_their_pixels(cache):
    backend = counting()
    model = open_tiny(backend=backend, cache=cache)
    image = drawing(1)
    array = as_bgr(image)
    first = model.embed_image(array)
    assert np.array_equal(model.embed_images([image, array.copy()]), np.repeat(first, 2, axis=0))
    assert backend.num_images == 1
    array[:10] = 255
    assert not np.array_equal(model.embed_image(array), first)
    assert not np.array_equal(model.embed_image(np.array(image)), first)  # other colors
    assert backend.num_images == 3


def test_known_and_new_ones_come_back_in_order(cache, files):
    texts = ["cat", "a dog and a cat", "dog", "", "a"]
    with open_tiny() as plain:
        expected = plain.embed_images(files), plain.embed_text(texts)
    backend = counting()
    model = open_tiny(backend=backend, cache=cache)
    model.embed_images(files[1:4:2])
    model.embed_text(texts[1::3])
    assert np.allclose(model.embed_images(files, batch_size=2), expected[0], atol=2e-5)
    assert np.allclose(model.embed_text(texts, batch_size=2), expected[1], atol=2e-5)
    assert (backend.num_images, backend.num_texts) == (5, 5)


def test_raw_vectors_are_kept_so_every_option_is_served(cache, files):
    with open_tiny() as plain:
        raw = plain.embed_images(files, normalize=False)
        cut = plain.embed_images(files, truncate_dim=5)
    backend = counting()
    model = open_tiny(backend=backend, cache=cache)
    model.embed_images(files)
    assert np.array_equal(model.embed_images(files, normalize=False), raw)
    assert np.array_equal(model.embed_images(files, truncate_dim=5), cut)
    assert backend.num_images == len(files)


def test_a_bad_image_does_not_lose_the_work_before_it(cache, files, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(files[0].read_bytes()[:60])
    backend = counting()
    model = open_tiny(backend=backend, cache=cache)
    with pytest.raises(PerceptionEncoderError, match=r"broken\.jpg"):
        model.embed_images([*files, broken], batch_size=1)
    model.close()
    assert backend.num_images == len(files)
    backend = counting()
    with open_tiny(backend=backend, cache=cache) as model:
        assert model.embed_images(files).shape == (5, 24)
    assert backend.num_images == 0


# -- what is kept apart ---------------------------------------------------------------------------


def test_models_precisions_and_preprocessings_share_a_file_and_never_vectors(cache, tmp_path):
    drawing(1).convert("P").save(tmp_path / "palette.png")
    backends = [
        counting(),
        counting(ComputeOptions(device="cpu", precision="bf16")),
        counting(config=WITHOUT_TEXT),
        counting(),
    ]
    processors = [ImageProcessor(CORE.image, SIDE, preprocess="standard")] * 3
    processors.append(ImageProcessor(CORE.image, SIDE, preprocess="reference"))
    configs = [CORE, CORE, WITHOUT_TEXT, CORE]
    seen = []
    for config, backend, processor in zip(configs, backends, processors, strict=True):
        with open_tiny(config, backend=backend, processor=processor, cache=cache) as model:
            seen.append(model.embed_image(tmp_path / "palette.png"))
        assert backend.num_images == 1
    assert not np.array_equal(seen[0], seen[1])
    assert seen[2].shape == (1, 40)
    assert not np.array_equal(seen[0], seen[3])


def test_bytes_and_words_are_kept_apart(cache):
    keys = EmbeddingCache(cache, "a model")
    assert keys.key("file", b"cat") != keys.key("text", b"cat")
    assert keys.key("file", b"cat") != EmbeddingCache(cache, "another").key("file", b"cat")


# -- the file -------------------------------------------------------------------------------------


def test_many_vectors_come_back_by_their_keys_and_outlive_the_object(cache):
    vectors = np.random.default_rng(0).standard_normal((1203, 7)).astype(np.float32)
    first = EmbeddingCache(cache, "a model")
    keys = [first.key("text", b"%d" % number) for number in range(len(vectors))]
    first.put(keys[:1200], vectors[:1200])
    first.put(keys[1200:], vectors[1200:])
    first.put([], np.empty((0, 7), np.float32))
    first.close()
    found = EmbeddingCache(cache, "a model").get([*keys, keys[0], b"unknown"])
    assert set(found) == set(keys)
    assert all(np.array_equal(found[key], row) for key, row in zip(keys, vectors, strict=True))


def test_threads_share_one_model_with_a_cache(cache, files):
    with open_tiny() as plain:
        expected = plain.embed_images(files)
    model = open_tiny(cache=cache)
    with ThreadPoolExecutor(8) as pool:
        for vectors in pool.map(model.embed_images, [files] * 16):
            assert np.allclose(vectors, expected, atol=2e-5)


_WRITER = """
import sys
import numpy as np
from perception_encoder.embedder.cache import EmbeddingCache

path, writer = sys.argv[1:]
for number in range(20):
    cache = EmbeddingCache(path, "a model")
    keys = [cache.key("text", f"{writer} {number} {row}".encode()) for row in range(10)]
    cache.put(keys, np.full((10, 6), number, np.float32))
    assert len(cache.get(keys)) == 10
    cache.close()
"""


def test_processes_share_one_file(cache):
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(cache), str(writer)])
        for writer in range(3)
    ]
    assert [writer.wait(timeout=200) for writer in writers] == [0, 0, 0]
    both = EmbeddingCache(cache, "a model")
    keys = [
        both.key("text", f"{writer} {number} {row}".encode())
        for writer in range(3)
        for number in range(20)
        for row in range(10)
    ]
    assert len(both.get(keys)) == 600


def test_a_file_that_is_no_cache_is_refused_and_left_alone(tmp_path):
    photo = tmp_path / "photo.jpg"
    drawing(1, 300, 300).save(photo)
    before = photo.read_bytes()
    with pytest.raises(CacheError, match=r"photo\.jpg.*another path"):
        open_tiny(cache=photo)
    assert photo.read_bytes() == before
    with pytest.raises(CacheError, match="another path"):
        EmbeddingCache(tmp_path, "a model")
    with pytest.raises(CacheError, match=r"photo\.jpg"):
        EmbeddingCache(photo / "inside a file", "a model")


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE vectors (name TEXT)")
    database.close()
    cache = EmbeddingCache(path, "a model")
    key = cache.key("text", b"cat")
    with pytest.raises(CacheError, match=r"cannot read the cache.*other\.sqlite"):
        cache.get([key])
    with pytest.raises(CacheError, match=r"cannot write to the cache.*other\.sqlite"):
        cache.put([key], np.ones((1, 4), np.float32))
    cache.close()


def test_damage_inside_the_file_is_a_cache_error(cache):
    first = EmbeddingCache(cache, "a model")
    keys = [first.key("text", b"%d" % number) for number in range(500)]
    first.put(keys, np.ones((500, 64), np.float32))
    first.close()
    content = bytearray(cache.read_bytes())
    content[200:] = bytes(len(content) - 200)
    cache.write_bytes(content)
    with pytest.raises(CacheError, match=r"vectors\.sqlite"):
        EmbeddingCache(cache, "a model").get(keys)


def test_a_closed_cache_says_so(cache):
    closed = EmbeddingCache(cache, "a model")
    closed.close()
    with pytest.raises(CacheError, match="closed"):
        closed.get([b"key"])


# -- what would be silently wrong -----------------------------------------------------------------


def test_a_damaged_embedding_is_computed_anew(cache, files):
    with open_tiny(cache=cache) as model:
        expected = model.embed_images(files), model.embed_text(["cat", "dog"])
    with sqlite3.connect(cache) as database:
        for key, stored in database.execute("SELECT key, vector FROM vectors").fetchall():
            damaged = bytearray(stored)
            damaged[len(damaged) // 2] ^= 0x20
            database.execute("UPDATE vectors SET vector = ? WHERE key = ?", (damaged, key))
    database.close()
    for num_computed in (len(files), 0):
        backend = counting()
        with open_tiny(backend=backend, cache=cache) as model:
            assert np.array_equal(model.embed_images(files), expected[0])
            assert np.array_equal(model.embed_text(["cat", "dog"]), expected[1])
        assert backend.num_images == num_computed


def test_embeddings_of_earlier_versions_and_of_other_sizes_are_not_taken(cache):
    keys = EmbeddingCache(cache, "a model")
    key = keys.key("text", b"cat")
    for stored in (np.ones(7, "<f4").tobytes(), b"", b"abc"):
        with sqlite3.connect(cache) as database:
            database.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (key, stored))
        database.close()
        assert keys.get([key]) == {}


def test_another_configuration_of_the_same_weights_is_kept_apart(cache, files):
    squash, crop = CORE, dataclasses.replace(CORE, image=ImageConfig(resize="center_crop"))
    for config in (squash, crop):
        backend = counting()
        processor = ImageProcessor(config.image, SIDE)
        with open_tiny(config, backend=backend, processor=processor, cache=cache) as model:
            model.embed_images(files)
        assert backend.num_images == len(files)


def test_another_vocabulary_of_the_same_weights_is_kept_apart(cache):
    # The same words have other numbers.
    other = Tokenizer(build([("d", "o"), ("c", "a")]), CORE.text.context_length)
    with open_tiny(cache=cache) as model:
        first = model.embed_text("cat")
    backend = counting()
    with open_tiny(backend=backend, tokenizer=other, cache=cache) as model:
        assert not np.array_equal(model.embed_text("cat"), first)
    assert backend.num_texts == 1


def test_a_cache_that_cannot_be_written_any_more_loses_no_embedding(
    cache, files, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING)
    with open_tiny() as plain:
        expected = plain.embed_images(files)
    puts = []

    def fail(*_: object) -> None:
        puts.append(1)
        raise CacheError(f"cannot write to the cache {cache}: database or disk is full")

    monkeypatch.setattr(EmbeddingCache, "put", fail)
    with open_tiny(cache=cache) as model:
        assert np.allclose(model.embed_images(files, batch_size=1), expected, atol=2e-5)
    assert len(puts) == 1
    assert "disk is full; new embeddings are no longer cached" in caplog.text
