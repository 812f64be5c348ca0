"""Images to pixels and texts to token ids, without torch."""

from perception_encoder.preprocess.crops import CropBox, CropInput, crop_image
from perception_encoder.preprocess.decode import DEFAULT_MAX_PIXELS, ImageInput, decode_image
from perception_encoder.preprocess.images import ImageProcessor, num_usable_cores, split_batch

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "CropBox",
    "CropInput",
    "ImageInput",
    "ImageProcessor",
    "crop_image",
    "decode_image",
    "num_usable_cores",
    "split_batch",
]
