"""Which model's vectors a file holds: written into every export, believed at every import.

In a folder it is `perception_encoder.json`; in a Parquet file the same facts are in its schema's
metadata, under `perception_encoder.…`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from perception_encoder._version import __version__
from perception_encoder.errors import ExchangeError
from perception_encoder.index.schema import VectorDtype
from perception_encoder.types import ModelIdentity, PreprocessName

if TYPE_CHECKING:
    import pyarrow as pa

FILE: Final = "perception_encoder.json"

_PREFIX: Final = "perception_encoder."


@dataclass(frozen=True)
class Provenance:
    """Where vectors come from.

    Attributes:
        identity: the model.
        vector_dtype: how the index stored them.
        columns: the index's metadata columns, beside those that every index has.
        version: of this package, when it wrote the file.
    """

    identity: ModelIdentity
    vector_dtype: VectorDtype
    columns: tuple[str, ...]
    version: str = __version__

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "version": self.version,
            "model_id": self.identity.model_id,
            "fingerprint": self.identity.fingerprint,
            "preprocess": self.identity.preprocess,
            "embed_dim": self.identity.embed_dim,
            "vector_dtype": self.vector_dtype,
            "columns": list(self.columns),
        }

    def save(self, folder: str) -> None:
        """Write it beside a folder's files."""
        with open(os.path.join(folder, FILE), "w", encoding="utf-8") as file:
            json.dump(self.facts(), file, indent=2, ensure_ascii=False)
            file.write("\n")

    def in_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema with it in its metadata, and nothing else there."""
        facts = {f"{_PREFIX}{name}": _text(value) for name, value in self.facts().items()}
        return schema.with_metadata(facts)


def read_provenance(folder: str) -> Provenance | None:
    """Read what lies beside a folder's files; None where nothing does.

    Raises:
        ExchangeError: it cannot be read.
    """
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise ExchangeError(f"{path}: cannot be read: {err}; remove it and give --model") from err
    return _provenance(facts, path)


def provenance_of(schema: pa.Schema, path: str) -> Provenance | None:
    """Read it from a Parquet file's schema; None where it says nothing.

    Raises:
        ExchangeError: it cannot be understood.
    """
    facts = {
        key.decode().removeprefix(_PREFIX): value.decode()
        for key, value in (schema.metadata or {}).items()
        if key.decode().startswith(_PREFIX)
    }
    if not facts:
        return None
    if "columns" in facts:
        facts["columns"] = json.loads(facts["columns"])
    return _provenance(facts, path)


def _provenance(facts: Mapping[str, Any], path: str) -> Provenance:
    try:
        identity = ModelIdentity(
            model_id=facts["model_id"],
            fingerprint=facts["fingerprint"],
            preprocess=cast("PreprocessName", facts["preprocess"]),
            embed_dim=int(facts["embed_dim"]),
        )
        dtype: VectorDtype = "float32" if facts["vector_dtype"] == "float32" else "float16"
        return Provenance(identity, dtype, tuple(facts["columns"]), str(facts["version"]))
    except (KeyError, TypeError, ValueError) as err:
        raise ExchangeError(
            f"{path}: what it says about its model cannot be understood: {err!r} is missing or "
            "wrong; export it again, or give --model"
        ) from err


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
