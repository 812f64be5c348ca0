"""The Arrow schema of an index: column names, types, and the model in its metadata.

Other programs (LanceDB, DuckDB, Ray, Spark) rely on this format: flat columns and one list, the
vector. A change of the format increases `FORMAT` and migrates old indexes.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, cast
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from perception_encoder._version import __version__
from perception_encoder.errors import IndexNotFoundError, IndexStorageError
from perception_encoder.index.rows import MetadataValue, Row, clamp_time
from perception_encoder.index.tiles import TILE_COLUMNS, TILE_OF, TileGrid
from perception_encoder.metadata.photo import COLUMNS
from perception_encoder.metadata.places import PLACE_COLUMNS
from perception_encoder.types import Embeddings, ModelIdentity, PreprocessName

if TYPE_CHECKING:
    import pyarrow as pa

VectorDtype: TypeAlias = Literal["float16", "float32"]

FORMAT: Final = 1
_FORMAT_WITH_TILES: Final = 2  # an older version would take tiles for images
VECTOR: Final = "vector"
ROW_COLUMNS: Final = ("uri", "member", "offset", "width", "height", "bytes", "mtime", "sha256")
"""Columns of every index, named as the fields of `Row`."""

FILE_COLUMNS: Final = (*COLUMNS, *PLACE_COLUMNS)
"""Columns that are filled from the metadata of image files, and names of their places."""

TEXT: Final = "_text"
"""The hidden column of what text queries search; `build_text` derives it from the row."""

_RESERVED: Final = frozenset(("id", *ROW_COLUMNS, VECTOR))
_ADDED_LATER: Final = ("offset", TEXT)
"""Columns that older indexes lack."""

_MAX_TEXT: Final = 20_000  # characters of a row's text
_NUM_FOLDERS: Final = 3
_PARTS_OF_NAMES: Final = re.compile(
    r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])"
    r"|(?<=[A-Z])(?=[A-Z][a-z])"
)
_PREFIX: Final = "perception_encoder."
_READS_METADATA: Final = f"{_PREFIX}reads_metadata"
_SOURCE_COLUMNS: Final = f"{_PREFIX}source_columns"
_TILES: Final = f"{_PREFIX}tiles"
_EARLIER_MODELS: Final = f"{_PREFIX}earlier_models"
_MAX_EARLIER: Final = 20


def index_schema(identity: ModelIdentity, vector_dtype: VectorDtype) -> pa.Schema:
    """Return the schema of an empty index, with its metadata."""
    import pyarrow as pa

    value = pa.float16() if vector_dtype == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("member", pa.string()),
            pa.field("offset", pa.int64()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("bytes", pa.int64()),
            pa.field("mtime", pa.timestamp("ns", tz="UTC")),
            pa.field("sha256", pa.string()),
            pa.field(TEXT, pa.string()),
            pa.field(VECTOR, pa.list_(value, identity.embed_dim), nullable=False),
        ],
        metadata={
            f"{_PREFIX}format": str(FORMAT),
            f"{_PREFIX}model_id": identity.model_id,
            f"{_PREFIX}fingerprint": identity.fingerprint,
            f"{_PREFIX}preprocess": identity.preprocess,
            f"{_PREFIX}embed_dim": str(identity.embed_dim),
            f"{_PREFIX}version": __version__,
        }
        | MetadataChoice().fields(),
    )


LOCATION_COLUMNS: Final = frozenset(("latitude", "longitude", "altitude", "place", "country"))
"""Those of `FILE_COLUMNS` that say where a photo was taken."""


class MetadataChoice(NamedTuple):
    """Whether runs read the metadata of image files, and which columns are not only theirs.

    Attributes:
        reads: whether a run stores what it finds; `pe index --no-metadata` turns it off.
        source_columns: those of `FILE_COLUMNS` that sources, such as tables, gave values for.
            Reading the metadata again fills only their gaps.
    """

    reads: bool = True
    source_columns: frozenset[str] = frozenset()

    @classmethod
    def of(cls, schema: pa.Schema) -> MetadataChoice:
        """Return what an index remembers.

        In an index that was made before files' metadata were read, every column is a source's.
        """
        found = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        if _READS_METADATA not in found:
            return cls(True, frozenset(FILE_COLUMNS) & set(schema.names))
        stored = found.get(_SOURCE_COLUMNS, "")
        return cls(found[_READS_METADATA] != "false", frozenset(filter(None, stored.split(","))))

    def fields(self) -> dict[str, str]:
        """Return the values of the schema's metadata."""
        return {
            _READS_METADATA: str(self.reads).lower(),
            _SOURCE_COLUMNS: ",".join(sorted(self.source_columns)),
        }

    def is_stored(self, schema: pa.Schema) -> bool:
        """Whether an index remembers just this."""
        stored = schema.metadata or {}
        return all(stored.get(k.encode()) == v.encode() for k, v in self.fields().items())


