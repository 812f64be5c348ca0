"""Where pictures come from: folders, lists, archives, tables, object stores and the web.

Every source lists items lazily, in an order that stays the same; nothing of a picture is read
before its item's `read` is called. `read_picture` reads an indexed one again. Names come when they
are used: a query of words reads no pictures.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.pipeline.sources.files import StoredImage
    from perception_encoder.pipeline.sources.item import Item, Source
    from perception_encoder.pipeline.sources.open import open_sources
    from perception_encoder.pipeline.sources.options import SourceOptions
    from perception_encoder.pipeline.sources.read import open_picture, read_picture

__getattr__ = lazily(
    __name__,
    {
        "Item": "perception_encoder.pipeline.sources.item",
        "Source": "perception_encoder.pipeline.sources.item",
        "SourceOptions": "perception_encoder.pipeline.sources.options",
        "StoredImage": "perception_encoder.pipeline.sources.files",
        "open_picture": "perception_encoder.pipeline.sources.read",
        "open_sources": "perception_encoder.pipeline.sources.open",
        "read_picture": "perception_encoder.pipeline.sources.read",
    },
)

__all__ = [
    "Item",
    "Source",
    "SourceOptions",
    "StoredImage",
    "open_picture",
    "open_sources",
    "read_picture",
]
