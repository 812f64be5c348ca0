"""What fits a picture, as the kind `classification_prediction` that Roboflow's blocks read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_encoder.integrations.workflows.engine_names import TENSOR_MODE
from perception_encoder.integrations.workflows.values import picture_of


def classification(
    image: Any, classes: Sequence[str], probabilities: NDArray[np.float32], *, inference_id: str
) -> Any:
    """Return a picture's classes with their probabilities.

    Args:
        image: the picture.
        classes: their names.
        probabilities: (N,) of them, in that order.
        inference_id: names this result.

    Returns:
        A dict, best class first; in tensor mode a `ClassificationPrediction`.
    """
    height, width = _size(picture_of(image))
    ancestors = {
        "prediction_type": "classification",
        "inference_id": inference_id,
        "parent_id": image.parent_metadata.parent_id,
        "root_parent_id": image.workflow_root_ancestor_metadata.parent_id,
    }
    if TENSOR_MODE:
        import torch
        from inference_models import ClassificationPrediction

        names = dict(enumerate(classes))
        about = {**ancestors, "class_names": names, "image_dimensions": [height, width]}
        return ClassificationPrediction(
            class_id=torch.tensor([int(probabilities.argmax())]),
            confidence=torch.from_numpy(probabilities[None]),
            images_metadata=[about],
        )
    order = np.argsort(-probabilities, kind="stable").tolist()
    return {
        "image": {"width": width, "height": height},
        "predictions": [
            {"class": classes[n], "class_id": n, "confidence": float(probabilities[n])}
            for n in order
        ],
        "top": classes[order[0]],
        "confidence": float(probabilities[order[0]]),
        **ancestors,
    }


def _size(picture: Any) -> tuple[int, int]:
    """Return the height and width of a tensor or an array."""
    shape = picture.shape if isinstance(picture, np.ndarray) else picture.shape[-2:]
    return int(shape[0]), int(shape[1])
