"""`pe demo`: index and search the bundled images, without network."""

from __future__ import annotations

import time
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Final

import typer

from perception_encoder.cli.options import open_model
from perception_encoder.cli.output import check_text_name, format_images, say, write_line

_QUERIES: Final[tuple[tuple[str, ...], ...]] = (
    ("red heart",),
    ("an animal",),
    ("umbrella above a dog",),
    ("@cat.webp",),
    ("@yellow-heart.webp", "+", "purple"),
)
_NUM_HITS: Final = 5


def demo(
    folder: Annotated[
        Path, typer.Argument(help="Folder for the index and the contact sheet.")
    ] = Path("demo"),
) -> None:
    """Index and search the bundled images, without network, and draw the hits.

    Example:
        pe demo && open demo/hits.png
    """
    from perception_encoder.analysis import SheetHit, SheetRow, save_contact_sheet
    from perception_encoder.index import Index
    from perception_encoder.indexing import Run
    from perception_encoder.search import SearchOptions, read_queries
    from perception_encoder.search.grammar import parse_query
    from perception_encoder.search.ranking import search_index
    from perception_encoder.sources import SourceOptions, open_sources

    started = time.monotonic()
    check_text_name(str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    index_folder, sheet = folder / "gallery.lance", folder / "hits.png"
    with as_file(files("perception_encoder").joinpath("data/gallery")) as gallery:
        model = open_model("pe-nano")
        say(f"{model} opened in {time.monotonic() - started:.1f} s")
        index = Index.open_or_create(index_folder, model.identity)
        began = time.monotonic()
        run = Run(model, index, open_sources([str(gallery)], SourceOptions()))
        counts = Counter(outcome.status for outcome in run.outcomes())
        listed = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        say(f"images of the gallery: {listed} in {time.monotonic() - began:.1f} s")
        say(f"{index_folder}: an index of {format_images(index.count())}")
        queries = read_queries(index, [parse_query(words) for words in _QUERIES], lambda: model)
        answers = search_index(index, queries, SearchOptions(k=_NUM_HITS), leave_out_own=True)
        rows = []
        for terms, query, found in zip(_QUERIES, queries, answers, strict=True):
            write_line("", " ".join(terms))
            hits = [SheetHit(one.hit.uri, one.hit.score, Path(one.hit.uri).stem) for one in found]
            for hit in hits:
                write_line(f"  {hit.score:.3f}  {hit.label}")
            rows.append(SheetRow(hits, text=query.text, image=query.image))
        save_contact_sheet(rows, sheet)
    seconds = time.monotonic() - started
    say("", f"{sheet}: the queries and their hits; {seconds:.1f} s in all")
