"""`--rerank` of `pe search`: a second model orders the best hits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder.cli.hits import SearchFlags, TextFlags
from perception_encoder.cli.options import complete_model, open_model
from perception_encoder.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index
    from perception_encoder.search.calibration import Calibration
    from perception_encoder.search.grammar import QueryTerm
    from perception_encoder.search.queries import Query
    from perception_encoder.search.ranking import SearchOptions, SearchResult
    from perception_encoder.search.reranking import RerankProgress, RerankReport

_USUAL: Final = 100  # candidates, as `search.reranking` has it
_MAX_SHOWN: Final = 5  # images that could not be read


@dataclass(frozen=True, slots=True)
class RerankFlags:
    """The options that have a second model order the hits."""

    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Order the best hits anew by this model, which reads their images.",
        ),
    ] = None
    candidates: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help=f"Number of hits that --rerank orders [{_USUAL}]."),
    ] = None

    def __bool__(self) -> bool:
        return self.rerank is not None

    def check(self, texts: TextFlags, flags: SearchFlags) -> None:
        """Refuse options that do not go together.

        Raises:
            typer.BadParameter: they do not.
        """
        if self.rerank is None and self.candidates is not None:
            raise typer.BadParameter("--candidates goes with --rerank")
        if self.rerank is not None and texts.text is not None:
            raise typer.BadParameter(
                "--rerank orders hits by their images alone: leave out --text, or filter by --where"
            )
        wanted = max(flags.k, flags.offset + 1)  # a last page may be shorter
        if self.rerank is not None and wanted > (self.candidates or _USUAL):
            raise typer.BadParameter(
                f"-k and --offset ask for {wanted:,} hits; write --candidates {wanted} or more"
            )


@dataclass(frozen=True)
class Reranker:
    """A second model, and what it orders."""

    index: Index
    model: EmbeddingModel
    options: SearchOptions
    candidates: int

    @classmethod
    def open(
        cls, index: Index, flags: RerankFlags, options: SearchOptions, device: str
    ) -> Reranker:
        """Open the model.

        Raises:
            QueryError: it is the index's own.
        """
        from perception_encoder.search.reranking import check_reranking

        assert flags.rerank is not None
        model = open_model(flags.rerank, device=device)
        candidates = flags.candidates or _USUAL
        check_reranking(index, model.identity, options, candidates)
        return cls(index, model, options, candidates)

    def open_model(self) -> EmbeddingModel:
        """Return the model."""
        return self.model

    def read(self, terms: Sequence[QueryTerm], read_stdin: Callable[[], bytes]) -> Query:
        """Embed a query."""
        from perception_encoder.search.queries import read_queries

        return read_queries(
            self.index, [terms], self.open_model, read_stdin=read_stdin, by_index_model=False
        )[0]

    def search(
        self,
        queries: Sequence[Query],
        second: Sequence[Query],
        *,
        calibration: Calibration | None,
        leave_out_own: bool,
    ) -> list[list[SearchResult]]:
        """Search for each query, and report what was reranked.

        Args:
            queries: embedded by the index's model.
            second: the same, embedded by this one.
            calibration: of the index, for a threshold that is a label.
            leave_out_own: as in `search_index`.
        """
        from perception_encoder.cli.progress import show_steps
        from perception_encoder.search.reranking import Reranking, rerank_search

        answers = []
        for query, other in zip(queries, second, strict=True):
            with show_steps(f"reranking with {self._name}") as report_step:
                found, report = rerank_search(
                    self.index,
                    query,
                    Reranking(self.model, other, self.candidates, partial(self._show, report_step)),
                    self.options,
                    calibration=calibration,
                    leave_out_own=leave_out_own,
                )
            answers.append(found)
            self._report(report)
        return answers

    @property
    def _name(self) -> str:
        return self.model.config.id.removeprefix("perception-encoder/")

    def _show(self, report_step: Callable[[str, int, int], None], done: RerankProgress) -> None:
        from perception_encoder.cli.progress import format_clock

        left = f", about {format_clock(done.seconds_left)} left" if done.seconds_left >= 1 else ""
        report_step(f"reranking with {self._name}{left}", done.num_done, done.num_images)

    def _report(self, report: RerankReport) -> None:
        from perception_encoder.cli.progress import format_clock

        images = "1 image" if report.num_embedded == 1 else f"{report.num_embedded:,} images"
        parts = [f"{images} embedded in {format_clock(report.seconds)}"]
        parts += [f"{report.num_cached:,} known"] if report.num_cached else []
        num_failed = len(report.failures)
        parts += [f"{num_failed:,} not readable, which come last"] if num_failed else []
        say(f"reranked {report.num_candidates:,} hits with {self._name}: {', '.join(parts)}")
        say(*(f"  {message}" for message in report.failures[:_MAX_SHOWN]))
        if num_failed > _MAX_SHOWN:
            say(f"  … and {num_failed - _MAX_SHOWN:,} more")
