"""A plugin of Roboflow Workflows: this backend and its indexes as blocks.

    WORKFLOWS_PLUGINS=perception_encoder.integrations.workflows

Works with `roboflow-workflows`, which has had the execution engine since 2026, and with older
`inference`, which had it inside. `provider` is for the stock block `perception_encoder@v1`.
"""

from typing import Any, Final

from perception_encoder.integrations.workflows.indexes import shared_indexes
from perception_encoder.integrations.workflows.models import shared_models


def load_blocks() -> list[type[Any]]:
    """Return the blocks; called by the execution engine whenever a workflow is compiled."""
    from perception_encoder.integrations.workflows.embedding import EmbeddingBlock
    from perception_encoder.integrations.workflows.index_add import IndexAddBlock
    from perception_encoder.integrations.workflows.search import SearchBlock
    from perception_encoder.integrations.workflows.zero_shot import ZeroShotBlock

    return [EmbeddingBlock, ZeroShotBlock, SearchBlock, IndexAddBlock]


# What blocks are given where the host says nothing of it. A host gives its own as the init
# parameters "perception_encoder.integrations.workflows.models" and ".indexes".
REGISTERED_INITIALIZERS: Final = {"models": shared_models, "indexes": shared_indexes}
