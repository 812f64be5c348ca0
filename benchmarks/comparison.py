"""Measures backends in turns and says how they stand to each other and to the machine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.backend_process import Backend, Measured, Spec, Task, measure, open_backends
from benchmarks.random_models import Place

KINDS = ("ours", "default", "best")


def compared(
    place: Place, specs: Sequence[Spec], task: Task, rounds: int, agreement: str = ""
) -> dict[str, Any]:
    """Measure a row and say how the backends of this package stand to those of the peer."""
    backends, unavailable = open_backends(specs)
    try:
        results = measure(specs, backends, task, rounds, unavailable)
        found = {label: backends[label] for label in results}
        cosines = agreements(place, found, agreement) if agreement else {}
        machine = machine_rates(found)
    finally:
        for backend in backends.values():
            backend.close()
    ends = {kind: [m for m in results.values() if m.spec.kind == kind] for kind in KINDS}
    peers = [*ends["default"], *ends["best"]]
    best = max(peers, key=lambda measured: measured.rate, default=None)
    return {
        "backends": {
            label: {
                "rate": measured.rate,
                "ms_of_one": 1000 / measured.rate,
                "size": measured.size,
                "rates": measured.rates,
                "versions": measured.versions,
                **({"over_default": measured.over(d)} if (d := first(ends["default"])) else {}),
                **({"over_best": measured.over(best)} if best is not None else {}),
                **({"cosine_with_default": cosines[label]} if label in cosines else {}),
            }
            for label, measured in results.items()
        },
        "unavailable": unavailable,
        "machine": machine,
    }


def with_fractions(row: dict[str, Any], operations: int) -> dict[str, Any]:
    """Add the share of the machine's rate that each backend reached, by the precision in its name.

    Operations are those that an item needs: columns of padding that a backend computes besides do
    not count in its favor.
    """
    for label, figures in row["backends"].items():
        rate = row["machine"].get(label.rsplit(" ", 1)[-1])
        if rate:
            figures["fraction_of_machine"] = figures["rate"] * operations / rate
    return row | {"operations_of_an_item": operations}


def first(found: Sequence[Measured]) -> Measured | None:
    """The only one of its kind, where there is one."""
    return found[0] if found else None


def machine_rates(backends: Mapping[str, Backend]) -> dict[str, float]:
    """Operations a second of torch's own products, measured after the rounds."""
    for label, backend in backends.items():
        if label.startswith("ours"):
            rates = {name: backend.ask("matrix_rate", name) for name in ("fp32", "bf16", "int8")}
            return {name: rate for name, rate in rates.items() if rate}
    return {}


def agreements(place: Place, backends: Mapping[str, Backend], what: str) -> dict[str, float]:
    """Lowest cosine of each backend's vectors with those of open_clip in fp32, same weights."""
    vectors = {}
    for label, backend in backends.items():
        if label.startswith("timm"):
            continue
        path = place.work / "vectors.npz"
        backend.ask("vectors", str(path))
        with np.load(path) as arrays:
            rows = arrays[what].astype(np.float64)
        vectors[label] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    reference = vectors.get("open_clip fp32")
    if reference is None:
        return {}
    return {label: float((rows * reference).sum(axis=1).min()) for label, rows in vectors.items()}
