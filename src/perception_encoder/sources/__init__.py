"""Where images come from: folders, lists, archives, tables, object stores and the web.

Every source lists its items lazily and always in the same order. An image is read when its item's
`read` is called; `read_image` reads the image of a row again. Modules are imported on first use.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.sources.access import StoredImage
    from perception_encoder.sources.item import Item, Source, SourceOptions
    from perception_encoder.sources.open import (
        load_image,
        open_image,
        open_named_image,
        open_sources,
        read_image,
    )

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
        "open_named_image": "perception_encoder.sources.open",
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
    "open_named_image",
    "open_sources",
    "read_image",
]
