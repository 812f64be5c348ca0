"""All errors of this package. Each message says what happened, to which item, and what to do.

A mistake in a call (a wrong rank, a negative batch size) is a `ValueError` or `TypeError`.

    PerceptionEncoderError
    ├── ImageError                  an image cannot be used
    │   ├── ImageDecodeError            not an image, an unknown format, or damaged data
    │   │   ├── ImageEmptyError             zero bytes
    │   │   ├── ImageTruncatedError         the file ends too early
    │   │   └── VideoDecodeError            a video without frames, or one that crashes the decoder
    │   ├── ImageTooLargeError          more pixels or bytes than the limit
    │   ├── ImageNotFoundError          no such file (also a FileNotFoundError)
    │   ├── ImageUnreadableError        a folder, a URL, no permission (also an OSError)
    │   ├── ImageValueError             an array or tensor of a wrong shape, dtype or range
    │   │                               (also a ValueError)
    │   ├── ImageReferenceError         no base64, data URI or URL (also a ValueError)
    │   ├── ImageFetchError             a URL in a request cannot be fetched
    │   └── ImageWriteError             an image cannot be saved (also an OSError)
    ├── TextError                   not valid text: an argument, a file of labels
    ├── TextTooLargeError           a text is longer than the limit (also a ValueError)
    ├── SourceError                 a source of images cannot be used
    │   └── SourceNotFoundError         no such file, folder or URL (also a FileNotFoundError)
    ├── OutputError                 a file of results cannot be written (also an OSError)
    ├── UnknownModelError           no model of that name
    ├── CheckpointError             weights are damaged, incomplete, or do not fit the model
    │   └── CheckpointWriteError        a model cannot be saved (also an OSError)
    ├── DownloadError               a file cannot be downloaded from the hub
    │   └── OfflineError                a download is needed, but the network is switched off
    ├── TokenizerNotFoundError      the vocabulary of a model is missing
    ├── BackendUnavailableError     a backend, device or precision is not available
    ├── UnsupportedOperationError   the model has no such tower or output
    ├── CacheError                  an embedding cache is unreadable or of another model
    ├── ServingError                a server cannot answer now
    │   ├── QueueFullError              too many requests are waiting
    │   ├── WorkerCrashedError          a worker ended, hangs, or is shutting down
    │   └── ModelUnavailableError       a model cannot be opened
    ├── RemoteError                 a server refused or failed, or cannot be reached
    ├── ClassifierError             a taught classifier is missing, damaged, or of another model
    ├── ClusterError                a Ray cluster cannot be used
    └── ImageIndexError             an index cannot be used
        ├── IndexNotFoundError          no index at the path
        ├── IndexExistsError            something is at the path already (also a FileExistsError)
        ├── IndexStorageError           reading or writing failed (also an OSError)
        ├── IndexBusyError              another process is writing to the index
        ├── IndexMismatchError          the index was made by another model or preprocessing
        ├── ImagesMissingError          images of the index cannot be read any more
        ├── ExchangeError               an export or import failed
        └── QueryError                  a query or condition is wrong
"""

from collections.abc import Mapping


class PerceptionEncoderError(Exception):
    """Base of all errors of this package."""


class ImageError(PerceptionEncoderError):
    """An image cannot be used; `item` names it."""

    def __init__(self, message: str, *, item: str | None = None) -> None:
        super().__init__(message)
        self.item = item


class ImageDecodeError(ImageError):
    """The data is no image in a known format, or is damaged."""


class ImageEmptyError(ImageDecodeError):
    """The file or buffer is empty."""


class ImageTruncatedError(ImageDecodeError):
    """The data ends before the image is complete."""


class VideoDecodeError(ImageDecodeError):
    """A video has no frames, is damaged, or crashes the decoder."""


class ImageTooLargeError(ImageError):
    """The image has more pixels or bytes than the limit; it was not decoded."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no file at the given path."""


class ImageUnreadableError(ImageError, OSError):
    """The path is no readable file: a folder, a URL, a pipe, no permission."""


class ImageValueError(ImageError, ValueError):
    """An array, tensor or PIL image has a wrong rank, dtype or range, or no pixels."""


