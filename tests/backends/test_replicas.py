"""One model on several devices, here two backends on one CPU."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from backends.backend_inputs import pixels, token_rows
from small_models import CORE, FP32_ON_CPU, CountingBackend

from perception_encoder.backends import ComputeOptions, open_random_backend
from perception_encoder.backends.select import Replicas
from perception_encoder.errors import BackendUnavailableError


class Meeting(CountingBackend):
    """Computes once every other one computes too; alone it gives up."""

    def __init__(self, barrier):
        super().__init__(open_random_backend(CORE, FP32_ON_CPU))
        self.barrier = barrier
        self.is_closed = False

    def encode_image(self, pixels):
        self.barrier.wait(timeout=100)
        return super().encode_image(pixels)

    def close(self):
        self.is_closed = True


@pytest.mark.parametrize("count", [2, 3])
def test_calls_at_once_go_to_different_devices(count):
    barrier = threading.Barrier(count)
    backends = [Meeting(barrier) for _ in range(count)]
    replicas = Replicas(backends)
    assert replicas.concurrency == count
    batches = [pixels(CORE, 2, seed) for seed in range(2 * count)]
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(replicas.encode_image, batches))
    assert [backend.num_images for backend in backends] == [4] * count
    alone = open_random_backend(CORE, FP32_ON_CPU)
    for vectors, batch in zip(found, batches, strict=True):
        assert np.array_equal(vectors, alone.encode_image(batch))


def test_they_answer_as_one_of_them_does():
    alone = open_random_backend(CORE, FP32_ON_CPU)
    replicas = Replicas.open(["cpu", "cpu"], lambda _: open_random_backend(CORE, FP32_ON_CPU))
    assert np.array_equal(replicas.encode_text(token_rows(3)), alone.encode_text(token_rows(3)))
    images = pixels(CORE, 2)
    assert np.array_equal(replicas.features(images, layer=0), alone.features(images, layer=0))
    assert (replicas.name, replicas.precision) == (alone.name, alone.precision)
    assert (replicas.fingerprint, replicas.logit_scale) == (alone.fingerprint, alone.logit_scale)
    assert replicas.device == "cpu,cpu"
    replicas.close()
    with pytest.raises(BackendUnavailableError, match="closed"):
        replicas.encode_image(images)


def test_a_call_that_fails_frees_its_device():
    replicas = Replicas.open(["cpu", "cpu"], lambda _: open_random_backend(CORE, FP32_ON_CPU))
    for _ in range(3):
        with pytest.raises(ValueError, match="layer"):
            replicas.features(pixels(CORE, 1), layer=99)
    assert np.isfinite(replicas.encode_image(pixels(CORE, 1))).all()


def test_where_one_does_not_open_none_stays_open():
    opened = [Meeting(threading.Barrier(1))]

    def open_one(device):
        if device == "cpu":
            return opened[0]
        return open_random_backend(CORE, ComputeOptions(device=device, backend="torch"))

    with pytest.raises(BackendUnavailableError, match="cuda:99"):
        Replicas.open(["cpu", "cuda:99"], open_one)
    assert opened[0].is_closed


def test_devices_that_compute_differently_are_refused():
    def open_one(precision):
        return open_random_backend(CORE, ComputeOptions(device="cpu", precision=precision))

    with pytest.raises(BackendUnavailableError, match=r"cpu: fp32, cpu: bf16.*precision="):
        Replicas.open(["fp32", "bf16"], open_one)


@pytest.mark.parametrize("devices", ["cuda:97,98", "cuda:97, 98"])
def test_a_list_of_devices_is_opened_one_by_one(devices):
    with pytest.raises(BackendUnavailableError, match="'cuda:97' is not available"):
        open_random_backend(CORE, ComputeOptions(device=devices, backend="torch"))
