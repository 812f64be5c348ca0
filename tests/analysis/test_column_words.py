"""Words of an index's texts: which are of use as names."""

import numpy as np
import pytest
from analysis.duplicate_samples import index_of

from perception_encoder.analysis import cluster_names as module
from perception_encoder.analysis.cluster_names import read_column_words
from perception_encoder.errors import QueryError
from perception_encoder.index import Row

CAPTIONS = [
    "The photo shows a Cat with a hat", "a cat on a mat, a CAT!", "Café at night", "the café",
    "a dog in the photo", "hat 2024", None, "once",
]  # fmt: skip


def test_words_that_tell_texts_apart_come_by_how_many_texts_have_them(tmp_path, monkeypatch):
    rows = [
        Row(uri=f"/photos/{number}.jpg", width=number, metadata={"caption": caption})
        for number, caption in enumerate(CAPTIONS)
    ]
    index = index_of(tmp_path, rows, np.eye(8, dtype=np.float32))
    assert read_column_words(index, "caption") == ["café", "cat", "hat"]
    assert read_column_words(index, "caption", where="width < 2") == []  # in all of two
    assert read_column_words(index, "uri") == []
    with pytest.raises(QueryError, match=r"no text column 'title'; it has id, uri, .*caption"):
        read_column_words(index, "title")
    monkeypatch.setattr(module, "MOST_WORDS", 2)
    assert read_column_words(index, "caption") == ["café", "cat"]
