"""How adapters get a model: once for a name, compared by weights, with texts and images mixed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_models import drawing

from perception_encoder import AutoModel
from perception_encoder.errors import IndexMismatchError, UnknownModelError
from perception_encoder.integrations import opening
from perception_encoder.integrations.opening import check_weights, embed_mixed, open_shared


@pytest.fixture(scope="module")
def nano():
    yield open_shared("pe-nano", device="cpu", precision="fp32")
    opening._KEPT.clear()


def test_a_name_is_opened_once_whoever_asks_and_however_it_is_spelled_out(nano, tmp_path):
    folder = nano.save_pretrained(tmp_path / "model")
    with ThreadPoolExecutor(8) as pool:
        models = set(pool.map(lambda _: open_shared(folder, device="cpu"), range(8)))
    assert len(models) == 1
    (model,) = models
    assert open_shared(str(folder), device="cpu", preprocess="standard") is model
    assert open_shared(folder, device="cpu", preprocess="reference") is not model
    assert open_shared(model) is model


def test_names_that_were_not_asked_for_lately_are_let_go(nano, tmp_path):
    first = nano.save_pretrained(tmp_path / "first")
    kept = open_shared(first, device="cpu")
    assert open_shared(first, device="cpu") is kept
    for number in range(8):
        (tmp_path / f"{number}").symlink_to(first)
        open_shared(tmp_path / f"{number}", device="cpu")
    assert open_shared(first, device="cpu") is not kept


def test_what_cannot_be_opened_says_so_each_time(nano):
    for _ in range(2):
        with pytest.raises(UnknownModelError):
            open_shared("pe-nan")
    with pytest.raises(TypeError, match="precision cannot change it"):
        open_shared(nano, precision="bf16")


def test_other_weights_are_refused(nano):
    check_weights(nano, None)
    check_weights(nano, nano.identity.fingerprint)
    with (
        AutoModel.from_pretrained("pe-nano", random_weights=True, device="cpu") as other,
        pytest.raises(IndexMismatchError, match=nano.identity.fingerprint),
    ):
        check_weights(other, nano.identity.fingerprint)


@pytest.mark.parametrize("order", ["", "t", "p", "tp", "pt", "pttpp"])
def test_texts_and_images_keep_their_places(nano, order):
    items = [
        f"a cat {place}" if kind == "t" else np.asarray(drawing(place))
        for place, kind in enumerate(order)
    ]
    vectors = embed_mixed(nano, items, [kind == "t" for kind in order])
    assert vectors.shape == (len(order), 192)
    for vector, item in zip(vectors, items, strict=True):
        alone = (
            nano.embed_text(item)
            if isinstance(item, str)
            else nano.embed_image(item, input_color_format="rgb")
        )
        assert np.abs(vector - alone[0]).max() <= 2e-5
