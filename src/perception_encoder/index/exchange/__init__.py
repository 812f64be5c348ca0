"""Indexes into other programs' files and back: clip-retrieval's folders, Parquet, npy, faiss.

Everything goes through in blocks, vectors and what is known of them side by side, so memory is
bounded and the two cannot get out of step.
"""

from perception_encoder.index.exchange.import_export import (
    LAYOUTS,
    ImportReport,
    Layout,
    export_index,
    import_index,
    open_source,
)

__all__ = ["LAYOUTS", "ImportReport", "Layout", "export_index", "import_index", "open_source"]
