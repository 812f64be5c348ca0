"""`pe demo`: the main job end to end on the bundled images, without network."""

import time
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli.options import open_model
from perception_encoder.cli.output import check_text_name, say, write_line

_QUERIES: tuple[tuple[str, ...], ...] = (
    ("red heart",),
    ("an animal",),
    ("umbrella above a dog",),
    ("@cat.webp",),
    ("@yellow-heart.webp", "+", "purple"),
)
_HITS = 5


def demo(
    folder: Annotated[
        Path, typer.Argument(help="Where the index and the image of the hits are written.")
    ] = Path("demo"),
) -> None:
    """Index and search the bundled images, without network, and draw the hits."""
    from perception_encoder.analysis import SheetHit, SheetRow, save_contact_sheet
    from perception_encoder.index import Index
    from perception_encoder.indexing import Run
    from perception_encoder.search import SearchOptions, read_queries
    from perception_encoder.search.grammar import parse_query
    from perception_encoder.search.ranking import search
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
        say(f"{index_folder}: {index.count()} vectors in a Lance index")
        queries = read_queries(index, [parse_query(words) for words in _QUERIES], lambda: model)
        answers = search(index, queries, SearchOptions(k=_HITS), leave_out_own=True)
        rows = []
        for words, query, found in zip(_QUERIES, queries, answers, strict=True):
            write_line("", " ".join(words))
            hits = [SheetHit(f.hit.uri, f.hit.score, Path(f.hit.uri).stem) for f in found]
            for hit in hits:
                write_line(f"  {hit.score:.3f}  {hit.label}")
            rows.append(SheetRow(hits, text=query.text, image=query.image))
        save_contact_sheet(rows, sheet)
    seconds = time.monotonic() - started
    say("", f"{sheet}: the queries and their hits; {seconds:.1f} s in all")
