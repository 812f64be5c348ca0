"""The measured ceiling, on small matrices."""

import pytest

from perception_encoder.backends.torch_devices import matrix_rate, peak_device_bytes
from perception_encoder.errors import BackendUnavailableError


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_rate_is_operations_a_second(precision) -> None:
    rate = matrix_rate(precision, device="cpu", rounds=3, size=256)
    assert rate is not None
    assert 1e7 < rate < 1e15


def test_a_device_that_is_not_here_is_said_so() -> None:
    with pytest.raises(BackendUnavailableError, match="cuda:99"):
        matrix_rate("fp32", device="cuda:99")


def test_the_memory_of_the_cpu_is_no_device_s() -> None:
    assert peak_device_bytes("cpu") is None
