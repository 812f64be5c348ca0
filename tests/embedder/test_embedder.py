import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import (
    CLIP,
    CORE,
    TOKENIZER,
    WITHOUT_POOLING,
    WITHOUT_TEXT,
    as_bgr,
    drawing,
    open_tiny,
    save_drawings,
)

from perception_encoder import AutoModel
from perception_encoder.errors import (
    CheckpointError,
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageValueError,
    TokenizerNotFoundError,
    UnsupportedOperationError,
)

# Sums of float32 products in another order, over unit vectors; see the towers' own parity bound.
TOLERANCE = 2e-5
IMAGES = [drawing(seed, width=20 + 9 * seed, height=60 - 5 * seed) for seed in range(7)]
TEXTS = ["a cat", "cat", "", "a cat and a dog", "c a t"]
LONG_TEXT = "cat " * CORE.text.context_length


@pytest.fixture(scope="module")
def tiny():
    return open_tiny()


@pytest.fixture(scope="module")
def nano():
    return AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")


@pytest.fixture(params=["tiny", "tiny-clip", "nano"])
def model(request):
    if request.param == "tiny-clip":
        return open_tiny(CLIP)
    return request.getfixturevalue(request.param)


def same(a, b) -> bool:
    return a.shape == b.shape and float(np.abs(a - b).max()) <= TOLERANCE


# -- images -------------------------------------------------------------------------------------


def test_images_come_back_in_order_and_do_not_depend_on_the_batch(model):
    alone = np.concatenate([model.embed_image(image) for image in IMAGES])
    assert alone.shape == (7, model.embed_dim)
    assert alone.dtype == np.float32
    for batch_size in (1, 3, 7, 32):
        assert same(model.embed_images(IMAGES, batch_size=batch_size), alone)


def test_an_image_does_not_depend_on_its_neighbors(model):
    among_others = model.embed_images([IMAGES[6], *IMAGES[:3], IMAGES[5]])[3:4]
    assert same(among_others, model.embed_images([IMAGES[2]] * 7)[4:5])


def test_different_images_have_different_vectors(model):
    vectors = model.embed_images(IMAGES)
    assert (model.similarity(vectors, vectors) - np.eye(7)).max() < 0.9999


def test_every_kind_of_image_may_be_mixed_in_one_list(tiny, tmp_path):
    image = IMAGES[1]
    path = tmp_path / "image.png"
    image.save(path)
    bgr = as_bgr(image)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    kinds = [
        str(path),
        path,
        path.read_bytes(),
        bytearray(path.read_bytes()),
        memoryview(path.read_bytes()),
        image,
        bgr,
        bgr.astype(np.float64) / 255,
        np.ascontiguousarray(bgr[:, ::-1])[:, ::-1],
        tensor,
        tensor.float() / 255,
    ]
    mixed = [item for kind in kinds for item in (kind, IMAGES[4])]
    vectors = tiny.embed_images(mixed, batch_size=5)
    assert same(vectors[::2], np.repeat(tiny.embed_image(image), len(kinds), axis=0))
    assert same(vectors[1::2], np.repeat(tiny.embed_image(IMAGES[4]), len(kinds), axis=0))


def test_arrays_are_bgr_unless_said_otherwise(tiny):
    image = IMAGES[0]
    rgb = np.array(image)
    expected = tiny.embed_image(image)
    assert same(tiny.embed_image(as_bgr(image)), expected)
    assert same(tiny.embed_image(rgb, input_color_format="rgb"), expected)
    assert same(tiny.embed_images([rgb, image], input_color_format="rgb")[:1], expected)
    assert not same(tiny.embed_image(rgb), expected)


def test_a_batch_may_be_one_array_or_one_tensor_or_a_generator(tiny):
    images = [drawing(seed) for seed in range(3)]
    expected = tiny.embed_images(images)
    rgb = np.stack([np.array(image) for image in images])
    assert same(tiny.embed_images(rgb, input_color_format="rgb"), expected)
    assert same(tiny.embed_images(torch.from_numpy(rgb).permute(0, 3, 1, 2)), expected)
    assert same(tiny.embed_images(image for image in images), expected)


