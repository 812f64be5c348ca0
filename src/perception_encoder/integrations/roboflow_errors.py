"""Errors of ours as those of `inference_models`, which its callers catch.

Roboflow's package and `compat/inference_models` answer that name; both have these classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from inference_models import errors as theirs

from perception_encoder import errors as ours

# The first line that fits is taken.
_TRANSLATIONS: tuple[tuple[type[Exception], type[Exception]], ...] = (
    (ours.ImageError, theirs.ModelInputError),
    (ours.UnknownModelError, theirs.ModelNotFoundError),
    (ours.OfflineError, theirs.ModelRetrievalError),
    (ours.DownloadError, theirs.RetryError),
    (ours.CheckpointError, theirs.CorruptedModelPackageError),
    (ours.TokenizerNotFoundError, theirs.CorruptedModelPackageError),
    (ours.BackendUnavailableError, theirs.EnvironmentConfigurationError),
    (ours.PerceptionEncoderError, theirs.ModelRuntimeError),
)


@contextmanager
def their_errors(mistake: type[Exception]) -> Iterator[None]:
    """Raise the matching error of `inference_models`, with the same words, from ours.

    Args:
        mistake: what a TypeError or ValueError becomes, which here is a caller's wrong argument.
    """
    try:
        yield
    except ours.PerceptionEncoderError as err:
        error = next(error for kind, error in _TRANSLATIONS if isinstance(err, kind))
        raise error(str(err)) from err
    except (TypeError, ValueError) as err:
        raise mistake(str(err)) from err
