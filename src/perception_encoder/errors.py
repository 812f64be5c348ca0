"""Every error this package raises for a failure of the world, in one tree.

A caller's plain mistake (a wrong rank, a negative batch size) is `ValueError` or `TypeError`.
Everything else is below, and each message says what happened, to which item, and what to do:

    PerceptionEncoderError
    ├── ImageError                  one image could not be used
    │   ├── ImageDecodeError            not an image, an unknown format, or damaged data
    │   │   ├── ImageEmptyError             zero bytes
    │   │   └── ImageTruncatedError         the file ends too early
    │   ├── ImageTooLargeError          more pixels or bytes than the limit
    │   ├── ImageNotFoundError          no such file (also a FileNotFoundError)
    │   ├── ImageUnreadableError        a folder, a URL, no permission (also an OSError)
    │   ├── ImageValueError             an array or tensor of a wrong shape, dtype or range
    │   │                               (also a ValueError)
    │   ├── ImageReferenceError         what names an image in a request names none (also a
    │   │                               ValueError)
    │   ├── ImageFetchError             a request's URL could not be fetched, or may not be
    │   └── ImageWriteError             an image of ours could not be saved (also an OSError)
    ├── TextTooLargeError           a text of more bytes than any model could need (also a
    │                               ValueError)
    ├── SourceError                 where images were to come from cannot be used
    │   └── SourceNotFoundError         there is no such file, folder or URL (also a
    │                                   FileNotFoundError)
    ├── TextError                   what should be text is none: an argument, a file of labels
    ├── OutputError                 a file of results cannot be written (also an OSError)
    ├── UnknownModelError           no model of that name
    ├── CheckpointError             weights that do not fit, are damaged or incomplete
    │   └── CheckpointWriteError        a model could not be saved (also an OSError)
    ├── DownloadError               the hub could not be reached or answered wrongly
    │   └── OfflineError                a download is needed and the network is switched off
    ├── TokenizerNotFoundError      a model without its vocabulary
    ├── BackendUnavailableError     a backend that is not installed or cannot run here
    ├── UnsupportedOperationError   the model has no such tower or output
    ├── CacheError                  an embedding cache that is unreadable or of another model
    ├── ServingError                a server cannot do now what was asked
    │   ├── QueueFullError              too much is waiting; says when to ask again
    │   ├── WorkerCrashedError          what computes ended, hung, or is shutting down
    │   └── ModelUnavailableError       a model cannot be opened; says when to ask again
    ├── RemoteError                 a server that was asked refused, failed, or was not reached
    ├── ClusterError                machines that should share the work cannot: not reached, too
    │                               small, or with other weights
    └── ImageIndexError             an index
        ├── IndexNotFoundError          nothing at that path
        ├── IndexExistsError            something is at that path already (also a FileExistsError)
        ├── IndexStorageError           reading or writing failed: disk full, no permission, damage
        │                               (also an OSError)
        ├── IndexBusyError              another process is writing to the index
        ├── IndexMismatchError          made by another model or preprocessing
        ├── ExchangeError               a file of another layout that cannot be written or read
        └── QueryError                  a query that cannot be understood
"""

from collections.abc import Mapping


class PerceptionEncoderError(Exception):
    """Base of all errors raised by perception_encoder."""


class ImageError(PerceptionEncoderError):
    """One image could not be used; `item` names it."""

    def __init__(self, message: str, *, item: str | None = None) -> None:
        super().__init__(message)
        self.item = item


class ImageDecodeError(ImageError):
    """The bytes are not an image in a known format, or are damaged."""


class ImageEmptyError(ImageDecodeError):
    """The file or buffer holds zero bytes."""


class ImageTruncatedError(ImageDecodeError):
    """The image's data ends before the image does."""


class ImageTooLargeError(ImageError):
    """More pixels or bytes than the limit; refused from the header or the size of the file."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no file at the given path."""


class ImageUnreadableError(ImageError, OSError):
    """What was named is not a file that can be read: a folder, a URL, a pipe, no permission."""


class ImageValueError(ImageError, ValueError):
    """An array, tensor or PIL image that is no image: rank, channels, dtype, range, no pixels."""


