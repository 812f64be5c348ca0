"""How should marks change a search?

Drawings of OpenMoji, which pe-nano has never seen, by kind. A kind is searched for by its name, or
by one of its drawings. Somebody marks hits, and searches again; the measure is precision at 20
among the drawings that are not marked, against the same search without marks. Who marks:

    first  the first 1, 3 or 5 hits, right or wrong
    both   the first 1, 3 or 5 right hits, and as many wrong ones
    right  the first 1, 3 or 5 right hits only

The rules: sums of embeddings; Rocchio's, with several weights; logistic regression on the marks,
with random drawings as weak negatives; Qdrant's recommendation by best score and average vector.

    python -m benchmarks.feedback --packages NODE_MODULES --cache DIR

NODE_MODULES is what `training.pe_nano.fetch` makes; rendered drawings are kept in DIR.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.held_out import HeldOut, load_held_out, parse_arguments
from benchmarks.report import write_report
from perception_encoder.search.feedback import refine_query
from perception_encoder.search.grammar import QueryTerm
from perception_encoder.search.queries import Query

FEWEST = 30  # drawings of a kind: 20 hits can be right after 10 marks
FIRST = 20
MARKS = (1, 3, 5)
MARKERS = ("first", "both", "right")
IMAGES = 5  # queries by an image of each kind
BACKGROUND = 200

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Takes (E,) query, (P, E) liked and (M, E) unliked; returns (N,) scores of all drawings."""


def mean(rows: np.ndarray) -> np.ndarray:
    """Return the mean of rows, zeros of none."""
    return rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1], np.float32)


def rules(data: HeldOut) -> dict[str, Rule]:
    """Return all rules by name."""
    images = data.embeddings

    def of_package(query: np.ndarray, liked: np.ndarray, unliked: np.ndarray) -> np.ndarray:
        def as_query(vector: np.ndarray) -> Query:
            return Query((QueryTerm(1.0, "image", ""),), vector)

        refined = refine_query(
            as_query(query), list(map(as_query, liked)), list(map(as_query, unliked))
        )
        return images @ refined.vector

    def rocchio(a: float, b: float, c: float) -> Rule:
        return lambda query, liked, unliked: (
            images @ (a * query + b * mean(liked) - c * mean(unliked))
        )

    found: dict[str, Rule] = {
        "no marks": lambda query, liked, unliked: images @ query,  # noqa: ARG005
        "sum": lambda query, liked, unliked: (
            images @ (query + liked.sum(axis=0) - unliked.sum(axis=0))
        ),
    }
    for weights in ((1, 0.75, 0.15), (1, 1, 0.5), (1, 1, 1), (1, 2, 1), (1, 2, 2), (1, 4, 2)):
        found[f"Rocchio {' '.join(f'{one:g}' for one in weights)}"] = rocchio(*weights)
    found["regression"] = regression(images)
    found["best score (Qdrant)"] = lambda query, liked, unliked: best_score(
        images, np.concatenate([query[None], liked]), unliked
    )
    found["average vector (Qdrant)"] = lambda query, liked, unliked: (
        images
        @ (
            2 * mean(np.concatenate([query[None], liked])) - mean(unliked)
            if len(unliked)
            else mean(np.concatenate([query[None], liked]))
        )
    )
    found["pe search"] = of_package
    return found


def best_score(images: np.ndarray, liked: np.ndarray, unliked: np.ndarray) -> np.ndarray:
    """Return Qdrant's score: of the nearest mark; negative and squared if that is unliked."""
    near = (images @ liked.T).max(axis=1)
    if not len(unliked):
        return near
    far = (images @ unliked.T).max(axis=1)
    return np.where(near > far, near, -far * far)


def regression(images: np.ndarray) -> Rule:
    """Return logistic regression on the marks; the query is one of the liked."""
    from sklearn.linear_model import LogisticRegression

    middle = images.mean(axis=0)
    spread = float(np.sqrt(np.square(images - middle).sum(axis=1).mean()))
    chosen = np.random.default_rng(0).choice(len(images), BACKGROUND, replace=False)

    def rank(query: np.ndarray, liked: np.ndarray, unliked: np.ndarray) -> np.ndarray:
        rows = np.concatenate([query[None], liked, unliked, images[chosen]])
        labels = np.arange(len(rows)) <= len(liked)
        weights = np.ones(len(rows))
        weights[-BACKGROUND:] = 1 / BACKGROUND
        fitted = LogisticRegression(C=10, max_iter=300)
        fitted.fit((rows - middle) / spread, labels, sample_weight=weights)
        return images @ fitted.coef_[0]

    return rank


def choose_marks(order: np.ndarray, is_right: np.ndarray, marker: str, count: int) -> np.ndarray:
    """Return the positions of the drawings that somebody marks, given the hits in order."""
    if marker == "first":
        return order[:count]
    right, wrong = order[is_right[order]], order[~is_right[order]]
    if marker == "right":
        return right[:count]
    return np.concatenate([right[:count], wrong[:count]])


def queries(data: HeldOut, kind: str) -> list[tuple[int, np.ndarray, int | None]]:
    """Return the number of the kind, the embedding and the drawing of each query."""
    if kind == "text":
        return [(number, text, None) for number, text in enumerate(data.texts)]
    generator = np.random.default_rng(0)
    found = []
    for number in range(len(data.kinds)):
        members = np.flatnonzero(data.numbers == number)
        chosen = generator.choice(members, IMAGES, replace=False).tolist()
        found += [(number, data.embeddings[place], place) for place in chosen]
    return found


def precision(data: HeldOut, rule: Rule, asked: str, marker: str, count: int) -> float:
    """Return the mean precision at 20 of all queries after some marks."""
    shares = []
    for number, vector, own in queries(data, asked):
        is_right = data.numbers == number
        scores = data.embeddings @ vector
        if own is not None:
            scores[own] = -np.inf
        order = np.argsort(-scores)[: len(scores) - (own is not None)]
        marked = choose_marks(order, is_right, marker, count)
        liked, unliked = marked[is_right[marked]], marked[~is_right[marked]]
        scores = np.array(rule(vector, data.embeddings[liked], data.embeddings[unliked]))
        scores[marked] = -np.inf
        if own is not None:
            scores[own] = -np.inf
        shares.append(is_right[np.argsort(-scores)[:FIRST]].mean())
    return round(float(np.mean(shares)), 4)


def main() -> None:
    """Measure all rules, and write the results."""
    args = parse_arguments(__doc__)
    data = load_held_out(args.packages, args.cache, FEWEST, keep_others=True)
    table: dict[str, dict[str, float]] = {}
    for name, rule in rules(data).items():
        table[name] = {
            f"{asked}, {marker} {count}": precision(data, rule, asked, marker, count)
            for asked in ("text", "image")
            for marker in MARKERS
            for count in MARKS
        }
        table[name]["mean"] = round(float(np.mean(list(table[name].values()))), 4)
        print(name, table[name], flush=True)
    path = write_report(
        "feedback",
        "precision at 20 after 1, 3 and 5 marks, among what is not marked",
        ["numpy", "scikit-learn"],
        {
            "model": data.model,
            "drawings": len(data.numbers),
            "kinds": len(data.kinds),
            "precision_at_20": table,
        },
        note="precisions, no times; the machine was busy with other work",
    )
    print(path)


if __name__ == "__main__":
    main()
