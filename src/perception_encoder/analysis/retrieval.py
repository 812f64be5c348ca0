"""How well captions find their pictures, and pictures their captions.

Recall@k as CLIP_benchmark defines it (LAION-AI/CLIP_benchmark @082089f,
metrics/zeroshot_retrieval.py): the share of queries that have at least one right result among the
first k. Scores are plain cosines. Meta's fork multiplies them by a softmax over all queries of the
set unless told otherwise (facebookresearch/perception_models, apps/pe/clip_benchmark), which a
search of one query at a time cannot do, and which is not done here: published figures of PE may be
higher than these.

What a model cannot tell apart is not held against it: equal captions are one text, for which each
of their pictures is right; identical files are one picture, with the captions of all. Other ties
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
    """Which pictures and captions belong together.

    Attributes:
        places: of P pictures that differ, where each was first among those that were given.
        texts: T captions that differ.
        texts_of: for each picture the numbers of its captions.
        pictures_of: for each caption the numbers of its pictures.
    """

    places: tuple[int, ...]
    texts: tuple[str, ...]
    texts_of: tuple[tuple[int, ...], ...]
    pictures_of: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, contents: Sequence[str], captions: Sequence[Sequence[str]]) -> Self:
        """Join what is the same.

        Args:
            contents: of each picture what tells it from others, such as its SHA-256.
            captions: its captions; case and spaces do not count. A picture without any is left out.
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
        pictures = {content: number for number, content in enumerate(places)}
        numbers = {key: number for number, key in enumerate(texts)}
        texts_of: list[list[int]] = [[] for _ in pictures]
        pictures_of: list[list[int]] = [[] for _ in numbers]
        for content, key in pairs:
            texts_of[pictures[content]].append(numbers[key])
            pictures_of[numbers[key]].append(pictures[content])
        return cls(
            tuple(places.values()),
            tuple(texts.values()),
            tuple(map(tuple, texts_of)),
            tuple(map(tuple, pictures_of)),
        )


@dataclass(frozen=True)
class Retrieval:
    """How good a model is at a set of pictures with captions.

    Attributes:
        num_pictures: that differ.
        num_texts: captions that differ.
        text_to_picture: recall by k: the share of captions that find one of their pictures among
            the first k; with Wilson's interval, which takes captions for independent.
        picture_to_text: the share of pictures that find one of their captions, likewise.
    """

    num_pictures: int
    num_texts: int
    text_to_picture: Mapping[int, Share]
    picture_to_text: Mapping[int, Share]


def retrieval(pairs: Pairs, pictures: Embeddings, texts: Embeddings) -> Retrieval:
    """Search for every caption among the pictures, and for every picture among the captions.

    Args:
        pairs: what belongs together.
        pictures: (P, E) float32 of unit length, of `pairs.places`.
        texts: (T, E) float32 of unit length, of `pairs.texts`.

    Raises:
        ValueError: no pairs.
    """
    return Retrieval(
        num_pictures=len(pictures),
        num_texts=len(texts),
        text_to_picture=_recall(texts, pictures, pairs.pictures_of),
        picture_to_text=_recall(pictures, texts, pairs.texts_of),
    )


def _recall(
    queries: Embeddings, candidates: Embeddings, right: Sequence[Sequence[int]]
) -> dict[int, Share]:
    ranks = ranks_among(queries, candidates, right)
    return {k: wilson(int(np.count_nonzero(ranks < k)), len(ranks)) for k in RECALL_AT}