def with_model(
    schema: pa.Schema, identity: ModelIdentity, vector_dtype: VectorDtype, path: str
) -> pa.Schema:
    """Return the schema of an index for the vectors of another model, and remember the former."""
    new = index_schema(identity, vector_dtype)
    names = [f"{_PREFIX}{name}".encode() for name in (*ModelIdentity.__annotations__, "version")]
    earlier = [*earlier_models_of(schema), identity_of(schema, path)][-_MAX_EARLIER:]
    changed = schema.set(schema.get_field_index(VECTOR), new.field(VECTOR))
    return changed.with_metadata(
        (schema.metadata or {})
        | {name: new.metadata[name] for name in names}
        | {_EARLIER_MODELS: json.dumps([asdict(one) for one in earlier])}
    )


def earlier_models_of(schema: pa.Schema) -> list[ModelIdentity]:
    """Return the models that an index had before it was re-embedded, the latest one last."""
    stored = (schema.metadata or {}).get(_EARLIER_MODELS.encode())
    return [] if stored is None else [ModelIdentity(**one) for one in json.loads(stored)]


def tiles_of(schema: pa.Schema) -> TileGrid | None:
    """Return how an index divides images into tiles; None if it does not."""
    stored = (schema.metadata or {}).get(_TILES.encode())
    return None if stored is None else TileGrid.parse(stored.decode())


def tile_fields(tiles: TileGrid) -> tuple[list[pa.Field], dict[str, str]]:
    """Return the columns of an index with tiles, and what its schema's metadata holds of them."""
    import pyarrow as pa

    types = [pa.string(), *[pa.int32()] * (len(TILE_COLUMNS) - 1)]
    fields = [pa.field(*one) for one in zip(TILE_COLUMNS, types, strict=True)]
    return fields, {f"{_PREFIX}format": str(_FORMAT_WITH_TILES), _TILES: str(tiles)}


def identity_of(schema: pa.Schema, path: str) -> ModelIdentity:
    """Return the model of an index.

    Raises:
        IndexNotFoundError: a Lance dataset of another program.
        IndexStorageError: made by a newer version of this package, or damaged.
    """
    found = {
        key.decode(errors="replace").removeprefix(_PREFIX): value.decode(errors="replace")
        for key, value in (schema.metadata or {}).items()
    }
    if "format" not in found or "model_id" not in found:
        raise IndexNotFoundError(
            f"{path} is a Lance index, but not one that `pe index` made; choose another --index"
        )
    try:
        if int(found["format"]) > _FORMAT_WITH_TILES:
            raise IndexStorageError(
                f"{path} was made by perception-encoder {found['version']}, which is newer than "
                f"this one ({__version__}); install that version or a later one"
            )
        identity = ModelIdentity(
            model_id=found["model_id"],
            fingerprint=found["fingerprint"],
            preprocess=cast("PreprocessName", found["preprocess"]),
            embed_dim=int(found["embed_dim"]),
        )
    except (KeyError, ValueError) as err:
        raise _damaged(path, f"{err} is missing or no number") from err
    _check_columns(schema, identity, path)
    return identity


def _check_columns(schema: pa.Schema, identity: ModelIdentity, path: str) -> None:
    """Check that the columns of every index are there.

    Raises:
        IndexStorageError: a column is missing or has another type.
    """
    for field in index_schema(identity, "float16"):
        if field.name in _ADDED_LATER and field.name not in schema.names:
            continue
        found = schema.field(field.name).type if field.name in schema.names else None
        types = (field.type, index_schema(identity, "float32").field(field.name).type)
        if found not in types:
            raise _damaged(path, f"column {field.name!r} is of type {found}")


