"""The hand-made word lists of the preparation, kept as data in wordlists.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS: dict[str, Any] = json.loads(
    Path(__file__).with_name("wordlists.json").read_text(encoding="utf-8")
)
