"""From files and words to the arrays a model reads: pixels and token ids. Imports no torch."""

from perception_encoder.preprocess.decode import DEFAULT_MAX_PIXELS, ImageInput, decode_image
from perception_encoder.preprocess.images import ImageProcessor, split_batch
from perception_encoder.preprocess.threads import num_usable_cores

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "ImageInput",
    "ImageProcessor",
    "decode_image",
    "num_usable_cores",
    "split_batch",
]
