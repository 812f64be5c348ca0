"""How far a run is: plain numbers that the run writes and whoever shows them reads."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """Counts of one run.

    Attributes:
        num_listed: items that the sources have named so far.
        is_listing: whether they are still naming.
        counts: items that are done, by status.
        num_failed_before: of those that failed, how many were not read again: they failed in an
            earlier run and have not changed.
        decode_seconds: spent reading, decoding and resizing, all threads together.
        encode_seconds: spent in the model, all calls together.
        notes: what a person should know of the run as a whole, such as rows that were not pruned.
    """

    num_listed: int = 0
    is_listing: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    num_failed_before: int = 0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """Items of the sources that have their outcome."""
        return self.counts.total() - self.counts["vanished"] - self.counts["pruned"]
