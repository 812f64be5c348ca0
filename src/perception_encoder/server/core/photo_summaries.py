"""Summaries of photos by time and place: counts by month, and points on a map; videos as a whole.

They read two or three narrow columns of an index, and have a bounded size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import QueryError
from perception_encoder.search.photo_filters import PLACE, TAKEN_AT, check_column
from perception_encoder.server.core.indexes import ServedIndex

if TYPE_CHECKING:
    import pyarrow as pa

Unit: TypeAlias = Literal["day", "month", "year"]

MAX_PERIODS: Final = 20_000
MAX_POINTS: Final = 2_000
_MOMENT: Final = ("frame_time", "start")  # columns that only moments of videos have
_FORMATS: Final[dict[Unit, str]] = {"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}


def where_whole_videos(served: ServedIndex, where: str | None) -> str | None:
    """Return a condition that of each video only the first moment meets, and all images."""
    kinds = served.kinds()
    if any(kinds.get(name) != "number" for name in _MOMENT):
        return where
    first = f"(`{_MOMENT[0]}` IS NULL OR `{_MOMENT[1]}` = 0)"
    return first if where is None else f"({where}) AND {first}"


def count_moments(served: ServedIndex) -> dict[str, int]:
    """Return how many moments each video has, by its URI.

    Raises:
        IndexStorageError: the index cannot be read.
    """
    index = served.fresh()
    if _MOMENT[0] not in index.schema.names:
        return {}
    found = Counter[str]()
    for batch in index.scan(["uri"], where=f"`{_MOMENT[0]}` IS NOT NULL"):
        found.update(batch["uri"].to_pylist())
    return dict(found)


def count_periods(served: ServedIndex, where: str | None, unit: Unit) -> dict[str, Any]:
    """Count the photos of each day, month or year, the earliest first; empty periods are left out.

    Raises:
        QueryError: the index has no `taken_at`, the condition is wrong, or there are more than
            `MAX_PERIODS`.
        IndexStorageError: the index cannot be read.
    """
    index = served.fresh()
    check_column(index.schema, TAKEN_AT, served.path)
    counts, undated = tally_periods(
        (b[TAKEN_AT] for b in index.scan([TAKEN_AT], where=where)), unit
    )
    if len(counts) > MAX_PERIODS:
        raise QueryError(
            f"there are photos of {len(counts):,} {unit}s, and {MAX_PERIODS:,} is the limit; ask "
            "for months or years, or with since and until"
        )
    return {
        "index": served.name,
        "unit": unit,
        "periods": [{"period": period, "count": count} for period, count in counts.items()],
        "total": sum(counts.values()) + undated,
        "undated": undated,
    }


def tally_periods(columns: Iterable[pa.Array], unit: Unit) -> tuple[dict[str, int], int]:
    """Return how many times of the columns are in each period, in order, and the nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    undated = 0
    starts, numbers = [pa.array([], pa.timestamp("s"))], [pa.array([], pa.int64())]
    for column in columns:
        undated += column.null_count
        found = pc.floor_temporal(column.drop_null(), unit=unit).value_counts()
        starts.append(found.field("values").cast(pa.timestamp("s"), safe=False))
        numbers.append(found.field("counts"))
    table = pa.table({"start": pa.chunked_array(starts), "count": pa.chunked_array(numbers)})
    total = table.group_by("start").aggregate([("count", "sum")]).sort_by("start")
    names = pc.strftime(total["start"], _FORMATS[unit]).to_pylist()
    return dict(zip(names, total["count_sum"].to_pylist(), strict=True)), undated


