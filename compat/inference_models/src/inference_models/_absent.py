"""What is said where somebody asks for a name that only the original has."""

from collections.abc import Set
from typing import NoReturn


def explain_absence(module: str, name: str, known: Set[str]) -> NoReturn:
    """Refuse a name of a module.

    Raises:
        ImportError: it is one of the original's, which means nothing for Perception Encoder.
        AttributeError: nobody knows it.
    """
    if name in known:
        # An AttributeError would reach `from ... import` as "cannot import name", without these
        # words.
        raise ImportError(
            f"{module}.{name} is not here: this inference_models is perception-encoder's and has "
            "what Perception Encoder needs. For other models install the original: "
            "pip uninstall perception-encoder-inference-models; pip install inference-models"
        )
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
