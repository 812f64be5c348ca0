"""Files of classifiers: one `.npz` with the probe, and JSON that names its model and its quality.

A file holds no pickle, is not compressed, and is read only up to `MAX_BYTES`, so that one from
elsewhere does no harm. NumPy reads it, too: `np.load(path)["weights"]`.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.evaluation import Share
from perception_encoder.analysis.few_shot import FewShotClassifier, LabelQuality, Quality
from perception_encoder.analysis.probe import Probe
from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ClassifierError
from perception_encoder.types import ModelIdentity

SUFFIX: Final = ".npz"
MAX_BYTES: Final = 64 << 20
"""10,000 labels of E = 1280 take 51 MB."""

MAX_LABELS: Final = 10_000
MAX_LABEL_CHARACTERS: Final = 1000

_FORMAT: Final = 1
_ABOUT: Final = "about"
_WEIGHTS: Final = "weights"
_BIASES: Final = "biases"
_MEMBERS: Final = (f"{_ABOUT}.npy", f"{_WEIGHTS}.npy", f"{_BIASES}.npy")


def save_classifier(classifier: FewShotClassifier, path: str | os.PathLike[str]) -> None:
    """Write a classifier; a file that is there is replaced.

    Raises:
        ClassifierError: it cannot be written, or has too many labels.
    """
    data = dump_classifier(classifier)
    with atomic_write(path, ClassifierError) as temporary:
        temporary.write_bytes(data)


def dump_classifier(classifier: FewShotClassifier) -> bytes:
    """Return a classifier as the content of a file.

    Raises:
        ClassifierError: it has too many labels.
    """
    about = {
        "format": _FORMAT,
        "labels": list(classifier.labels),
        "is_multi_label": classifier.is_multi_label,
        "cutoff": classifier.cutoff,
        "model": asdict(classifier.identity),
        "quality": None if classifier.quality is None else asdict(classifier.quality),
    }
    file = io.BytesIO()
    arrays = {
        _ABOUT: np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8),
        _WEIGHTS: classifier.probe.weights.astype("<f4"),
        _BIASES: classifier.probe.biases.astype("<f4"),
    }
    np.savez(file, allow_pickle=False, **arrays)
    if len(classifier.labels) > MAX_LABELS or file.tell() > MAX_BYTES:
        raise ClassifierError(
            f"the classifier has {len(classifier.labels):,} labels and {file.tell():,} bytes; the "
            f"limits are {MAX_LABELS:,} and {MAX_BYTES:,}"
        )
    return file.getvalue()


def load_classifier(path: str | os.PathLike[str]) -> FewShotClassifier:
    """Read a classifier.

    Raises:
        ClassifierError: there is no such file, or it is no classifier of this version.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise ClassifierError(f"{name}: cannot be read: {err.strerror or err}") from err
    try:
        return parse_classifier(data)
    except ClassifierError as err:
        raise ClassifierError(f"{name}: {err}") from err


def parse_classifier(data: bytes) -> FewShotClassifier:
    """Return the classifier of a file's content.

    Raises:
        ClassifierError: it is none, or of a newer version.
    """
    if len(data) > MAX_BYTES:
        raise ClassifierError(f"has more than {MAX_BYTES:,} bytes, the limit of a classifier")
    try:
        arrays = _read_arrays(data)
        about = json.loads(arrays[_ABOUT].tobytes())
        if about["format"] > _FORMAT:
            raise ClassifierError("was written by a newer perception-encoder; install it")
        return _build(about, arrays[_WEIGHTS], arrays[_BIASES])
    except (
        zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError, EOFError,
        NotImplementedError, RecursionError, OSError,
    ) as err:  # fmt: skip
        raise ClassifierError(
            f"is no classifier, or is damaged ({err}); teach it again (pe teach)"
        ) from err


def find_classifier(name: str, folder: Path) -> Path:
    """Return the file that a name or a path means.

    A name is a file in this user's folder of classifiers. What has a folder or the suffix `.npz` is
    a path.

    Raises:
        ClassifierError: the name is empty or begins with a dot.
    """
    if os.path.basename(name) != name or name.endswith(SUFFIX):
        return Path(name).expanduser()
    if not name or name.startswith(".") or "\0" in name:
        raise ClassifierError(f"{name!a} cannot name a classifier; use letters and digits")
    return folder / f"{name}{SUFFIX}"


def list_classifiers(folder: Path) -> list[str]:
    """Return the names of the classifiers in a folder."""
    return sorted(path.stem for path in folder.glob(f"*{SUFFIX}") if path.stem[:1] != ".")


def _read_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Read the members; headers that promise more than there is are refused before memory is."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if info.filename not in _MEMBERS or info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"unexpected member {info.filename[:40]!a}")
            if info.file_size > len(data):
                raise ValueError("a member that is larger than the file")
            with archive.open(info) as member:
                arrays[info.filename.removesuffix(".npy")] = _read_array(member.read())
    return arrays


def _read_array(data: bytes) -> NDArray[Any]:
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of another format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    rest = data[file.tell() :]
    if is_fortran or dtype.str not in ("<f4", "|u1") or len(shape) > 2:
        raise ValueError("an array of another type")
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError("an array of another length than it says")
    return np.frombuffer(rest, dtype).reshape(shape)


def _build(about: dict[str, Any], weights: NDArray[Any], biases: NDArray[Any]) -> FewShotClassifier:
    labels = about["labels"]
    if not isinstance(labels, list) or not 1 <= len(labels) <= MAX_LABELS:
        raise ValueError("no labels, or too many")
    if not all(isinstance(one, str) and len(one) <= MAX_LABEL_CHARACTERS for one in labels):
        raise ValueError("labels that are no texts, or too long")
    if len(set(labels)) < len(labels):
        raise ValueError("a label that occurs twice")
    is_multi_label, cutoff = about["is_multi_label"], float(about["cutoff"])
    identity = ModelIdentity(**about["model"])
    allowed = [len(labels)] if is_multi_label else [len(labels), len(labels) + 1]
    if not isinstance(is_multi_label, bool) or not 0 <= cutoff <= 1:
        raise ValueError("a cutoff that is no probability")
    if weights.shape[1:] != (identity.embed_dim,) or len(weights) not in allowed:
        raise ValueError("weights of another shape")
    if weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise ValueError("weights that are no numbers")
    if biases.shape != weights.shape[:1] or biases.dtype != np.float32 or np.isnan(biases).any():
        raise ValueError("biases that are no numbers")
    return FewShotClassifier(
        labels,
        Probe(weights, biases),
        identity=identity,
        is_multi_label=is_multi_label,
        cutoff=cutoff,
        quality=None if about["quality"] is None else _read_quality(about["quality"]),
    )


def _read_quality(stored: dict[str, Any]) -> Quality:
    labels = tuple(
        LabelQuality(**one | {key: _read_share(one[key]) for key in ("recall", "precision")})
        for one in stored["labels"]
    )
    shares = ("right", "answered", "right_if_answered")
    return Quality(
        **stored | {key: _read_share(stored[key]) for key in shares} | {"labels": labels}
    )


def _read_share(stored: dict[str, float] | None) -> Share | None:
    return None if stored is None else Share(**stored)
