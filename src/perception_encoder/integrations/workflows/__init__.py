"""A plugin of Roboflow Workflows: this backend and its indexes as blocks.

    WORKFLOWS_PLUGINS=perception_encoder.integrations.workflows

Works with `roboflow-workflows`, which has had the execution engine since 2026, and with older
`inference`, which had it inside. `provider` is for the stock block `perception_encoder@v1`.
"""

from typing import Any, Final

from perception_encoder.integrations.workflows.models import get_shared_indexes, get_shared_models


def load_blocks() -> list[type[Any]]:
    """Return the blocks; called by the execution engine whenever a workflow is compiled."""
    from perception_encoder.integrations.workflows.blocks import (
        EmbeddingBlock,
        SearchBlock,
        ZeroShotBlock,
    )
    from perception_encoder.integrations.workflows.few_shot import FewShotBlock
    from perception_encoder.integrations.workflows.index_add import IndexAddBlock

    return [EmbeddingBlock, ZeroShotBlock, FewShotBlock, SearchBlock, IndexAddBlock]


# What blocks are given where the host says nothing of it. A host gives its own as the init
# parameters "perception_encoder.integrations.workflows.models" and ".indexes".
REGISTERED_INITIALIZERS: Final = {"models": get_shared_models, "indexes": get_shared_indexes}
