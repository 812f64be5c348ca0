"""Frames of video files, decoded in a child process, and the segments that they form.

Knows files and frames; models, sources and indexes are unknown here. PyAV (extra `video`) is
imported in the child process only.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.video.decoder import SampledVideo, VideoDecoder, read_frame
    from perception_encoder.video.segments import VideoSegment, find_segments

__getattr__ = lazily(
    __name__,
    {
        "SampledVideo": "perception_encoder.video.decoder",
        "VideoDecoder": "perception_encoder.video.decoder",
        "VideoSegment": "perception_encoder.video.segments",
        "find_segments": "perception_encoder.video.segments",
        "read_frame": "perception_encoder.video.decoder",
    },
)

__all__ = ["SampledVideo", "VideoDecoder", "VideoSegment", "find_segments", "read_frame"]