@dataclass(frozen=True, slots=True)
class Bounds:
    """A part of the world, in degrees; where west is greater than east it spans the date line.

    Raises:
        QueryError: it is no part of the world.
    """

    south: float = -90.0
    west: float = -180.0
    north: float = 90.0
    east: float = 180.0

    def __post_init__(self) -> None:
        is_valid = -90 <= self.south < self.north <= 90
        if not (is_valid and -180 <= self.west <= 180 and -180 <= self.east <= 180):
            raise QueryError(
                "bounds are south,west,north,east in degrees, with south below north, such as "
                f"47,11,48,12; got {self.south:g},{self.west:g},{self.north:g},{self.east:g}"
            )

    @classmethod
    def parse(cls, text: str) -> Bounds:
        """Read `south,west,north,east`.

        Raises:
            QueryError: it is written differently.
        """
        try:
            south, west, north, east = map(float, text.split(","))
        except ValueError:
            raise QueryError(
                f"{text[:60]!r} are no bounds; write south,west,north,east in degrees"
            ) from None
        return cls(south, west, north, east)

    @property
    def width(self) -> float:
        """Degrees from west to east, above 0."""
        width = self.east - self.west
        return width if width > 0 else width + 360

    def condition(self) -> str | None:
        """Return the condition that a photo is there; None for the whole world."""
        if self == Bounds():
            return None
        latitude, longitude = PLACE
        join = "AND" if self.west < self.east else "OR"
        return (
            f"`{latitude}` >= {self.south!r} AND `{latitude}` <= {self.north!r} AND "
            f"(`{longitude}` >= {self.west!r} {join} `{longitude}` <= {self.east!r})"
        )


def bin_locations(
    served: ServedIndex, where: str | None, bounds: Bounds, resolution: int
) -> dict[str, Any]:
    """Count photos in the cells of a grid, the fullest cells first.

    Args:
        served: the index.
        where: a condition on its columns.
        bounds: the part of the world.
        resolution: cells along the longer side.

    Raises:
        QueryError: the index has no coordinates, or the condition is wrong.
        IndexStorageError: the index cannot be read.
    """
    index = served.fresh()
    for column in PLACE:
        check_column(index.schema, column, served.path)
    inside = bounds.condition()
    asked = inside if where is None else where if inside is None else f"({where}) AND {inside}"
    cell = max(bounds.width, bounds.north - bounds.south) / resolution
    ids, places = _read_places(index.scan(["id", *PLACE], where=asked))
    grid = np.floor(
        np.stack([places[:, 0] - bounds.south, (places[:, 1] - bounds.west) % 360], axis=1) / cell
    ).astype(np.int64)
    num_columns = resolution + 1  # the last holds what is exactly on the eastern edge
    keys = grid[:, 0] * num_columns + grid[:, 1]
    all_counts = np.bincount(keys)
    found = np.flatnonzero(all_counts)
    order = found[np.argsort(-all_counts[found], kind="stable")[:MAX_POINTS]]
    counts = all_counts[order]
    firsts = np.empty(len(all_counts), np.int64)
    firsts[keys[::-1]] = np.arange(len(keys) - 1, -1, -1)  # of several the first is written last
    latitudes = np.bincount(keys, places[:, 0])[order] / counts
    # Means are of the distance from the west, so that the date line divides no cell.
    easts = np.bincount(keys, (places[:, 1] - bounds.west) % 360)[order]
    longitudes = (bounds.west + easts / counts + 180) % 360 - 180
    examples = ids.take(firsts[order]).to_pylist()
    return {
        "index": served.name,
        "cell": cell,
        "total": len(keys),
        "points": [
            {"latitude": latitude, "longitude": longitude, "count": count, "item": item}
            for latitude, longitude, count, item in zip(
                latitudes.round(6).tolist(),
                longitudes.round(6).tolist(),
                counts.tolist(),
                examples,
                strict=True,
            )
        ],
        "has_more": len(found) > len(order),
    }


def _read_places(batches: Iterable[pa.RecordBatch]) -> tuple[pa.ChunkedArray, NDArray[np.float64]]:
    """Return the ids and the (N, 2) coordinates of the rows that have any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids, places = [pa.array([], pa.string())], [np.empty((0, 2))]
    for batch in batches:
        latitude, longitude = (batch[name].cast(pa.float64()) for name in PLACE)
        is_placed = pc.and_kleene(
            pc.and_kleene(pc.less_equal(pc.abs(latitude), 90), pc.is_valid(longitude)),
            pc.less_equal(pc.abs(longitude), 180),
        ).fill_null(False)
        ids.append(batch["id"].filter(is_placed))
        places.append(
            np.stack([one.filter(is_placed).to_numpy() for one in (latitude, longitude)], axis=1)
        )
    return pa.chunked_array(ids), np.concatenate(places)
