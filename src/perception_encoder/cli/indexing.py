"""`pe index`: bring folders of pictures into a table."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    PreprocessOption,
    TableOption,
    open_model,
    table_path,
)
from perception_encoder.cli.output import say, write_json


def index(
    sources: Annotated[list[Path], typer.Argument(help="Folders, searched with all below them.")],
    db: TableOption = None,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    preprocess: PreprocessOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed the pictures of folders into a table, and skip what it has already.

    Unchanged files are not read again, copies reuse their vector, a bad file is reported and the
    others go on. The exit code is 1 where any failed.

    Example:
        pe index ~/Pictures --db pictures.lance
    """
    from tqdm import tqdm

    from perception_encoder.index import Index
    from perception_encoder.pipeline import find_pictures, index_folder

    files = list(find_pictures(sources))
    if not files:
        raise typer.BadParameter(f"no pictures in {', '.join(map(str, sources))}")
    loaded = open_model(
        model, device=device, backend=backend, precision=precision, preprocess=preprocess
    )
    path = table_path(db)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Index.open_or_create(path, loaded.identity)
    started = time.monotonic()
    counts: Counter[str] = Counter()
    with tqdm(total=len(files), unit=" pictures", disable=None) as bar:
        for outcome in index_folder(loaded, table, files):
            counts[outcome.status] += 1
            if outcome.status == "failed":
                bar.write(f"pe: {outcome.reason}", file=sys.stderr)
            if as_json:
                write_json({"uri": outcome.uri, "status": outcome.status, "reason": outcome.reason})
            bar.update()
    seconds = time.monotonic() - started
    listed = ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
    say(f"{path}: {listed}; {table.count()} pictures in the table; {seconds:.1f} s")
    if counts["failed"]:
        raise typer.Exit(1)
