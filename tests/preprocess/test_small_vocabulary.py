import numpy as np
import pytest
from preprocess.strings import texts

from perception_encoder.preprocess.tokenizer import Tokenizer
from training.pe_nano.tokenizer import train_tokenizer

SOME = texts()[::4]
VOCAB_SIZES = [600, 1100]


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_a_learned_vocabulary_has_the_size_asked_for_and_ends_with_the_end_token(vocab_size):
    tokenizer = Tokenizer(train_tokenizer(SOME, vocab_size), 16)
    assert tokenizer.vocab_size == vocab_size
    assert (tokenizer.start_id, tokenizer.end_id) == (vocab_size - 2, vocab_size - 1)


def test_it_cleans_and_splits_as_clips_does():
    tokenizer = Tokenizer(train_tokenizer(SOME, 900), 77)
    rows = tokenizer(["A  Cat&amp;Dog 'SCHÃ¶N'", "a cat&dog 'schön'"])
    assert np.array_equal(rows[0], rows[1])
    assert rows.max() == tokenizer.end_id


def test_any_text_can_be_numbered():
    tokenizer = Tokenizer(train_tokenizer(["a red cat"] * 3, 518), 77)
    rows = tokenizer(SOME, trim=False)
    ends = rows.argmax(axis=1)
    assert (rows[np.arange(len(rows)), ends] == tokenizer.end_id).all()


def test_learning_twice_gives_one_vocabulary():
    first, second = (train_tokenizer(iter(SOME), 800).to_str() for _ in range(2))
    assert first == second


def test_it_reads_back_from_its_file(tmp_path):
    tokenizer = Tokenizer(train_tokenizer(SOME, 700), 16)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json", 16)
    assert again.vocab_size == 700
    assert np.array_equal(again(SOME), tokenizer(SOME))


def test_too_few_texts_for_the_size_are_refused_with_the_number_reached():
    with pytest.raises(ValueError, match=r"only 5\d\d ids, not 4096"):
        train_tokenizer(["a red cat", "a blue dog"], 4096)


def test_a_size_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 514, got 300"):
        train_tokenizer(["cat"], 300)
