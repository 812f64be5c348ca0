"""Prefetching, batches and order, and never further ahead than stated."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from small_models import CORE, FP32_ON_CPU, TOKENIZER, open_tiny

from perception_encoder.backends import open_random_backend
from perception_encoder.backends.select import Replicas
from perception_encoder.embedder.pipeline import embed_in_batches, map_ahead


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_results_come_in_order_even_if_later_calls_end_first(num_threads, count):
    ended = [threading.Event() for _ in range(count)]

    def call(number):
        if num_threads > 1 and number % 2 == 0 and number + 1 < count:
            assert ended[number + 1].wait(100)  # the next call ends before this one
        ended[number].set()
        return number**2

    expected = [(number, number**2) for number in range(count)]
    assert list(map_ahead(call, range(count), num_threads)) == expected


@pytest.mark.parametrize("num_threads", [1, 3])
def test_no_more_calls_run_than_there_are_threads(num_threads):
    lock, running, most = threading.Lock(), 0, 0
    taken = []

    def call(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1
        return number

    inputs = iter(lambda: taken.append(0) or len(taken), 31)
    for _, result in map_ahead(call, inputs, num_threads):
        assert len(taken) <= result + num_threads
    assert most == num_threads


@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_first_failure_ends_the_iteration(num_threads):
    def call(number):
        if number == 4:
            raise ValueError("the fifth")
        return number

    found = []
    with pytest.raises(ValueError, match="the fifth"):
        found.extend(result for _, result in map_ahead(call, range(100), num_threads))
    assert found == [] or found == [0, 1, 2, 3]


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(("count", "batch_size"), [(0, 4), (1, 4), (8, 4), (10, 4), (3, 1)])
def test_every_input_is_in_one_batch_in_its_place(count, batch_size, concurrency):
    numbers = range(count)
    with ThreadPoolExecutor(3) as pool:
        batches = embed_in_batches(
            numbers,
            lambda number: pool.submit(str, number),
            tuple,
            batch_size=batch_size,
            concurrency=concurrency,
        )
        expected = [
            tuple(map(str, numbers[start : start + batch_size]))
            for start in range(0, count, batch_size)
        ]
        assert list(batches) == expected


def test_inputs_are_taken_no_more_than_two_batches_ahead():
    taken = []

    def inputs():
        for number in range(1000):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(1) as pool:
        batches = embed_in_batches(
            inputs(), lambda number: pool.submit(abs, number), list, batch_size=5, concurrency=1
        )
        with closing(batches):
            for last in (4, 9, 14):
                assert next(batches)[-1] == last
                assert len(taken) <= last + 1 + 2 * 5


def test_a_failure_to_prepare_ends_the_iteration_after_the_batches_before_it():
    done = []
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        done.extend(
            embed_in_batches(
                [1, 2, 3, 4, 0, 5],
                lambda number: pool.submit(lambda: 12 // number),
                list,
                batch_size=2,
                concurrency=1,
            )
        )
    assert done == [[12, 6], [4, 3]]


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(embed_in_batches([], abs, list, batch_size=0, concurrency=1))


@pytest.mark.parametrize("count", [1, 23])
def test_a_model_on_two_devices_gives_every_row_its_own_vector(count):
    replicas = Replicas.open(["cpu", "cpu"], lambda _: open_random_backend(CORE, FP32_ON_CPU))
    images = np.random.default_rng(0).integers(0, 256, (count, 40, 32, 3), np.uint8)
    texts = ["cat" * (1 + number % 3) for number in range(count)]
    with open_tiny(backend=replicas, tokenizer=TOKENIZER) as two, open_tiny() as one:
        assert np.array_equal(
            two.embed_images(images, batch_size=2), one.embed_images(images, batch_size=2)
        )
        assert np.array_equal(
            two.embed_text(texts, batch_size=3), one.embed_text(texts, batch_size=3)
        )
        assert np.array_equal(
            two.features(images, batch_size=2), one.features(images, batch_size=2)
        )
