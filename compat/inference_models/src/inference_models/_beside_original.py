"""Keeps this package from standing in front of Roboflow's where both are installed.

Its folder comes last on the search path, so that usually the original answers and this code is
never run. It is run where that order is another: PYTHONPATH, or this one in a virtual environment
and the original in the system around it.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def refuse_to_shadow() -> None:
    """Raise where Roboflow's distribution is installed too.

    Raises:
        ImportError: it is; says where, and how to choose.
    """
    try:
        original = distribution("inference-models")
    except PackageNotFoundError:
        return
    place = Path(str(original.locate_file(""))).resolve()
    raise ImportError(
        f"two packages answer to inference_models: Roboflow's inference-models {original.version}, "
        f"at {place}, and perception-encoder's, which will not hide it. "
        "To use Roboflow's: pip uninstall perception-encoder-inference-models, and take its folder "
        "off PYTHONPATH. To use perception-encoder's: pip uninstall inference-models. To use both: "
        "keep Roboflow's, and open a folder made by `pe export MODEL DIR --format "
        "roboflow-package` with its AutoModel, or import AutoModel from perception_encoder"
    )