class ImageReferenceError(ImageError, ValueError):
    """What a request gives as an image is neither base64 nor a data URI nor an allowed URL."""

    def __init__(self, message: str, *, item: str | None = None, reason: str = "base64") -> None:
        super().__init__(message, item=item)
        self.reason = reason
        """One of "base64", "data URI", "URLs are off", "too large", for replies of other words."""


class ImageFetchError(ImageError):
    """A URL that a request names could not be fetched, or leads where it may not."""

    def __init__(self, message: str, *, item: str | None = None, reason: str = "failed") -> None:
        super().__init__(message, item=item)
        self.reason = reason
        """One of "scheme", "host", "address", "redirects", "time", "size", "kind",
        "status", "failed"."""


class ImageWriteError(ImageError, OSError):
    """An image that was drawn could not be saved: no such folder, no permission, no format."""


class TextTooLargeError(PerceptionEncoderError, ValueError):
    """A text has more bytes than the limit; nothing of it was read."""

    def __init__(self, message: str, *, position: int = 0) -> None:
        super().__init__(message)
        self.position = position
        """Among the texts of the call, from 0."""


class SourceError(PerceptionEncoderError):
    """Where images should come from cannot be used: no image column, a missing package."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """A source names a file, folder or URL that does not exist."""


class TextError(PerceptionEncoderError):
    """A text, or a file of labels, queries or names, is no text, cannot be read, or is too long."""


class OutputError(PerceptionEncoderError, OSError):
    """A file of results cannot be written: disk full, no folder, no permission."""


class UnknownModelError(PerceptionEncoderError):
    """The name is neither a registered model, nor a path, nor a hub repository we know."""


class CheckpointError(PerceptionEncoderError):
    """A checkpoint is damaged, of an unknown layout, or does not fit its model."""


class CheckpointWriteError(CheckpointError, OSError):
    """A model could not be saved: disk full, no permission."""


class DownloadError(PerceptionEncoderError):
    """A file could not be brought from the hub."""


class OfflineError(DownloadError):
    """A download would be needed, but the network is switched off."""


class TokenizerNotFoundError(PerceptionEncoderError):
    """No vocabulary was found for a model that reads text."""


class BackendUnavailableError(PerceptionEncoderError):
    """A backend, device or precision is not available here."""


class UnsupportedOperationError(PerceptionEncoderError):
    """The model has no such tower or output."""


class CacheError(PerceptionEncoderError):
    """An embedding cache cannot be read or belongs to another model."""


class ServingError(PerceptionEncoderError):
    """A server cannot do now what was asked; the same may work a little later."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFullError(ServingError):
    """So much is waiting already that this would have to wait too long."""


class WorkerCrashedError(ServingError):
    """What computes ended or hung, or the server is shutting down."""


class ModelUnavailableError(ServingError):
    """A server's model could not be opened; it is tried again after a pause."""


class RemoteError(PerceptionEncoderError):
    """A server that `perception_encoder.client` asked refused, failed, or could not be reached."""

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
        """Of the reply; None where there was none."""
        self.code = code
        """The server's stable name of what is wrong."""
        self.items = dict(items or {})
        """By position among all that were given, why an image or text cannot be used."""


class ClusterError(PerceptionEncoderError):
    """A Ray cluster cannot be used: not reached, too few cores or GPUs, no or other weights."""


class ImageIndexError(PerceptionEncoderError):
    """Base of the errors of an index."""


class IndexNotFoundError(ImageIndexError):
    """There is no index at the given path."""


class IndexExistsError(ImageIndexError, FileExistsError):
    """An index was to be made where there is one already, or where other things lie."""


class IndexStorageError(ImageIndexError, OSError):
    """The index could not be read or written: disk full, no permission, damaged files."""


class IndexBusyError(ImageIndexError):
    """Another process is writing to the index."""


class IndexMismatchError(ImageIndexError):
    """The index was made by another model, other weights or another preprocessing."""


class ExchangeError(ImageIndexError):
    """An export that cannot be written, or files that cannot be read as an index."""


class QueryError(ImageIndexError):
    """A search query cannot be understood."""