def test_what_the_caller_gave_is_not_changed(tiny):
    side = CORE.vision.image_size  # at this size nothing needs to be resized
    image = drawing(3, width=side, height=side)
    array = np.array(image)
    array.flags.writeable = False
    floats = np.array(image, np.float32) / 255
    tensor = torch.from_numpy(floats.transpose(2, 0, 1).copy())
    given = [image, array, floats, tensor]
    before = [image.tobytes(), array.tobytes(), floats.tobytes(), tensor.numpy().tobytes()]
    tiny.embed_images(given)
    tiny.embed_images(tensor[None])
    tiny.embed_images(floats[None], input_color_format="rgb")
    assert given[0] is image
    assert before == [
        image.tobytes(),
        array.tobytes(),
        floats.tobytes(),
        tensor.numpy().tobytes(),
    ]


# -- images that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_images_that_cannot_be_used_are_skipped_and_keep_their_rows(batch_size, cached, tmp_path):
    good = save_drawings(tmp_path, 3)
    cut = tmp_path / "cut.png"
    cut.write_bytes(good[0].read_bytes()[:60])
    given = [
        None,
        good[0],
        cut,
        tmp_path / "missing.png",
        good[1],
        b"",
        good[2],
        np.zeros((2, 2, 7)),
    ]
    model = open_tiny(cache=tmp_path / "cache" if cached else None)
    for _ in range(2):
        embeddings, failures = model.embed_images(given, errors="skip", batch_size=batch_size)
        assert list(failures) == [0, 2, 3, 5, 7]
        assert all(isinstance(error, ImageError) for error in failures.values())
        assert "cut.png" in str(failures[2])
        assert isinstance(failures[3], ImageNotFoundError)
        assert embeddings.shape == (8, 24)
        assert np.isnan(embeddings[list(failures)]).all()
        assert same(embeddings[[1, 4, 6]], model.embed_images(good))


def test_skipping_gives_a_pair_whatever_the_images_are(tiny):
    embeddings, failures = tiny.embed_images(IMAGES, errors="skip")
    assert failures == {}
    assert same(embeddings, tiny.embed_images(IMAGES))
    embeddings, failures = tiny.embed_images([b"", None], errors="skip", truncate_dim=8)
    assert embeddings.shape == (2, 8)
    assert list(failures) == [0, 1]
    embeddings, failures = tiny.embed_images([], errors="skip")
    assert embeddings.shape == (0, 24)
    assert failures == {}
    tensor, failures = tiny.embed_images([b"", IMAGES[0]], errors="skip", output="torch")
    assert torch.isnan(tensor).any(dim=1).tolist() == [True, False]
    assert list(failures) == [0]


def test_the_first_image_that_cannot_be_used_is_raised_unless_told_otherwise(tiny, tmp_path):
    with pytest.raises(ImageNotFoundError, match=r"missing\.png"):
        tiny.embed_images([IMAGES[0], tmp_path / "missing.png"])
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        tiny.embed_images(IMAGES, errors="ignore")


def test_no_images_give_no_rows(model):
    for output in ("numpy", "torch"):
        assert model.embed_images([], output=output).shape == (0, model.embed_dim)
    grid = model.config.vision.grid_size
    assert model.features([]).shape == (0, grid**2, model.config.vision.width)


def test_errors_name_the_image_by_its_path_or_its_place(tiny, tmp_path):
    text_file = tmp_path / "notes.jpg"
    text_file.write_text("not an image")
    good = IMAGES[0]
    with pytest.raises(ImageNotFoundError, match=r"nowhere\.jpg") as caught:
        tiny.embed_images([good, "nowhere.jpg", good])
    assert "nowhere.jpg" in caught.value.item
    with pytest.raises(ImageDecodeError, match=r"notes\.jpg"):
        tiny.embed_images([good, text_file])
    with pytest.raises(ImageDecodeError, match="image 2"):
        tiny.embed_images([good, good, b"not an image"])
    with pytest.raises(ImageValueError, match="image 1"):
        tiny.features([good, np.zeros((4, 4, 7), np.uint8)])
    with pytest.raises(TypeError, match=r"image 40.*cv2\.imread"):
        tiny.embed_images([good] * 40 + [None], batch_size=4)


def test_one_image_and_a_list_of_them_are_not_mixed_up(tiny):
    with pytest.raises(TypeError, match="embed_images"):
        tiny.embed_image([IMAGES[0]])
    with pytest.raises(TypeError, match="embed_image"):
        tiny.embed_images(IMAGES[0])
    with pytest.raises(ImageValueError, match="embed_image"):
        tiny.embed_images(as_bgr(IMAGES[0]))