def _damaged(path: str, reason: str) -> IndexStorageError:
    return IndexStorageError(
        f"{path}: what the index says of itself is damaged ({reason}); bring the folder back from "
        f"a copy, or index anew: pe index FOLDER --index {_another(path)}"
    )


def describe_mismatch(path: str, stored: ModelIdentity, asked: ModelIdentity) -> str:
    """Describe why an index and a model do not match, and the fix."""
    if stored.model_id != asked.model_id:
        return describe_other_model(path, stored, asked.model_id, _described(asked))
    return _mismatch(
        path,
        stored,
        _described(asked),
        "use the weights and settings of then, embed the images of the index again (pe index "
        f"--reembed MODEL --index {shlex.quote(path)}), or make another index: pe index FOLDER "
        f"--index {_another(path)}",
    )


def describe_other_model(
    path: str, stored: ModelIdentity, model_id: str, description: str = ""
) -> str:
    """Describe that an index has another model; of the wanted one, the id is enough."""
    return _mismatch(
        path,
        stored,
        description or model_id,
        f"use the index's model (--model {shlex.quote(stored.model_id)}), change the model of the "
        f"index (pe index --reembed {shlex.quote(model_id)} --index {shlex.quote(path)}), or make "
        f"another index: pe index FOLDER --model {shlex.quote(model_id)} --index {_another(path)}",
    )


def describe_replacement(
    path: str, found: ModelIdentity, opened: ModelIdentity, *, is_reembedded: bool
) -> str:
    """Describe that an open index has another model now, and the fix."""
    if is_reembedded:
        return (
            f"the model of the index at {path} was changed while it was open: it holds vectors of "
            f"{_described(found)} now, no longer of {_described(opened)}; open it again"
        )
    return (
        f"the index at {path} was replaced while it was open: it holds vectors of "
        f"{_described(found)} now, no longer of {_described(opened)}; open it again (a server: "
        "start it again), or put the one of before back"
    )


def vector_dtype_of(schema: pa.Schema) -> VectorDtype:
    """Return the type of an index's vectors."""
    return "float16" if schema.field(VECTOR).type.value_type.bit_width == 16 else "float32"


def can_be_metadata(name: str) -> bool:
    """Whether a metadata column may have this name: not ours, hidden ones or paths."""
    return not (name.lower() in _RESERVED or name[:1] in ("", "_") or "." in name or "`" in name)


def find_new_fields(rows: Sequence[Row], schema: pa.Schema) -> list[pa.Field]:
    """Return the columns that the rows need and the index lacks.

    Raises:
        ValueError: a name that cannot be a column, or values of one name that share no type.
    """
    import pyarrow as pa

    fields = []
    if "offset" not in schema.names and any(row.offset is not None for row in rows):
        fields.append(pa.field("offset", pa.int64()))  # indexes of 0.1.0 lack it
    for name in dict.fromkeys(name for row in rows for name in row.metadata):
        if not can_be_metadata(name):
            raise ValueError(
                f"metadata name {name!r} cannot be a column: it is one of ours, is empty, begins "
                "with '_', or holds '.' or '`'; rename it"
            )
        if name in schema.names:
            continue
        values = [row.metadata.get(name) for row in rows]
        if any(value is not None for value in values):  # of nothing but nulls no type is known
            with _naming_column(name):
                fields.append(pa.field(name, _type_of(values)))
    return fields


def _type_of(values: Sequence[MetadataValue]) -> pa.DataType:
    """Return the type of a new column."""
    import pyarrow as pa

    found = pa.array(values).type
    return pa.timestamp("us") if pa.types.is_timestamp(found) else found


def add_fields(schema: pa.Schema, fields: Sequence[pa.Field]) -> pa.Schema:
    """Append columns to a schema."""
    for field in fields:
        schema = schema.append(field)
    return schema


