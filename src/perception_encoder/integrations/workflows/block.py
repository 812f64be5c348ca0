"""What the blocks have in common: what they are made with, and which engines run them."""

from typing import ClassVar

from perception_encoder.integrations.workflows.engine_names import (
    COMPATIBILITY,
    WorkflowBlock,
    WorkflowBlockManifest,
)
from perception_encoder.integrations.workflows.models import Models
from perception_encoder.integrations.workflows.tables import Tables


class Manifest(WorkflowBlockManifest):
    """What a workflow writes for a block of ours."""

    @classmethod
    def get_execution_engine_compatibility(cls) -> str:
        """Say which engines can run the block."""
        return COMPATIBILITY


class Block(WorkflowBlock):
    """A block over the models and tables of the process.

    Attributes:
        manifest: its fields.
    """

    manifest: ClassVar[type[Manifest]]

    def __init__(self, models: Models, tables: Tables) -> None:
        self._models = models
        self._tables = tables

    @classmethod
    def get_init_parameters(cls) -> list[str]:
        """Name what the block is made with."""
        return ["models", "tables"]

    @classmethod
    def get_manifest(cls) -> type[Manifest]:
        """Return the fields."""
        return cls.manifest