def test_a_video_is_the_mean_of_its_frames(tiny):
    frames = tiny.embed_images(IMAGES)
    mean = frames.mean(axis=0, keepdims=True)
    expected = mean / np.linalg.norm(mean)
    assert same(tiny.embed_video(IMAGES), expected)
    assert same(tiny.embed_video(IMAGES[::-1], batch_size=2), expected)
    assert same(tiny.embed_video(IMAGES[:1]), frames[:1])
    with pytest.raises(ValueError, match="at least one frame"):
        tiny.embed_video([])


def test_a_video_file_is_the_mean_of_evenly_spaced_frames(tiny, tmp_path):
    pytest.importorskip("av")
    from video_clips import SCENES, frames_of, write_clip

    clip = write_clip(tmp_path / "clip.mp4", options={"crf": "1"})
    written = list(frames_of(SCENES[:3], 2.0))
    for num_frames, numbers in ((8, [0, 8, 16, 25, 33, 42, 50, 59]), (1, [30])):
        frames = [written[number] for number in numbers]
        expected = tiny.embed_video(frames, input_color_format="rgb")
        found = tiny.embed_video(clip, num_frames=num_frames, batch_size=3)
        assert (found @ expected.T).item() > 0.999
    with pytest.raises(ImageNotFoundError, match=r"none\.mp4"):
        tiny.embed_video(tmp_path / "none.mp4")


# -- words ----------------------------------------------------------------------------------------


def test_texts_come_back_in_order_and_do_not_depend_on_padding(model):
    alone = np.concatenate([model.embed_text(text) for text in TEXTS])
    assert alone.shape == (len(TEXTS), model.embed_dim)
    for batch_size in (2, 64):
        assert same(model.embed_text(TEXTS, batch_size=batch_size), alone)
        assert same(model.embed_text(tuple(reversed(TEXTS)), batch_size=batch_size), alone[::-1])


def test_no_texts_give_no_rows(model):
    assert model.embed_text([]).shape == (0, model.embed_dim)
    assert model.embed_text("").shape == (1, model.embed_dim)


def test_long_text_is_cut_with_a_warning(tiny, caplog):
    with caplog.at_level(logging.WARNING, logger="perception_encoder"):
        tiny.embed_text(TEXTS)
        assert not caplog.records
        cut = tiny.embed_text(["cat", LONG_TEXT, LONG_TEXT + "dog"])
    assert "2 of 3 texts" in caplog.text
    assert f"{CORE.text.context_length} tokens" in caplog.text
    assert np.array_equal(cut[1], cut[2])


def test_what_is_no_string_is_named_by_its_place(tiny):
    with pytest.raises(TypeError, match=r"texts\[1\] is int"):
        tiny.embed_text(["cat", 3])


def test_words_need_a_vocabulary_and_a_text_tower():
    with pytest.raises(TokenizerNotFoundError, match=r"tokenizer\.json"):
        open_tiny(tokenizer=None).embed_text("cat")
    with pytest.raises(UnsupportedOperationError, match="tiny/images reads no text"):
        open_tiny(WITHOUT_TEXT).embed_text("cat")


# -- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["images", "text"])
def test_vectors_are_of_unit_length_unless_said_otherwise(model, method):
    embed, items = _method(model, method)
    vectors, raw = embed(items), embed(items, normalize=False)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.abs(lengths - 1).min() > 1e-3
    assert same(vectors, raw / lengths)


@pytest.mark.parametrize("method", ["images", "text"])
@pytest.mark.parametrize("dim", [1, 5, CORE.embed_dim])
def test_vectors_can_be_cut_and_are_normalized_again(tiny, method, dim):
    embed, items = _method(tiny, method)
    head = embed(items, normalize=False)[:, :dim]
    assert np.array_equal(embed(items, truncate_dim=dim, normalize=False), head)
    cut = embed(items, truncate_dim=dim)
    assert same(cut, head / np.linalg.norm(head, axis=1, keepdims=True))
    assert cut.flags.c_contiguous


@pytest.mark.parametrize("method", ["images", "text"])
@pytest.mark.parametrize("dim", [0, -1, CORE.embed_dim + 1])
def test_vectors_cannot_be_cut_to_nothing_or_made_longer(tiny, method, dim):
    embed, items = _method(tiny, method)
    with pytest.raises(ValueError, match="between 1 and 24"):
        embed(items, truncate_dim=dim)