def to_arrow(rows: Sequence[Row], vectors: Embeddings, schema: pa.Schema) -> pa.Table:
    """Return rows and vectors as a table of the index's columns.

    Raises:
        ValueError: a metadata value does not fit its column's type.
    """
    import pyarrow as pa

    dtype = np.float16 if vector_dtype_of(schema) == "float16" else np.float32
    flat = pa.array(np.ascontiguousarray(vectors, dtype=dtype).reshape(-1))
    columns = []
    for field in schema:
        if field.name == VECTOR:
            column = pa.FixedSizeListArray.from_arrays(flat, field.type.list_size)
        elif field.name == "mtime":
            column = pa.array([clamp_time(row.mtime) for row in rows], pa.int64()).cast(field.type)
        elif field.name == TEXT:
            column = pa.array([build_text(row) for row in rows], field.type)
        elif field.name in _RESERVED:
            column = pa.array([getattr(row, field.name) for row in rows], field.type)
        else:
            with _naming_column(field.name):
                column = pa.array([row.metadata.get(field.name) for row in rows], field.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    """Yield the rows of a batch."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name == "mtime":
            columns[name] = column.cast(pa.int64()).to_pylist()
        elif pa.types.is_timestamp(column.type):  # Python has no nanoseconds
            columns[name] = column.cast(pa.timestamp("us"), safe=False).to_pylist()
        elif name not in ("id", TEXT, VECTOR):
            columns[name] = column.to_pylist()
    metadata_names = [name for name in columns if name not in _RESERVED]
    facts = [name for name in ROW_COLUMNS if name in columns]
    for number in range(batch.num_rows):
        metadata: Mapping[str, MetadataValue] = {
            name: columns[name][number]
            for name in metadata_names
            if columns[name][number] is not None
        }
        yield Row(**{name: columns[name][number] for name in facts}, metadata=metadata)


def build_text(row: Row) -> str:
    """Return what text queries search of a row.

    That is the name of its file with the nearest folders, which say more than the folders above
    them; the parts of a name like `BeachParty2023.jpg`; and all metadata that is text. Of a tile it
    is nothing, as a text finds its image.
    """
    if row.metadata.get(TILE_OF) is not None:
        return ""
    name = row.name
    if name.startswith(("http://", "https://")):
        name = unquote(name)
    *folders, file = [part for part in re.split(r"[/\\]", name) if part] or [""]
    words = [*folders[-_NUM_FOLDERS:], file]
    parts = _PARTS_OF_NAMES.sub(" ", " ".join(words))
    texts = [" ".join(words), *([parts] if parts != " ".join(words) else [])]
    texts += [value for _, value in sorted(row.metadata.items()) if isinstance(value, str)]
    return unicodedata.normalize("NFC", "\n".join(texts)[:_MAX_TEXT])


def find_private_columns(schema: pa.Schema) -> frozenset[str]:
    """Return the columns that say where photos were taken, if the index is to store no metadata.

    An earlier run may have filled them, from the files. Places that a table gave are meant.
    """
    choice = MetadataChoice.of(schema)
    return frozenset() if choice.reads else LOCATION_COLUMNS - choice.source_columns


def without_text(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the hidden column."""
    place = schema.get_field_index(TEXT)
    return schema if place < 0 else schema.remove(place)


def vectors_of(batch: pa.RecordBatch) -> Embeddings:
    """Return a batch's vectors, (R, E) float32."""
    column = batch.column(VECTOR)
    flat: NDArray[np.floating] = column.flatten().to_numpy()
    return flat.reshape(batch.num_rows, column.type.list_size).astype(np.float32)


def _mismatch(path: str, stored: ModelIdentity, asked: str, remedy: str) -> str:
    return (
        f"the index at {path} holds vectors of {_described(stored)}, which cannot be compared "
        f"with vectors of {asked}; {remedy}"
    )


def _another(path: str) -> str:
    return f"{shlex.quote(path)}-2"


def _described(identity: ModelIdentity) -> str:
    return (
        f"{identity.model_id} (weights {identity.fingerprint}, preprocessing "
        f"{identity.preprocess}, {identity.embed_dim} numbers)"
    )


@contextmanager
def _naming_column(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OverflowError) as err:  # what Arrow's conversions raise
        raise ValueError(
            f"metadata {name!r}: the values do not share the column's type ({err}); give every "
            "row the same kind of value, or another name"
        ) from err
