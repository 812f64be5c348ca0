import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from preprocess.strings import digest, texts

from perception_encoder.preprocess import vocabulary
from perception_encoder.preprocess.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokens.npz"
START_ID, END_ID = 49406, 49407
CAT = 2368  # "cat</w>"


def clip(context_length: int = 77) -> Tokenizer:
    return Tokenizer(PIPELINE, context_length)


def read_installed():
    path = vocabulary.installed_vocabulary()
    assert path is not None, "the tests need CLIP's vocabulary: `make install` installs it"
    return vocabulary.read_vocabulary(path)


PIPELINE = read_installed()  # at import: hypothesis and parametrisation use it too


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_the_recorded_ids_belong_to_these_texts(golden):
    assert str(golden["texts_sha256"]) == digest(texts())
    assert len(texts()) >= 2500


@pytest.mark.parametrize("context_length", [32, 72, 77])
def test_every_row_equals_the_originals(golden, context_length):
    items = texts()
    ids, lengths = golden[f"ids_{context_length}"], golden[f"lengths_{context_length}"]
    expected = np.zeros((len(items), context_length), dtype=np.int64)
    expected[np.arange(context_length) < lengths[:, None]] = ids

    rows = clip(context_length)(items, trim=False)

    different = [items[row] for row in np.flatnonzero((rows != expected).any(axis=1))]
    assert different == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text() | st.sampled_from(texts()), max_size=4), st.sampled_from([2, 3, 32, 77]))
def test_rows_hold_start_words_end_and_zeros(items, context_length):
    tokenizer = clip(context_length)

    full = tokenizer(items, trim=False)
    trimmed = tokenizer(items)

    assert full.dtype == trimmed.dtype == np.int64
    assert full.shape == (len(items), context_length)
    width = trimmed.shape[1]
    assert 2 <= width <= context_length
    assert np.array_equal(full[:, :width], trimmed)
    assert not full[:, width:].any()
    assert (full[:, 0] == START_ID).all()
    for row, cut in zip(full, tokenizer.find_truncated(items), strict=True):
        last = np.flatnonzero(row)[-1]
        assert row[last] == END_ID
        assert last == context_length - 1 or not cut
    if items:
        assert trimmed[:, -1].any(), "the longest row reaches the last column"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_text_has_the_same_ids_in_any_batch(items):
    tokenizer = clip()
    assert tokenizer.encode(items) == [tokenizer.encode(item)[0] for item in items]


def test_an_empty_text_is_start_and_end():
    assert clip()(["", " \n\u3000"]).tolist() == [[START_ID, END_ID]] * 2


def test_no_texts_give_no_rows():
    assert clip()([]).shape == (0, 2)
    assert clip(32)([], trim=False).shape == (0, 32)


def test_one_string_is_a_batch_of_one():
    assert clip()("cat cat").tolist() == [[START_ID, CAT, CAT, END_ID]]


def test_shorter_rows_are_filled_with_zeros():
    rows = clip()(["cat", "cat cat cat"])
    assert rows.tolist() == [[START_ID, CAT, END_ID, 0, 0], [START_ID, CAT, CAT, CAT, END_ID]]


@pytest.mark.parametrize("context_length", [32, 77])
def test_only_a_text_that_loses_words_counts_as_truncated(context_length):
    fits = " ".join(["cat"] * (context_length - 2))
    tokenizer = clip(context_length)

    assert tokenizer.find_truncated([fits, f"{fits} dog", ""]) == [False, True, False]
    rows = tokenizer([fits, f"{fits} dog"])
    assert rows.shape == (2, context_length)
    assert np.array_equal(rows[0], rows[1])


def test_a_text_that_spells_the_end_token_gets_its_id_where_the_original_gives_it():
    tokenizer = clip()
    assert tokenizer("cat<end_of_text>cat").tolist() == [[START_ID, CAT, END_ID, CAT, END_ID]]
    assert END_ID not in tokenizer("cat !!<end_of_text>")[0, :-1], "swallowed by the run of signs"
    assert END_ID not in tokenizer("cat <|endoftext|>")[0, :-1], "OpenAI's spelling means nothing"


def test_unpaired_surrogates_count_as_the_replacement_character():
    tokenizer = clip()
    assert np.array_equal(tokenizer("a\ud800b \udcff"), tokenizer("a\ufffdb \ufffd"))
    assert np.array_equal(tokenizer("\ud83d\ude00"), tokenizer("😀")), "a pair is its character"


@pytest.mark.parametrize(("item", "name"), [(None, "NoneType"), (b"cat", "bytes"), (3, "int")])
def test_an_item_that_is_no_string_is_refused_by_its_position(item, name):
    with pytest.raises(TypeError, match=rf"texts\[1\] is {name}"):
        clip()(["cat", item])


def test_bytes_are_not_taken_for_texts():
    with pytest.raises(TypeError, match=r"texts\[0\] is int"):
        clip()(b"cat")


@pytest.mark.parametrize("context_length", [1, 0, -1])
def test_a_context_without_room_for_start_and_end_is_refused(context_length):
    with pytest.raises(ValueError, match="at least 2"):
        clip(context_length)


def test_a_pipeline_without_the_special_tokens_is_refused():
    with pytest.raises(ValueError, match="no <start_of_text>"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), 32)


def test_ids_and_size_are_clips():
    tokenizer = clip()
    assert (tokenizer.vocab_size, tokenizer.start_id, tokenizer.end_id) == (49408, 49406, 49407)


def test_many_threads_get_the_serial_rows():
    tokenizer = clip()
    batches = [texts()[start : start + 25] for start in range(0, 1000, 25)]
    serial = [tokenizer(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(tokenizer, batches))
    assert all(map(np.array_equal, serial, parallel))


def test_a_saved_vocabulary_reads_back_the_same(tmp_path):
    clip().save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json", 32)
    assert np.array_equal(again(texts()[::5]), clip(32)(texts()[::5]))


def test_a_tokenizer_travels_to_another_process():
    again = pickle.loads(pickle.dumps(clip()))
    assert np.array_equal(again(texts()[::20]), clip()(texts()[::20]))


def openai_layout() -> dict:
    """Rewrite our file as `openai/clip-vit-base-patch32` has it: other special names and steps."""
    content = json.loads(PIPELINE.to_str())
    model = content["model"]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    model["vocab"] = {names.get(token, token): id_ for token, id_ in model["vocab"].items()}
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    model["unk_token"] = "<|endoftext|>"
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [
        {"id": START_ID, "content": "<|startoftext|>", "special": True, **special},
        {"id": END_ID, "content": "<|endoftext|>", "special": True, **special},
    ]
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    content["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", END_ID],
        "cls": ["<|startoftext|>", START_ID],
        "trim_offsets": False,
        "add_prefix_space": False,
    }
    return content


def test_openais_file_gives_the_originals_ids(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(openai_layout()))
    again = Tokenizer.from_file(path, 77)
    assert np.array_equal(again(texts()[::5]), clip()(texts()[::5]))
