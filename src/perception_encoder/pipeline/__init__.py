"""Bulk work: from a folder of pictures to rows of a table."""

from perception_encoder.pipeline.folder import Outcome, Status, find_pictures, index_folder

__all__ = ["Outcome", "Status", "find_pictures", "index_folder"]
