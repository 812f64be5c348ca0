"""Exports an index to files of other programs, and imports them: clip-retrieval, Parquet, npy.

Rows and vectors are read and written together in blocks, so memory is bounded.
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
