"""Where pictures come from: folders, files, globs and lists of names.

Every source lists items lazily, in an order that stays the same; nothing of a picture is read
before its item's `read` is called.
"""

from perception_encoder.pipeline.sources.item import Item, Source
from perception_encoder.pipeline.sources.open import open_sources
from perception_encoder.pipeline.sources.options import SourceOptions

__all__ = ["Item", "Source", "SourceOptions", "open_sources"]
