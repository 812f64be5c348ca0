"""Where images come from: folders, lists, archives, tables, object stores and the web.

Every source lists items lazily, in an order that stays the same; nothing of an image is read
before its item's `read` is called. `read_image` reads an indexed one again. Names come when they
are used: a query of words reads no images.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.sources.access import StoredImage
    from perception_encoder.sources.item import Item, Source, SourceOptions
    from perception_encoder.sources.open import load_image, open_image, open_sources, read_image

__getattr__ = lazily(
    __name__,
    {
        "Item": "perception_encoder.sources.item",
        "Source": "perception_encoder.sources.item",
        "SourceOptions": "perception_encoder.sources.item",
        "StoredImage": "perception_encoder.sources.access",
        "load_image": "perception_encoder.sources.open",
        "open_image": "perception_encoder.sources.open",
        "open_sources": "perception_encoder.sources.open",
        "read_image": "perception_encoder.sources.open",
    },
)

__all__ = [
    "Item",
    "Source",
    "SourceOptions",
    "StoredImage",
    "load_image",
    "open_image",
    "open_sources",
    "read_image",
]