class ImageReferenceError(ImageError, ValueError):
    """The image of a request is neither base64 nor a data URI nor an allowed URL."""

    def __init__(self, message: str, *, item: str | None = None, reason: str = "base64") -> None:
        super().__init__(message, item=item)
        self.reason = reason
        """One of "base64", "data URI", "URLs are off", "too large"."""


class ImageFetchError(ImageError):
    """A URL in a request cannot be fetched, or leads to an address that is not allowed."""

    def __init__(self, message: str, *, item: str | None = None, reason: str = "failed") -> None:
        super().__init__(message, item=item)
        self.reason = reason
        """One of "scheme", "host", "address", "redirects", "time", "size", "kind",
        "status", "failed"."""


class ImageWriteError(ImageError, OSError):
    """An image cannot be saved: no such folder, no permission, unknown format."""


class TextTooLargeError(PerceptionEncoderError, ValueError):
    """A text has more bytes than the limit."""

    def __init__(self, message: str, *, position: int = 0) -> None:
        super().__init__(message)
        self.position = position
        """The position of the text in the call, from 0."""


class SourceError(PerceptionEncoderError):
    """A source of images cannot be used: no image column, a missing package."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """A source names a file, folder or URL that does not exist."""


class TextError(PerceptionEncoderError):
    """A text, or a file of labels, queries or names, is not valid, readable, or short enough."""


class OutputError(PerceptionEncoderError, OSError):
    """A file of results cannot be written: disk full, no folder, no permission."""


class UnknownModelError(PerceptionEncoderError):
    """The name is no registered model, path, or known hub repository."""


class CheckpointError(PerceptionEncoderError):
    """A checkpoint is damaged, of an unknown layout, or does not fit its model."""


class CheckpointWriteError(CheckpointError, OSError):
    """A model cannot be saved: disk full, no permission."""


class DownloadError(PerceptionEncoderError):
    """A file cannot be downloaded from the hub."""


class OfflineError(DownloadError):
    """A download is needed, but the network is switched off."""


class TokenizerNotFoundError(PerceptionEncoderError):
    """The vocabulary of a model that reads text is missing."""


class BackendUnavailableError(PerceptionEncoderError):
    """A backend, device or precision is not available on this machine."""


class UnsupportedOperationError(PerceptionEncoderError):
    """The model has no such tower or output."""


class CacheError(PerceptionEncoderError):
    """An embedding cache cannot be read or belongs to another model."""


class ServingError(PerceptionEncoderError):
    """A server cannot answer now; try again after `retry_after_seconds`."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFullError(ServingError):
    """Too many requests are waiting."""


class WorkerCrashedError(ServingError):
    """A worker ended or hangs, or the server is shutting down."""


class ModelUnavailableError(ServingError):
    """A model of the server cannot be opened; the server tries again after a pause."""


class RemoteError(PerceptionEncoderError):
    """A server that `perception_encoder.client` called refused, failed, or cannot be reached."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "unreachable",
        items: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; None if there was no reply."""
        self.code = code
        """The server's name of the error."""
        self.items = dict(items or {})
        """Why images or texts cannot be used, by their position in the call."""


class ClusterError(PerceptionEncoderError):
    """A Ray cluster cannot be used: not reached, too few cores or GPUs, other weights."""


class ImageIndexError(PerceptionEncoderError):
    """Base of the errors of an index."""


class IndexNotFoundError(ImageIndexError):
    """There is no index at the given path."""


class IndexExistsError(ImageIndexError, FileExistsError):
    """An index cannot be created at a path where there are files."""


class IndexStorageError(ImageIndexError, OSError):
    """The index cannot be read or written: disk full, no permission, damaged files."""


class IndexBusyError(ImageIndexError):
    """Another process is writing to the index."""


class IndexMismatchError(ImageIndexError):
    """The index was made by another model, other weights or another preprocessing."""


class ImagesMissingError(ImageIndexError):
    """Images of an index cannot be read any more, so that they cannot be embedded again."""


class ExchangeError(ImageIndexError):
    """An export cannot be written, or files cannot be read as an index."""


class ClassifierError(PerceptionEncoderError):
    """A classifier's file is missing or damaged, or the classifier is of another model."""


class QueryError(ImageIndexError):
    """A query or condition is wrong."""
