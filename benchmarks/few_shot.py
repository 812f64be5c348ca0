"""How should a classifier learn from a few examples, and do the labels' texts help?

Drawings of OpenMoji, which pe-nano has never seen, by kind. 1 to 10 examples of each kind are drawn
at random, and all other drawings are classified. The methods: texts alone (zero-shot); means of the
examples; logistic regression with several penalties; both with the text of each label as further
examples of it, of several weights. Then the promises of `FewShotClassifier`: the share of right
answers that it estimates, and the share above its cutoff, against what other drawings say.

    python -m benchmarks.few_shot --packages NODE_MODULES --cache DIR

NODE_MODULES is what `training.pe_nano.fetch` makes; rendered drawings are kept in DIR.
"""

import warnings
from collections.abc import Callable
from unittest.mock import patch

import numpy as np

from benchmarks.held_out import HeldOut, load_held_out, parse_arguments
from benchmarks.report import write_report
from perception_encoder.analysis import probe
from perception_encoder.analysis.few_shot import FewShotClassifier
from perception_encoder.types import ModelIdentity

COUNTS = (1, 2, 5, 10)
DRAWS = 3
FEWEST = 15  # drawings of a kind
PENALTIES = (1.0, 3.0, 10.0)
WEIGHTS = (1.0, 2.0, 4.0)
ALWAYS, NEVER = 1, 10**9  # examples from which on a regression is fitted


def draw(data: HeldOut, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of `count` examples of each kind, and of all other drawings."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(data.numbers == kind) for kind in range(len(data.kinds))]
    chosen = np.concatenate([generator.choice(one, count, replace=False) for one in members])
    return chosen, np.setdiff1d(np.arange(len(data.numbers)), chosen)


def learn(data: HeldOut, *, fewest: int, penalty: float = 0, weight: float = 0) -> Callable:
    """Return a function that gives the logits of drawings from examples."""

    def predict(examples: np.ndarray, others: np.ndarray) -> np.ndarray:
        with (
            patch.object(probe, "FEWEST_FOR_REGRESSION", fewest),
            patch.object(probe, "_PENALTY", penalty),
            patch.object(probe, "PROMPT_WEIGHT", weight),
        ):
            targets = data.numbers[examples][:, None] == np.arange(len(data.kinds))
            fitted = probe.fit_probe(
                data.embeddings[examples], targets, prompts=data.texts if weight else None
            )
        return fitted.logits(data.embeddings[others])

    return predict


def accuracy(data: HeldOut, predict: Callable, count: int) -> float:
    """Return the mean share of right answers over the draws."""
    shares = []
    for seed in range(DRAWS):
        examples, others = draw(data, count, seed)
        right = predict(examples, others).argmax(axis=1) == data.numbers[others]
        shares.append(right.mean())
    return round(float(np.mean(shares)), 4)


def promises(data: HeldOut, count: int) -> dict:
    """Compare what the classifier says of itself with what other drawings say."""
    identity = ModelIdentity("pe-nano", "", "standard", data.embeddings.shape[1])
    rows = []
    for seed in range(DRAWS):
        examples, others = draw(data, count, seed)
        labels = [(data.kinds[number],) for number in data.numbers[examples]]
        order = list(dict.fromkeys(label for (label,) in labels))
        texts = data.texts[[data.kinds.index(label) for label in order]]
        classifier = FewShotClassifier.fit(
            data.embeddings[examples], labels, identity=identity, embed_text=lambda _, t=texts: t
        )
        # Copies of examples would be recognized; the classifier does not count them either.
        near = (data.embeddings[others] @ data.embeddings[examples].T).max(axis=1)
        others = others[near < probe.COPY]
        found = classifier.classify(data.embeddings[others])
        truth = np.array([order.index(data.kinds[number]) for number in data.numbers[others]])
        right, sure = found.probabilities.argmax(axis=1) == truth, found.applies.any(axis=1)
        # All kinds have as many examples, so all count alike.
        weights = 1 / np.bincount(data.numbers[others])[data.numbers[others]]
        share = np.average(right, weights=weights)
        quality = classifier.quality
        rows.append(
            {
                "said_right": quality.right.value,
                "right": share,
                "is_in_interval": quality.right.low <= share <= quality.right.high,
                "mean_probability": np.average(found.probabilities.max(axis=1), weights=weights),
                "said_answered": quality.answered.value,
                "answered": np.average(sure, weights=weights),
                "said_right_if_answered": quality.right_if_answered.value
                if quality.right_if_answered
                else 0.0,
                "right_if_answered": np.average(right[sure], weights=weights[sure])
                if sure.any()
                else 0.0,
            }
        )
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def main() -> None:
    """Measure all methods, and write the results."""
    args = parse_arguments(__doc__)
    # scikit-learn wonders whether labels with one or two examples are labels.
    warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
    data = load_held_out(args.packages, args.cache, FEWEST)
    methods = {"means": learn(data, fewest=NEVER)}
    methods |= {
        f"means, text counts {weight:g}": learn(data, fewest=NEVER, weight=weight)
        for weight in WEIGHTS
    }
    methods |= {
        f"regression, C = {penalty:g}": learn(data, fewest=ALWAYS, penalty=penalty)
        for penalty in PENALTIES
    }
    methods |= {
        f"regression, C = {probe._PENALTY:g}, text counts {weight:g}": learn(
            data, fewest=ALWAYS, penalty=probe._PENALTY, weight=weight
        )
        for weight in WEIGHTS
    }
    zero_shot = (data.embeddings @ data.texts.T).argmax(axis=1) == data.numbers
    table = {}
    for name, predict in methods.items():
        table[name] = {str(count): accuracy(data, predict, count) for count in COUNTS}
        print(name, table[name], flush=True)
    path = write_report(
        "few_shot",
        "how a classifier should learn from 1 to 10 examples of a label",
        ["numpy", "scikit-learn"],
        {
            "model": data.model,
            "drawings": len(data.numbers),
            "kinds": len(data.kinds),
            "draws": DRAWS,
            "text_alone": round(float(zero_shot.mean()), 4),
            "right_by_examples": table,
            "promises": {str(count): promises(data, count) for count in COUNTS[1:]},
        },
        note="accuracies, no times; the machine was busy with other work",
    )
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
