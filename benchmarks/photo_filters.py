"""How long timelines, maps and filters of photos take in an index of a million rows.

    python -m benchmarks.photo_filters [ROWS] [FOLDER]

Rows and vectors are synthetic (16 dimensions, so that the columns are what is measured): a fifth of
the photos has no time, half have a place in one of 200 towns. Each figure is the fastest of nine
calls in one process; the first page of a listing sorts it, later pages are cut from it.
"""

import datetime
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import write_report
from perception_encoder.index import Index, Row
from perception_encoder.search.photo_filters import PhotoFilter
from perception_encoder.server.core.facets import list_facets
from perception_encoder.server.core.indexes import Listing, ServedIndex
from perception_encoder.server.core.photo_summaries import Bounds, bin_locations, count_periods
from perception_encoder.types import ModelIdentity

EMBED_DIM = 16
BLOCK = 50_000
CAMERAS = ("Canon EOS R5", "NIKON Z 6", "Apple iPhone 15 Pro", "SONY ILCE-7M4")


def build(path: Path, num_rows: int) -> None:
    """Write an index of synthetic photos."""
    rng = np.random.default_rng(0)
    index = Index.create(path, ModelIdentity("synthetic", "0" * 16, "standard", EMBED_DIM))
    towns = np.stack([rng.uniform(-60, 70, 200), rng.uniform(-180, 180, 200)], axis=1)
    first = datetime.datetime(2005, 1, 1)
    for start in range(0, num_rows, BLOCK):
        count = min(BLOCK, num_rows - start)
        vectors = rng.standard_normal((count, EMBED_DIM)).astype(np.float32)
        seconds = rng.uniform(0, 20 * 365 * 86_400, count)
        places = towns[rng.integers(0, len(towns), count)] + rng.normal(0, 0.05, (count, 2))
        chances = rng.random((count, 2))
        rows = []
        for number in range(count):
            metadata: dict[str, str | float | datetime.datetime] = {
                "camera": CAMERAS[number % len(CAMERAS)]
            }
            if chances[number, 0] > 0.2:
                metadata["taken_at"] = first + datetime.timedelta(seconds=round(seconds[number]))
            if chances[number, 1] > 0.5:
                metadata["latitude"], metadata["longitude"] = places[number].tolist()
            rows.append(Row(f"/photos/{start + number:07}.jpg", metadata=metadata))
        index.append(rows, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    index.optimize()


def milliseconds(call: Callable[[], object], times: int = 9) -> float:
    """Return the time of the fastest call."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    return round(min(taken), 1)


def measure(path: Path) -> dict[str, float]:
    """Return the figures of one index, in milliseconds."""
    served = ServedIndex("photos", str(path))
    index = served.index
    query = np.eye(1, EMBED_DIM, dtype=np.float32)

    def where(**asked: str) -> str:
        condition = PhotoFilter.parse(**asked).where(None, index.schema, index.path)
        assert condition is not None
        return condition

    newest = Listing(None, "taken_at", descending=True)

    def sort_anew() -> object:
        return ServedIndex("photos", str(path)).page(newest, 0, 50)

    year, town = where(since="2015", until="2015"), where(near="48,11,500km")
    figures = {}
    figures["items_by_taken_at_first_page"] = milliseconds(sort_anew)
    middle = index.count() // 2
    figures["items_by_taken_at_later_page"] = milliseconds(lambda: served.page(newest, middle, 50))
    for unit in ("year", "month", "day"):
        figures[f"timeline_{unit}"] = milliseconds(lambda u=unit: count_periods(served, None, u))
    figures["timeline_month_near"] = milliseconds(lambda: count_periods(served, town, "month"))
    figures["locations_world"] = milliseconds(lambda: bin_locations(served, None, Bounds(), 64))
    part = Bounds(40, 0, 50, 20)
    figures["locations_part"] = milliseconds(lambda: bin_locations(served, None, part, 64))
    figures["facets_of_all_columns"] = milliseconds(lambda: list_facets(served), 3)
    for name, condition in (
        ("none", None),
        ("year", year),
        ("near", town),
        ("camera", where(camera="nikon")),
    ):
        figures[f"search_where_{name}"] = milliseconds(
            lambda w=condition: index.search(query, k=10, where=w)
        )
    return figures


def main() -> None:
    """Measure, and write the figures."""
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(sys.argv[2] if len(sys.argv) > 2 else temporary) / "photos.lance"
        if not path.exists():
            build(path, num_rows)
        figures = measure(path)
    print(
        write_report(
            "photo_filters",
            "How long do timelines, maps and filters of photos take?",
            ("pylance", "pyarrow", "numpy", "perception-encoder"),
            {"rows": num_rows, "milliseconds": figures},
        )
    )


if __name__ == "__main__":
    main()
