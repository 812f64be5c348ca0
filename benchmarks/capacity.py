"""What do 100 million and a billion images take? Arithmetic, each figure with where it is from.

    python -m benchmarks.capacity --images 1e8 --model PE-Core-L14-336 --gpu "RTX 4090"
    python -m benchmarks.capacity --images 1e9 --sources camera --days 7
    python -m benchmarks.capacity --write          # the tables of docs/reference/capacity.md
    python -m benchmarks.capacity --measure-rows   # benchmarks/results/rows.json

Every line is one of these:

    measured   by this project; the file of benchmarks/results and the field are named
    published  by others; the source is named
    assumed    nobody has measured it here; change it with an option
    computed   from the lines above it
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.report import RESULTS
from perception_encoder.registry import find

PAGE = Path(__file__).parent.parent / "docs/reference/capacity.md"
MARK = "<!-- written by benchmarks/capacity.py: {} -->"

Kind = Literal["measured", "published", "assumed", "computed"]
Sources = Literal["web", "camera"]

TIMM = "timm's tables, torch 2.9.1, amp, compiled"
_TIMM_RATES = {
    "RTX 4090": (6854, 2931, 3207, 329, 35.3),
    "RTX 5090": (8782, 3784, 4121, 411, 43.8),
    "RTX PRO 6000 Max-Q": (9672, 4088, 4662, 484, 53.0),
}
MODELS = (
    "PE-Core-T16-384",
    "PE-Core-S16-384",
    "PE-Core-B16-224",
    "PE-Core-L14-336",
    "PE-Core-G14-448",
)
GPUS = tuple(_TIMM_RATES)

_BENCH, _GROWTH = "bench.json", "growth.json"
_MEASURED_ROWS = 10_000_000  # the largest index that was measured
_AT = f"sizes/{_MEASURED_ROWS}"
_PREPARED = {  # milliseconds of one core: a photo of 0.7 and of 12 megapixels
    "web": ("metadata.json", "photos without metadata/standard/prepare_ms"),
    "camera": ("metadata.json", "12 MP with EXIF, XMP and IPTC/standard/prepare_ms"),
}
_KB = {"web": 200, "camera": 4000}
_TEXT_MODEL = {"PE-Core-G14-448": "PE-Core-L14-336"}  # bench.json has no texts of G14
_MEASURED_E = 1024  # of the index that was measured
_LANCE = "LanceDB's documentation, IVF_RQ, 1 M × 1,536, recall 0.962"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be indexed and searched; fields without a measurement are assumptions.

    Attributes:
        images: how many.
        model: one of `MODELS`.
        gpu: one of `GPUS`.
        sources: web photos of 0.7 megapixels, or a camera's of 12.
        days: in which the run should be done.
        queries: a second, at the peak.
        bytes_of_vector: 2 for float16, 4 for float32.
        rows_of_index: of one searcher; a larger collection is divided into several indexes.
        growth: the time of a query grows as rows to this power beyond ten million.
    """

    images: float = 1e8
    model: str = "PE-Core-L14-336"
    gpu: str = "RTX 4090"
    sources: Sources = "web"
    days: float = 7
    queries: float = 100
    bytes_of_vector: int = 2
    rows_of_index: float = 1e8
    growth: float = 0.5

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"{self.model!r} is none of {', '.join(MODELS)}")
        if self.gpu not in GPUS:
            raise ValueError(f"{self.gpu!r} is none of {', '.join(GPUS)}")
        if self.sources not in get_args(Sources):
            raise ValueError(f"the sources are web or camera, got {self.sources!r}")
        if self.bytes_of_vector not in (2, 4):
            raise ValueError(f"a number has 2 or 4 bytes, got {self.bytes_of_vector}")
        numbers = (self.images, self.days, self.queries, self.rows_of_index)
        if not all(1 <= one <= 1e13 for one in (*numbers[:1], numbers[3])):
            raise ValueError("images and rows of an index are from 1 to 1e13")
        if not all(0 < one < math.inf for one in numbers) or not 0 <= self.growth <= 1:
            raise ValueError("days and queries are above 0, growth is from 0 to 1")


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    value: float
    unit: str
    kind: Kind
    source: str

    @property
    def shown(self) -> str:
        """The value with its unit, three digits of it."""
        return f"{format_number(self.value)} {self.unit}".strip()


