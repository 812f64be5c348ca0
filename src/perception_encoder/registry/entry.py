"""What the registry says of a model beside its numbers. Plain data.

Where its weights are, what they may be used for, and what was published about it.
"""

from dataclasses import dataclass
from typing import Literal

from perception_encoder.registry.config import ModelConfig

Family = Literal["PE-Core", "PE-Spatial", "PE-Lang", "CLIP", "pe-nano"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of weights on the hub."""

    repo: str
    filename: str


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The weights' licence, where that was read, and what else is said about it."""

    spdx: str
    url: str
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A registered model. `sources` are tried in order; `bundled` ones lie in the package."""

    config: ModelConfig
    family: Family
    licence: Licence
    sources: tuple[Source, ...] = ()
    aliases: tuple[str, ...] = ()
    num_parameters: int
    bundled: bool = False
    imagenet_accuracy: float | None = None
    """Published zero-shot top-1 on ImageNet-1k, percent (perception_models apps/pe/README.md)."""

    @property
    def id(self) -> str:
        """The registered id, as in `config.id`."""
        return self.config.id
