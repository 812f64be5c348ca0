"""How well captions find their images, and images their captions.

Recall@k as CLIP_benchmark defines it (LAION-AI/CLIP_benchmark @082089f,
metrics/zeroshot_retrieval.py): the share of queries that have at least one right result among the
first k. Scores are plain cosines. Meta's fork multiplies them by a softmax over all queries of the
set unless told otherwise (facebookresearch/perception_models, apps/pe/clip_benchmark), which a
search of one query at a time cannot do, and which is not done here: published figures of PE may be
higher than these.

What a model cannot tell apart is not held against it: equal captions are one text, for which each
of their images is right; identical files are one image, with the captions of all. Other ties
count against the model (`ranks`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from perception_encoder.analysis.measures import Share, ranks_among, wilson
from perception_encoder.types import Embeddings

RECALL_AT: Final = (1, 5, 10)


@dataclass(frozen=True)
class Pairs:
    """Which images and captions belong together.

    Attributes:
        places: of P images that differ, where each was first among those that were given.
        texts: T captions that differ.
        texts_of: for each image the numbers of its captions.
        images_of: for each caption the numbers of its images.
    """

    places: tuple[int, ...]
    texts: tuple[str, ...]
    texts_of: tuple[tuple[int, ...], ...]
    images_of: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, contents: Sequence[str], captions: Sequence[Sequence[str]]) -> Self:
        """Join what is the same.

        Args:
            contents: of each image what tells it from others, such as its SHA-256.
            captions: its captions; case and spaces do not count. An image without any is left out.
        """
        places, texts = dict[str, int](), dict[str, str]()
        pairs = dict[tuple[str, str], None]()  # in order, each once
        for place, (content, written) in enumerate(zip(contents, captions, strict=True)):
            for caption in written:
                key = " ".join(caption.lower().split())
                if key:
                    places.setdefault(content, place)
                    texts.setdefault(key, caption)
                    pairs[content, key] = None
        images = {content: number for number, content in enumerate(places)}
        numbers = {key: number for number, key in enumerate(texts)}
        texts_of: list[list[int]] = [[] for _ in images]
        images_of: list[list[int]] = [[] for _ in numbers]
        for content, key in pairs:
            texts_of[images[content]].append(numbers[key])
            images_of[numbers[key]].append(images[content])
        return cls(
            tuple(places.values()),
            tuple(texts.values()),
            tuple(map(tuple, texts_of)),
            tuple(map(tuple, images_of)),
        )


@dataclass(frozen=True)
class Retrieval:
    """How good a model is at a set of images with captions.

    Attributes:
        num_images: that differ.
        num_texts: captions that differ.
        text_to_image: recall by k: the share of captions that find one of their images among
            the first k; with Wilson's interval, which takes captions for independent.
        image_to_text: the share of images that find one of their captions, likewise.
    """

    num_images: int
    num_texts: int
    text_to_image: Mapping[int, Share]
    image_to_text: Mapping[int, Share]


def retrieval(pairs: Pairs, images: Embeddings, texts: Embeddings) -> Retrieval:
    """Search for every caption among the images, and for every image among the captions.

    Args:
        pairs: what belongs together.
        images: (P, E) float32 of unit length, of `pairs.places`.
        texts: (T, E) float32 of unit length, of `pairs.texts`.

    Raises:
        ValueError: no pairs.
    """
    return Retrieval(
        num_images=len(images),
        num_texts=len(texts),
        text_to_image=_recall(texts, images, pairs.images_of),
        image_to_text=_recall(images, texts, pairs.texts_of),
    )


def _recall(
    queries: Embeddings, candidates: Embeddings, right: Sequence[Sequence[int]]
) -> dict[int, Share]:
    ranks = ranks_among(queries, candidates, right)
    return {k: wilson(int(np.count_nonzero(ranks < k)), len(ranks)) for k in RECALL_AT}