@dataclass
class Capacity:
    """The arithmetic of a plan."""

    plan: Plan
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._embed()
        self._store()
        self._search()

    def value(self, what: str) -> float:
        """Return the value of a line."""
        return next(line.value for line in self.lines if line.what == what)

    def _add(self, what: str, value: float, unit: str, kind: Kind, source: str) -> float:
        self.lines.append(Line(what, value, unit, kind, source))
        return value

    def _measured(
        self, what: str, unit: str, file: str, path: str, *, scale: float = 1.0, note: str = ""
    ) -> float:
        value = read_result(file, path) * scale
        return self._add(what, value, unit, "measured", f"`{file}`: {path}{note}")

    def _embed(self) -> None:
        plan, seconds = self.plan, self.plan.days * 86400
        rate = _TIMM_RATES[plan.gpu][MODELS.index(plan.model)]
        self._add(f"images a second on one {plan.gpu}", rate, "", "published", TIMM)
        hours = plan.images / rate / 3600
        self._add("GPU hours", hours, "h", "computed", "images / rate")
        self._add(
            "GPUs", math.ceil(hours / (plan.days * 24)), "", "computed",
            f"to be done in {plan.days:g} days",
        )  # fmt: skip
        rate = self._cpu_rate()
        self._add(
            "hours of a machine of 2 cores instead", plan.images / rate / 3600, "h", "computed",
            "images / rate",
        )  # fmt: skip
        file, path = _PREPARED[plan.sources]
        prepare = self._measured("decoding and resizing an image, one core", "ms", file, path)
        core_hours = plan.images * prepare / 1000 / 3600
        self._add("core hours of decoding beside the GPUs", core_hours, "h", "computed", "")
        self._add(
            "cores", math.ceil(core_hours / (plan.days * 24)), "", "computed",
            f"to be done in {plan.days:g} days",
        )  # fmt: skip
        size = self._add(
            "bytes of an image", _KB[plan.sources] / 1000, "MB", "assumed",
            "0.7 megapixels" if plan.sources == "web" else "12 megapixels",
        )  # fmt: skip
        self._add("read from the source", plan.images * size / 1e6, "TB", "computed", "")
        self._add(
            "network", plan.images * size * 8 / seconds / 1e3, "Gbit/s", "computed",
            f"for {plan.days:g} days",
        )  # fmt: skip

    def _cpu_rate(self) -> float:
        """The rate of two cores, as it was measured for this model."""
        what, model = "images a second on 2 cores, bf16", self.plan.model
        if model == "PE-Core-B16-224":
            return self._measured(what, "", "encoders.json", _OPENVINO_RATE)
        if model == "PE-Core-G14-448":
            path = f"models/{model}/openvino, image, from the cache/seconds_again"
            rate = 1 / read_result("largest.json", path)
            return self._add(what, rate, "", "measured", f"`largest.json`: 1 / {path}")
        return self._measured(what, "", _BENCH, f"{_row_of(model)}/figures/images_per_second")

    def _store(self) -> None:
        plan, embed_dim = self.plan, find(self.plan.model).config.embed_dim
        assert embed_dim is not None
        width = embed_dim * plan.bytes_of_vector
        dtype = "float16" if plan.bytes_of_vector == 2 else "float32"
        self._add(
            "embedding of a row", width, "bytes", "computed", f"{embed_dim:,} numbers of {dtype}"
        )
        rest = self._measured(
            "the rest of a row: name, sizes, times, SHA-256", "bytes", "rows.json", "bytes_per_row"
        )
        photo = self._measured(
            "metadata of a photo", "bytes", "rows.json", "bytes_of_photo_metadata_per_row"
        )
        self._add(
            "dataset", plan.images * (width + rest + photo) / 1e9, "GB", "computed",
            "thumbnails are not stored",
        )  # fmt: skip
        searcher = self._measured(
            "searcher of a row", "bytes", _GROWTH, f"{_AT}/optimize/searcher_bytes_per_row",
            scale=embed_dim / _MEASURED_E, note=_scaled(embed_dim),
        )  # fmt: skip
        self._add("searcher on a local disk", plan.images * searcher / 1e9, "GB", "computed", "")
        codes = self._add(
            "codes of a row of a quantized index", rabitq_bytes() * embed_dim / _MEASURED_E,
            "bytes", "measured",
            f"`index_experiments.json`: ivf-rabitq, 1,000,000 rows{_scaled(embed_dim)}",
        )  # fmt: skip
        self._add("codes instead, in a bucket", plan.images * codes / 1e9, "GB", "computed", "")
        ingest = self._measured(
            "rows committed a second", "", _GROWTH, f"{_AT}/ingest/rows_per_second"
        )
        self._add("writing the rows", plan.images / ingest / 3600, "h", "computed", "one writer")
        build = self._measured(
            "building the searcher of ten million rows, 2 cores",
            "s",
            _GROWTH,
            f"{_AT}/optimize/build_seconds",
        )
        power = self._add(
            "power of rows in the time of a build",
            build_power(),
            "",
            "measured",
            f"`{_GROWTH}`: from a million to ten million rows",
        )
        per_index = min(plan.images, plan.rows_of_index)
        self._add(
            "building all of it, 2 cores",
            plan.images / per_index * (per_index / _MEASURED_ROWS) ** power * build / 3600,
            "h",
            "assumed",
            "that it goes on like that beyond ten million rows",
        )

    def _search(self) -> None:
        plan = self.plan
        per_index = min(plan.images, plan.rows_of_index)
        num_indexes = math.ceil(plan.images / per_index)
        self._add(
            "indexes, each whole on a machine", num_indexes, "", "computed",
            f"at most {format_number(plan.rows_of_index)} rows in one; an assumption",
        )  # fmt: skip
        own = self._measured(
            "private memory of a replica", "GB", _GROWTH,
            f"{_AT}/query/approximate/private_bytes", scale=1e-9,
        )  # fmt: skip
        mapped = per_index * self.value("searcher of a row") / 1e9
        self._add(
            "memory of a replica that never waits for its disk", own + mapped, "GB", "computed",
            "private, and the searcher in the page cache",
        )  # fmt: skip
        recall = read_result(_GROWTH, f"{_AT}/query/approximate/recall_at_10")
        p50 = self._measured(
            f"a query in ten million rows, recall {recall:.3f}", "ms", _GROWTH,
            f"{_AT}/query/approximate/p50_ms", note=", 2 cores",
        )  # fmt: skip
        slower = max(1.0, per_index / _MEASURED_ROWS) ** plan.growth
        time = self._add(
            "a query in one index", p50 * slower, "ms", "assumed",
            f"as rows to the power of {plan.growth:g}; lists grow as their root",
        )  # fmt: skip
        rate = self._add(
            "queries a second of a replica of 2 cores", 1000 / time, "", "computed",
            "one after the other",
        )  # fmt: skip
        self._add(
            "replicas", num_indexes * math.ceil(plan.queries / rate), "", "computed",
            f"for {plan.queries:g} queries a second, each of which asks every index",
        )  # fmt: skip
        texts = self._measured(
            "texts embedded a second, 2 cores", "", _BENCH,
            f"{_row_of(_TEXT_MODEL.get(plan.model, plan.model))}/figures/texts_per_second",
            note="; of L14, G14 has a larger text tower" if plan.model in _TEXT_MODEL else "",
        )  # fmt: skip
        self._add(
            "machines of 2 cores for the texts of queries", math.ceil(plan.queries / texts), "",
            "computed", "one text in a query",
        )  # fmt: skip
        self._add("Lance's own index, queries a second of a core", 218, "", "published", _LANCE)


