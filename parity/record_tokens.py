"""Records open_clip's token ids for the texts of `tests/preprocess/strings.py`.

Run from the repository's root where `open_clip_torch` 3.3.0 is installed (`make parity`):

    python -m parity.record_tokens

Writes `tests/golden/tokens.npz`. For each context length, `ids_N` (uint16) holds all rows without
their padding, end to end, and `lengths_N` (uint8) how many ids each row has. `texts_sha256` names
the list of texts and `versions` the libraries that made the ids.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

from tests.preprocess.strings import digest, texts

CONTEXT_LENGTHS = (32, 72, 77)
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "tokens.npz"


def main() -> None:
    """Tokenize every text for every context length and write one file."""
    items = texts()
    tokenizer = SimpleTokenizer()
    libraries = ("open_clip_torch", "regex", "ftfy")
    arrays = {
        "texts_sha256": np.array(digest(items)),
        "versions": np.array(" ".join(f"{name}=={version(name)}" for name in libraries)),
    }
    for context_length in CONTEXT_LENGTHS:
        rows = tokenizer(items, context_length=context_length).numpy()
        positions = np.arange(context_length)
        lengths = np.where(rows != 0, positions + 1, 0).max(axis=1)  # the end token is last
        used = positions < lengths[:, None]
        arrays[f"ids_{context_length}"] = rows[used].astype(np.uint16)
        arrays[f"lengths_{context_length}"] = lengths.astype(np.uint8)
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{len(items)} texts, {GOLDEN.stat().st_size} bytes: {GOLDEN}")


if __name__ == "__main__":
    main()