@pytest.mark.parametrize("method", ["images", "text"])
def test_torch_output_is_a_float32_cpu_tensor_of_the_same_numbers(tiny, method):
    embed, items = _method(tiny, method)
    tensor = embed(items, output="torch", truncate_dim=6)
    assert isinstance(tensor, torch.Tensor)
    assert (tensor.dtype, tensor.device.type) == (torch.float32, "cpu")
    assert np.array_equal(tensor.numpy(), embed(items, truncate_dim=6))
    tensor += 1  # the caller's own


@pytest.mark.parametrize("method", ["images", "text"])
@pytest.mark.parametrize("mistake", [{"batch_size": 0}, {"output": "list"}])
def test_impossible_options_are_refused(tiny, method, mistake):
    embed, items = _method(tiny, method)
    with pytest.raises(ValueError, match=next(iter(mistake))):
        embed(items, **mistake)


def test_an_unknown_color_format_is_refused_whatever_the_image(tiny):
    with pytest.raises(ValueError, match="'bgr' or 'rgb'"):
        tiny.embed_images(IMAGES, input_color_format="RGB")


@pytest.mark.parametrize("method", ["images", "text"])
def test_progress_is_shown_when_asked_for_and_not_where_nobody_looks(tiny, method, capsys):
    embed, items = _method(tiny, method)
    embed(items)
    embed(items, show_progress=False)
    assert capsys.readouterr() == ("", "")
    embed(items, show_progress=True, batch_size=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"/{len(items)}" in shown.err


def _method(model, name):
    return (model.embed_images, IMAGES[:3]) if name == "images" else (model.embed_text, TEXTS)


def test_similarity_takes_one_vector_or_many_of_any_length_and_kind(tiny):
    images, words = tiny.embed_images(IMAGES[:3]), tiny.embed_text(TEXTS)
    scores = tiny.similarity(images, words)
    assert scores.shape == (3, 5)
    assert scores.dtype == np.float32
    assert np.allclose(scores, images @ words.T, atol=1e-6)
    assert np.allclose(tiny.similarity(images * 7, torch.from_numpy(words) / 3), scores, atol=1e-6)
    assert np.allclose(tiny.similarity(images[1], words), scores[1:2], atol=1e-6)
    assert np.allclose(tiny.similarity(images[1].tolist(), words[2]), scores[1, 2], atol=1e-6)
    assert tiny.similarity(images[1], words[2]).shape == (1, 1)
    assert tiny.similarity(np.empty((0, 24)), words).shape == (0, 5)


def test_similarity_stays_between_minus_one_and_one(tiny):
    vectors = np.float32([[1, 1, 1], [-1, -1, -1], [0, 0, 0]]) * np.float32(0.1)
    scores = tiny.similarity(vectors, vectors)
    assert np.abs(scores).max() <= 1
    assert np.allclose(scores, [[1, -1, 0], [-1, 1, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(("a", "b"), [((2, 3), (2, 4)), ((3,), (4,)), ((1, 2, 3), (2, 3))])
def test_vectors_of_different_sizes_are_refused(tiny, a, b):
    with pytest.raises(ValueError, match=r"cannot compare|rows of vectors"):
        tiny.similarity(np.ones(a), np.ones(b))


def test_images_of_words_score_by_the_models_own_scale(nano, tiny):
    assert nano.logit_scale > 1
    assert tiny.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert open_tiny(WITHOUT_TEXT).logit_scale == 1.0


# -- patch features -------------------------------------------------------------------------------


def test_features_are_one_vector_for_each_square(nano):
    features = nano.features(IMAGES[:3])
    assert features.shape == (3, 36, 192)
    assert features.dtype == np.float32
    assert same(features[1:2], nano.features(IMAGES[1:2]))
    assert not same(nano.features(IMAGES[:1], layer=0), features[:1])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_model_without_pooling_gives_features_and_says_so_otherwise(batch_size):
    model = open_tiny(WITHOUT_POOLING)
    features = model.features(IMAGES[:3], batch_size=batch_size)
    assert features.shape == (3, 9, 48)
    assert np.array_equal(features, model.features(IMAGES[:3], layer=2, batch_size=batch_size))
    assert model.embed_dim is None
    with pytest.raises(UnsupportedOperationError, match=r"tiny/patches.*features\(\)"):
        model.embed_image(IMAGES[0])
    with pytest.raises(UnsupportedOperationError, match="features"):
        _ = model.identity


@pytest.mark.parametrize("layer", [2, -3, 99])
def test_a_layer_that_does_not_exist_is_refused(tiny, layer):
    with pytest.raises(ValueError, match=f"layer {layer}"):
        tiny.features(IMAGES[:1], layer=layer)


# -- threads, folders, life -----------------------------------------------------------------------


def test_eight_threads_get_what_one_gets_bit_for_bit(nano):
    parts = [IMAGES[start : start + 3] for start in (0, 1, 2, 3, 4)] * 3
    words = [TEXTS, TEXTS[::-1], TEXTS[1:3], TEXTS[:1], TEXTS[2:]] * 3

    def work(job):
        part, texts = job
        return nano.embed_images(part, batch_size=2), nano.embed_text(texts), nano.features(part)

    jobs = list(zip(parts, words, strict=True))
    expected = [work(job) for job in jobs[:5]]
    with ThreadPoolExecutor(8) as pool:
        for number, results in enumerate(pool.map(work, jobs)):
            assert all(map(np.array_equal, results, expected[number % 5]))


@pytest.mark.parametrize("config", [CORE, WITHOUT_TEXT, WITHOUT_POOLING, CLIP], ids=lambda c: c.id)
def test_a_saved_model_gives_the_same_vectors(config, tmp_path):
    model = open_tiny(config, tokenizer=TOKENIZER if config.text else None)
    folder = model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(folder, device="cpu", precision="fp32")
    assert again.config == config
    assert again.backend.fingerprint == model.backend.fingerprint
    # The weights are the same bits at other addresses, and kernels choose by alignment.
    assert np.allclose(again.features(IMAGES), model.features(IMAGES), rtol=0, atol=2e-5)
    if config.embed_dim is not None:
        assert again.identity == model.identity
        assert np.allclose(again.embed_images(IMAGES), model.embed_images(IMAGES), atol=1e-6)
    if config.text is not None:
        assert np.allclose(again.embed_text(TEXTS), model.embed_text(TEXTS), atol=1e-6)


def test_a_loaded_model_saves_its_weights_and_its_preprocessing(nano, tmp_path):
    model = AutoModel.from_pretrained(
        "pe-nano", device="cpu", precision="bf16", preprocess="reference"
    )
    assert model.save_pretrained(str(tmp_path / "saved")) == tmp_path / "saved"
    again = AutoModel.from_pretrained(tmp_path / "saved", device="cpu", precision="fp32")
    assert again.identity == model.identity
    assert again.identity.preprocess == "reference"
    expected = nano.embed_text(TEXTS)
    assert np.allclose(again.embed_text(TEXTS), expected, atol=1e-6)  # not bf16's numbers
    again.save_pretrained(tmp_path / "saved")  # over the very file it is mapped from
    assert np.allclose(again.embed_text(TEXTS), expected, atol=1e-6)


def test_weights_that_are_on_disk_no_more_are_not_saved(tmp_path):
    first = open_tiny(tokenizer=TOKENIZER).save_pretrained(tmp_path / "model")
    model = AutoModel.from_pretrained(first, device="cpu", precision="fp32")
    tensors = load_file(first / "model.safetensors")
    tensors["vision.projection.weight"] += 1
    save_file(tensors, tmp_path / "other")
    os.replace(tmp_path / "other", first / "model.safetensors")
    with pytest.raises(CheckpointError, match="open it again"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_identity_tells_models_and_preprocessing_apart(tiny, nano):
    assert tiny.identity.model_id == "tiny/core"
    assert tiny.identity.embed_dim == 24
    assert tiny.identity.preprocess == "standard"
    assert tiny.identity.fingerprint != nano.identity.fingerprint


def test_a_model_is_a_context_manager_and_says_what_it_is(tmp_path):
    with open_tiny(cache=tmp_path / "cache") as model:
        assert repr(model) == (
            "EmbeddingModel('tiny/core', backend='torch', device='cpu', precision='fp32')"
        )
        vectors = model.embed_images(save_drawings(tmp_path, 2))
    assert vectors.shape == (2, 24)


def test_photos_of_any_size_are_embedded(nano, photos):
    vectors = nano.embed_images(photos, batch_size=4)
    assert vectors.shape == (len(photos), 192)
    some: Path = photos[0]
    with Image.open(some) as image:
        assert same(nano.embed_image(image), vectors[:1])
