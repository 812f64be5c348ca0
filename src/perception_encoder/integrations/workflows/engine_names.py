"""The names of the execution engine that blocks are made of, from whichever package has them.

`roboflow-workflows` has the engine now; in `inference` up to 1.5 it lies inside. Newer `inference`
requires `roboflow-workflows`. In tensor mode, a setting of the process, embeddings and
classifications are kinds of the same names whose values are tensors.
"""

import importlib
from importlib.util import find_spec
from typing import Final

_HAS_OWN_PACKAGE: Final = find_spec("roboflow_workflows") is not None
_ROOT: Final = "roboflow_workflows" if _HAS_OWN_PACKAGE else "inference.core.workflows"

_base = importlib.import_module(f"{_ROOT}.execution_engine.entities.base")
_types = importlib.import_module(f"{_ROOT}.execution_engine.entities.types")
_block = importlib.import_module(f"{_ROOT}.prototypes.block")
_settings = importlib.import_module(
    "roboflow_workflows.environment" if _HAS_OWN_PACKAGE else "inference.core.env"
)

Batch = _base.Batch
OutputDefinition = _base.OutputDefinition
WorkflowImageData = _base.WorkflowImageData
WorkflowBlock = _block.WorkflowBlock
WorkflowBlockManifest = _block.WorkflowBlockManifest
Selector = _types.Selector

IMAGE_KIND = _types.IMAGE_KIND
STRING_KIND = _types.STRING_KIND
BOOLEAN_KIND = _types.BOOLEAN_KIND
FLOAT_KIND = _types.FLOAT_KIND
FLOAT_ZERO_TO_ONE_KIND = _types.FLOAT_ZERO_TO_ONE_KIND
INTEGER_KIND = _types.INTEGER_KIND
LIST_OF_VALUES_KIND = _types.LIST_OF_VALUES_KIND

# `inference` before 1.5 knows no tensor mode.
TENSOR_MODE: Final[bool] = getattr(_settings, "ENABLE_TENSOR_DATA_REPRESENTATION", False)
TENSOR_DEVICE: Final = getattr(_settings, "WORKFLOWS_IMAGE_TENSOR_DEVICE", None)
ALLOWS_LOCAL_STORAGE: Final[bool] = _settings.ALLOW_WORKFLOW_BLOCKS_ACCESSING_LOCAL_STORAGE
WRITE_FOLDER: Final[str | None] = _settings.WORKFLOW_BLOCKS_WRITE_DIRECTORY

if TENSOR_MODE:
    _tensors = importlib.import_module(f"{_ROOT}.execution_engine.entities.tensor_native_types")
    EMBEDDING_KIND = _tensors.TENSOR_NATIVE_EMBEDDING_KIND
    CLASSIFICATION_KIND = _tensors.TENSOR_NATIVE_CLASSIFICATION_PREDICTION_KIND
else:
    EMBEDDING_KIND = _types.EMBEDDING_KIND
    CLASSIFICATION_KIND = _types.CLASSIFICATION_PREDICTION_KIND

COMPATIBILITY: Final = ">=1.5.0,<2.0.0"
"""Engines that hand batches or single values over, as the blocks say they take them."""
