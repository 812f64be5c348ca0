"""Immich's names of CLIP models, which decide the dimension of its database's column."""

from typing import Final

_DIMENSIONS: Final[dict[str, int]] = {
    name: dimension
    for dimension, names in {
        512: """
            ViT-B-32__openai ViT-B-16__openai RN101__openai RN101__yfcc15m ViT-B-16__laion400m_e31
            ViT-B-16__laion400m_e32 ViT-B-32__laion2b-s34b-b79k ViT-B-32__laion2b_e16
            ViT-B-32__laion400m_e31 ViT-B-32__laion400m_e32 XLM-Roberta-Large-Vit-B-32
            XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k
        """,
        640: """
            RN50x4__openai ViT-B-16-plus-240__laion400m_e31 ViT-B-16-plus-240__laion400m_e32
            XLM-Roberta-Large-Vit-B-16Plus
        """,
        768: """
            ViT-L-14__openai ViT-L-14-336__openai LABSE-Vit-L-14 RN50x16__openai
            ViT-B-16-SigLIP-256__webli ViT-B-16-SigLIP-384__webli ViT-B-16-SigLIP-512__webli
            ViT-B-16-SigLIP-i18n-256__webli ViT-B-16-SigLIP__webli ViT-L-14-quickgelu__dfn2b
            ViT-L-14__laion2b-s32b-b82k ViT-L-14__laion400m_e31 ViT-L-14__laion400m_e32
            XLM-Roberta-Large-Vit-L-14 nllb-clip-base-siglip__mrl nllb-clip-base-siglip__v1
            ViT-B-16-SigLIP2__webli ViT-B-32-SigLIP2-256__webli
        """,
        1024: """
            ViT-H-14__laion2b-s32b-b79k RN50__cc12m RN50__openai RN50__yfcc15m RN50x64__openai
            ViT-H-14-378-quickgelu__dfn5b ViT-H-14-quickgelu__dfn5b ViT-L-16-SigLIP-256__webli
            ViT-L-16-SigLIP-384__webli ViT-g-14__laion2b-s12b-b42k ViT-L-16-SigLIP2-256__webli
            ViT-L-16-SigLIP2-384__webli ViT-L-16-SigLIP2-512__webli
            XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k
        """,
        1152: """
            ViT-SO400M-14-SigLIP-384__webli nllb-clip-large-siglip__mrl nllb-clip-large-siglip__v1
            ViT-SO400M-14-SigLIP2__webli ViT-SO400M-14-SigLIP2-378__webli
            ViT-SO400M-16-SigLIP2-256__webli ViT-SO400M-16-SigLIP2-384__webli
            ViT-SO400M-16-SigLIP2-512__webli
        """,
        1536: "ViT-gopt-16-SigLIP2-384__webli ViT-gopt-16-SigLIP2-256__webli",
    }.items()
    for name in names.split()
}
"""The dimension of Immich's column for each of its model names (`CLIP_MODEL_INFO`); of each
dimension, the name to suggest comes first."""


def expected_dimension(name: str) -> int | None:
    """Return how many numbers Immich stores for a model's name; None for a name not known here."""
    return _DIMENSIONS.get(name)


def find_fault(name: str, model: str, embed_dim: int) -> str | None:
    """Return why a model cannot stand for one of Immich's names; None where it can.

    Embeddings may be shorter than Immich expects where it has no name of their dimension, such as
    the 1280 of PE-Core-G14-448: with zeros at the end, distances and cosines stay the same.

    Args:
        name: Immich's.
        model: the name of a model of this server.
        embed_dim: E of the model.
    """
    expected = _DIMENSIONS.get(name)
    names = [one for one, dimension in _DIMENSIONS.items() if dimension == embed_dim]
    if expected in (None, embed_dim) or (not names and embed_dim < (expected or 0)):
        return None
    larger = [one for one, dimension in _DIMENSIONS.items() if dimension > embed_dim]
    fitting = (names or larger)[:3]
    return (
        f"{model} cannot stand for {name}: its embeddings have {embed_dim} dimensions, and Immich "
        f"expects {expected}; "
        + (f"choose one of these in Immich: {', '.join(fitting)}" if fitting else "take another")
    )
