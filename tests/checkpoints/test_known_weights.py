"""Notes of what files of weights hold: true of the file as it is, or none."""

import dataclasses
import os

import pytest
from small_models import CORE

from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.known_weights import (
    KnownWeights,
    find_known_weights,
    sign_files,
    store_known_weights,
)

KNOWN = KnownWeights("0123456789abcdef", 99.5)


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"some")
    return Checkpoint(CORE, path, None, None, None, "a test")


def store(checkpoint, folder):
    store_known_weights(checkpoint, sign_files(checkpoint), KNOWN, folder)


def test_a_note_is_of_the_file_as_it_is(checkpoint, tmp_path):
    assert find_known_weights(checkpoint, tmp_path / "cache") is None
    store(checkpoint, tmp_path / "cache")
    assert find_known_weights(checkpoint, tmp_path / "cache") == KNOWN
    os.utime(checkpoint.path)
    assert find_known_weights(checkpoint, tmp_path / "cache") is None


def test_nothing_is_noted_of_a_file_that_changed_while_it_was_read(checkpoint, tmp_path):
    signature = sign_files(checkpoint)
    checkpoint.path.write_bytes(b"other weights")
    store_known_weights(checkpoint, signature, KNOWN, tmp_path / "cache")
    assert find_known_weights(checkpoint, tmp_path / "cache") is None


def test_a_byte_anywhere_in_a_note_is_noticed(checkpoint, tmp_path):
    store(checkpoint, tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "weights").iterdir()
    content = note.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x01
        note.write_bytes(damaged)
        found = find_known_weights(checkpoint, tmp_path / "cache")
        assert found in (None, KNOWN), damaged.decode()


def test_a_note_is_of_one_config(checkpoint, tmp_path):
    store(checkpoint, tmp_path / "cache")
    image = dataclasses.replace(CORE.image, mean=(0.1, 0.1, 0.1))
    other = dataclasses.replace(checkpoint, config=dataclasses.replace(CORE, image=image))
    assert find_known_weights(other, tmp_path / "cache") is None


def test_a_folder_that_cannot_be_written_only_costs_time(checkpoint, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file in its place")
    store(checkpoint, tmp_path / "cache")
    assert find_known_weights(checkpoint, tmp_path / "cache") is None
