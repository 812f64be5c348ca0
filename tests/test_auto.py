import logging
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from small_models import CORE, TOKENIZER, drawing, open_tiny

from perception_encoder import AutoModel, EmbeddingModel, list_models
from perception_encoder.errors import (
    BackendUnavailableError,
    CacheError,
    CheckpointError,
    UnknownModelError,
)
from perception_encoder.registry import find

IMAGE = drawing(5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return open_tiny().save_pretrained(tmp_path_factory.mktemp("models") / "mine")


def test_the_bundled_model_opens_by_name_and_reads_images_and_words():
    model = AutoModel.from_pretrained("pe-nano")
    assert isinstance(model, EmbeddingModel)
    assert model.config == find("pe-nano").config
    vectors = model.embed_images([IMAGE, drawing(6)])
    assert vectors.shape == (2, 192)
    assert model.similarity(vectors, model.embed_text(["a cat", "a dog", "🐈"])).shape == (2, 3)


def test_a_folder_opens_by_its_path_in_every_spelling(folder, monkeypatch):
    expected = AutoModel.from_pretrained(folder).embed_image(IMAGE)
    monkeypatch.chdir(folder.parent)
    for spelling in (str(folder), "mine", "./mine", "../" + folder.parent.name + "/mine/"):
        assert np.array_equal(AutoModel.from_pretrained(spelling).embed_image(IMAGE), expected)


def test_a_path_that_exists_wins_over_the_id_of_the_same_spelling(tmp_path, monkeypatch):
    open_tiny().save_pretrained(tmp_path / "perception-encoder" / "PE-Core-B16-224")
    monkeypatch.chdir(tmp_path)
    model = AutoModel.from_pretrained("perception-encoder/PE-Core-B16-224")
    assert model.config == CORE


def test_what_the_folder_was_saved_with_is_the_default(tmp_path, folder):
    reference = AutoModel.from_pretrained(folder, preprocess="reference")
    assert reference.processor.name == "reference"
    saved = reference.save_pretrained(tmp_path / "again")
    assert AutoModel.from_pretrained(saved).processor.name == "reference"
    assert AutoModel.from_pretrained(saved, preprocess="standard").processor.name == "standard"
    assert AutoModel.from_pretrained(folder).processor.name == "standard"


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "auto"])
def test_device_and_precision_are_chosen_by_name(folder, device):
    model = AutoModel.from_pretrained(folder, device=device, backend="torch", precision="bf16")
    assert model.backend.precision == "bf16"
    assert device == "auto" or model.backend.device == "cpu"


def test_a_cache_is_used_when_given(folder, tmp_path):
    first = AutoModel.from_pretrained(folder, cache=tmp_path / "cache").embed_image(IMAGE)
    again = AutoModel.from_pretrained(folder, cache=str(tmp_path / "cache")).embed_image(IMAGE)
    assert (tmp_path / "cache").is_file()
    assert np.array_equal(first, again)


def test_made_up_weights_have_a_registered_models_shape():
    model = AutoModel.from_pretrained("pe-nano", random_weights=True)
    trained = AutoModel.from_pretrained("pe-nano")
    assert model.config == trained.config
    assert model.identity.fingerprint != trained.identity.fingerprint
    assert model.embed_image(IMAGE).shape == (1, 192)
    assert np.isfinite(model.embed_text(["a cat", "an unusual zebra " * 20])).all()
    with pytest.raises(UnknownModelError, match="random_weights needs a registered model"):
        AutoModel.from_pretrained("PE-Core-B17-224", random_weights=True)


def test_words_work_with_clips_vocabulary_where_the_model_reads_that():
    model = AutoModel.from_pretrained("PE-Core-T16-384", random_weights=True)
    assert model.embed_text(["a cat", "two dogs"]).shape == (2, 512)


def test_what_cannot_be_opened_says_why(folder, tmp_path):
    with pytest.raises(UnknownModelError, match="PE-Core-B16-224"):
        AutoModel.from_pretrained("PE-Core-B16-225")
    with pytest.raises(CheckpointError, match="not a model folder"):
        AutoModel.from_pretrained(tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"precision 'bf61'.*bf16"):
        AutoModel.from_pretrained("pe-nano", precision="bf61")
    with pytest.raises(BackendUnavailableError, match=r"backend 'tensorflow'.*openvino"):
        AutoModel.from_pretrained("pe-nano", backend="tensorflow")
    with pytest.raises(BackendUnavailableError, match="device 'tpu'"):
        AutoModel.from_pretrained(folder, device="tpu")
    with pytest.raises(BackendUnavailableError, match="'int8'"):
        AutoModel.from_pretrained(folder, backend="torch", precision="int8")
    with pytest.raises(ValueError, match="unknown preprocessing 'quick'"):
        AutoModel.from_pretrained(folder, preprocess="quick")
    with pytest.raises(CacheError, match="another path"):
        AutoModel.from_pretrained(folder, cache=folder)


def test_a_model_without_its_vocabulary_still_embeds_images(folder, tmp_path, caplog):
    import shutil

    caplog.set_level(logging.WARNING)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    model = AutoModel.from_pretrained(copy)
    assert "text cannot be embedded" in caplog.text
    assert model.embed_image(IMAGE).shape == (1, CORE.embed_dim)
    assert TOKENIZER.vocab_size == CORE.text.vocab_size


def count_dimensions(model, text):
    return model.embed_text(text).shape[1]


def test_a_model_is_pickled_by_its_name_and_works_in_a_process_pool(folder):
    named = AutoModel.from_pretrained("pe-nano", device="cpu")
    again = pickle.loads(pickle.dumps(named))
    assert again.identity == named.identity
    assert again.device == named.device == "cpu"
    assert pickle.loads(pickle.dumps(named)) is again  # opened once in a process
    by_path = pickle.loads(pickle.dumps(AutoModel.from_pretrained(folder, preprocess="fast")))
    assert (by_path.config, by_path.processor.name) == (CORE, "fast")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(count_dimensions, named, "a cat").result() == 192
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(open_tiny())


def test_models_are_listed_by_their_ids():
    assert "perception-encoder/PE-Core-B16-224" in list_models()
    assert "pe-nano" in list_models(cached=True)
    assert len(list_models(cached=True)) < len(list_models())