_OPENVINO_RATE = "rows/images/backends/ours openvino bf16/rate"


def _scaled(embed_dim: int) -> str:
    return "" if embed_dim == _MEASURED_E else f", × {embed_dim:,} / {_MEASURED_E:,}"


def _row_of(model: str) -> str:
    return f"rows/{[*MODELS[:4]].index(model)}"


@cache
def _load(file: str) -> Any:
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def read_result(file: str, path: str) -> float:
    """Return a figure of a file of results; names and positions are separated by slashes."""
    found = _load(file)
    for name in path.split("/"):
        found = found[int(name)] if isinstance(found, list) else found[name]
    return float(found)


def rabitq_bytes() -> float:
    """Return the bytes of a row in an index of RaBitQ codes, one bit a dimension, and its id."""
    (case,) = [
        one
        for one in _load("index_experiments.json")["cases"]
        if (one["kind"], one["rows"]) == ("ivf-rabitq", 1_000_000)
    ]
    return case["file_bytes"] / case["rows"]


def build_power() -> float:
    """Return the exponent by which the time of building the searcher grew with the rows."""
    large, small = (
        read_result(_GROWTH, f"sizes/{rows}/optimize/build_seconds")
        for rows in (_MEASURED_ROWS, _MEASURED_ROWS // 10)
    )
    return math.log10(large / small)


def format_number(value: float) -> str:
    """Write a number with three digits, but a whole one as it is: 0.0123, 4.56, 1,230, 2,048."""
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if rounded >= size:
            return f"{rounded / size:.3g}{name}"
    written = f"{rounded:,.{max(0, digits)}f}"
    return written.rstrip("0").rstrip(".") if digits > 0 else written


def format_table(lines: list[Line]) -> str:
    """Return the lines as a table of Markdown."""
    rows = [f"| {one.what} | {one.shown} | {one.kind} | {one.source} |" for one in lines]
    return "\n".join(["| | | | from |", "|---|---:|---|---|", *rows])


PAGES = {
    "100 million": Plan(),
    "1 billion": Plan(images=1e9, days=30),
}


def write_tables(page: str) -> str:
    """Return the page with the tables of `PAGES` and of all models between their marks."""
    tables = {name: format_table(Capacity(plan).lines) for name, plan in PAGES.items()}
    tables["models"] = "\n".join(compare_models())
    for name, table in tables.items():
        mark = MARK.format(name)
        before, *rest = page.split(mark)
        if len(rest) != 2:
            raise ValueError(f"the page has no place for {name!r}: two lines {mark}")
        page = f"{before}{mark}\n\n{table}\n\n{mark}{rest[1]}"
    return page


def compare_models() -> Iterator[str]:
    """Yield the lines of a table of all models."""
    names = [one.removeprefix("PE-Core-") for one in MODELS]
    yield f"| 100 million images | {' | '.join(names)} | |"
    yield "|---|" + "---:|" * len(MODELS) + "---|"
    for gpu in GPUS:
        hours = [Capacity(Plan(model=model, gpu=gpu)).value("GPU hours") for model in MODELS]
        yield f"| GPU hours, {gpu} | {' | '.join(map(format_number, hours))} | published rates |"
    plans = [Capacity(Plan(model=model)) for model in MODELS]
    for what in ("hours of a machine of 2 cores instead", "dataset", "searcher on a local disk"):
        values = [next(line.shown for line in plan.lines if line.what == what) for plan in plans]
        yield f"| {what} | {' | '.join(values)} | measured rates and sizes |"


def main() -> None:
    """Print the table of a plan, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    usual = Plan()
    parser.add_argument("--images", type=float, default=usual.images)
    parser.add_argument("--model", choices=MODELS, default=usual.model)
    parser.add_argument("--gpu", choices=GPUS, default=usual.gpu)
    parser.add_argument("--sources", choices=get_args(Sources), default=usual.sources)
    parser.add_argument("--days", type=float, default=usual.days, help="for the run")
    parser.add_argument("--queries", type=float, default=usual.queries, help="a second")
    parser.add_argument("--bytes-of-vector", type=int, choices=(2, 4), default=2)
    parser.add_argument("--rows-of-index", type=float, default=usual.rows_of_index)
    parser.add_argument("--growth", type=float, default=usual.growth, help="exponent of a query")
    parser.add_argument("--write", action="store_true", help=f"write the tables of {PAGE.name}")
    parser.add_argument("--measure-rows", action="store_true", help="measure bytes of a row")
    args = vars(parser.parse_args())
    writes, measures = args.pop("write"), args.pop("measure_rows")
    if measures:
        from benchmarks.row_bytes import measure_rows

        print(measure_rows())
    elif writes:
        PAGE.write_text(write_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        print(PAGE)
    else:
        try:
            plan = Plan(**args)
        except ValueError as err:
            parser.error(str(err))
        print(format_table(Capacity(plan).lines))


if __name__ == "__main__":
    main()
