"""Several calls at once, in order and no further ahead than the backend takes."""

import threading

import numpy as np
import pytest
from small_models import CORE, FP32_ON_CPU, TOKENIZER, open_tiny

from perception_encoder.backends import open_random_backend
from perception_encoder.backends.select import Replicas
from perception_encoder.embedder.feeds import overlapped


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_results_come_in_order_whatever_ends_first(at_once, count):
    is_done = [threading.Event() for _ in range(count)]

    def call(number):
        if at_once > 1 and number % 2 == 0 and number + 1 < count:
            assert is_done[number + 1].wait(20)
        is_done[number].set()
        return number**2

    assert list(overlapped(call, range(count), at_once)) == [(n, n**2) for n in range(count)]


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_run_than_were_asked_for(at_once):
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

    for _, result in overlapped(call, iter(lambda: taken.append(0) or len(taken), 31), at_once):
        assert len(taken) <= result + at_once
    assert most == at_once


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_first_failure_ends_it(at_once):
    def call(number):
        if number == 4:
            raise ValueError("the fifth")
        return number

    found = []
    with pytest.raises(ValueError, match="the fifth"):
        found.extend(result for _, result in overlapped(call, range(100), at_once))
    assert found == [] or found == [0, 1, 2, 3]


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
