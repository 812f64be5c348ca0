"""torch's switch for cuDNN's attention, which is there without a GPU too."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from perception_encoder.backends.torch_devices import disable_cudnn_attention


@pytest.fixture(params=[True, False], ids=["on before", "off before"])
def before(request):
    kept = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(request.param)
    yield request.param
    torch.backends.cuda.enable_cudnn_sdp(kept)


def test_it_is_off_until_the_last_call_ends_and_then_as_it_was(before):
    all_run, first_ended = threading.Barrier(3), threading.Event()

    def call(number):
        with disable_cudnn_attention():
            all_run.wait(timeout=100)
            if number:
                first_ended.wait(timeout=100)
            found = torch.backends.cuda.cudnn_sdp_enabled()
        first_ended.set()
        return found

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(call, range(3))) == [False] * 3
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_call_that_fails_sets_it_back(before):
    with pytest.raises(ValueError, match="no such layer"), disable_cudnn_attention():
        raise ValueError("no such layer")
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
