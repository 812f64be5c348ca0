"""pe-nano: the small model that this project trained and that lies in the package."""

from perception_encoder.registry.config import ModelConfig, TextConfig, VisionConfig
from perception_encoder.registry.entry import Licence, ModelEntry

CONFIG = ModelConfig(
    id="pe-nano",
    vision=VisionConfig(
        image_size=48, patch_size=8, width=192, depth=6, num_heads=3, mlp_width=768
    ),
    text=TextConfig(
        context_length=32, vocab_size=4096, width=192, depth=3, num_heads=3, mlp_width=768
    ),
    embed_dim=192,
)

ENTRY = ModelEntry(
    config=CONFIG,
    family="pe-nano",
    licence=Licence(
        spdx="Apache-2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        notice="Trained from openly licensed drawings; MODEL_CARD.md lists them. "
        "It knows drawings, not photos.",
    ),
    num_parameters=5_360_065,
    bundled=True,
)
