"""Tells by its files what a path holds, so that nobody has to say it."""

import os

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange import clip_retrieval, line_files, parquet_file
from perception_encoder.index.exchange.streams import Incoming


def open_source(path: str | os.PathLike[str]) -> Incoming:
    """Open what `export_table`, or another program, wrote in one of the layouts.

    Raises:
        ExchangeError: nothing is there, its layout is unknown, or it cannot be read.
    """
    path = os.path.abspath(path)
    try:
        if os.path.isfile(path):
            return parquet_file.open_file(path)
        if os.path.isdir(os.path.join(path, "img_emb")):
            return clip_retrieval.open_folder(path)
        for layout, name in line_files.VECTORS.items():
            if os.path.isfile(os.path.join(path, name)):
                return line_files.open_folder(path, layout)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as err:  # numpy's, Arrow's
        raise ExchangeError(f"{path} cannot be read: {err}") from err
    raise ExchangeError(
        f"{path}: neither a Parquet file nor a folder with img_emb/ and metadata/, vectors.npy and "
        "rows.jsonl, or vectors.faiss and rows.jsonl"
    )
