"""Do `strong`, `weak` and `none` hold what they promise, on drawings pe-nano has never seen?

Indexes are made of a part of the OpenMoji drawings, which pe-nano was not trained on, and searched
for by the names of all of them: of those in the index and of as many that are not. Twice: with
names drawn at random, so that an absent drawing mostly has near relatives in the index, and with
whole kinds left out (emojibase's subgroups: no bird at all, no flag at all), so that there is
nothing like it. Right is a best hit that is the very drawing, akin one of its kind. Images are
searched for as well: Twemoji's drawings of the same things.

Beside it stands one fixed cosine for all indexes, tuned on the very same answers: the one that best
tells the names in an index from those that are not.

    python benchmarks/calibration.py --packages NODE_MODULES --cache DIR

NODE_MODULES is what `training.pe_nano.fetch` makes; rendered drawings are kept in DIR.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "calibration.json"
SIZES = (50, 150, 300, 900)
SEEDS = range(5)
LABELS = ("strong", "weak", "none")


def drawings(packages: Path, cache: Path) -> dict:
    """Embedded drawings of both vendors and names, all in one order, with their kinds."""
    from perception_encoder import AutoModel
    from training.pe_nano.concepts import Vocabulary
    from training.pe_nano.prepare import render_drawing
    from training.pe_nano.sources import HELD_OUT, Sources

    vocabulary = Vocabulary(packages / "emojibase-data")
    sources = Sources(packages, vocabulary)
    rendered: dict[str, dict[int, np.ndarray]] = {}
    for vendor in (HELD_OUT, "twemoji"):
        path = cache / f"{vendor}.npz"
        if not path.is_file():
            made = {}
            for drawing in sources.emoji(vendor):
                _, images = render_drawing(drawing)
                if "v0" in images:
                    made[str(drawing.concept.index)] = images["v0"]
            np.savez(path, **made)
        with np.load(path) as stored:
            rendered[vendor] = {int(name): stored[name] for name in stored.files}
    common = sorted(set(rendered[HELD_OUT]) & set(rendered["twemoji"]))
    entries = json.loads((packages / "emojibase-data" / "en" / "data.json").read_text("utf-8"))
    kinds = {entry["hexcode"]: entry.get("subgroup") for entry in entries}
    model = AutoModel.from_pretrained("pe-nano")

    def embedded(vendor: str) -> np.ndarray:
        images = [Image.fromarray(rendered[vendor][index]) for index in common]
        return model.embed_images(images, show_progress=False)

    return {
        "model": model,
        "names": [vocabulary.concepts[index].name for index in common],
        "kinds": np.array([kinds[vocabulary.concepts[index].hexcode] for index in common]),
        "drawn": embedded(HELD_OUT),
        "drawn_otherwise": embedded("twemoji"),
    }


def split(data: dict, by: str, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which drawings go into the index, and which as many (or fewer) do not."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(data["names"]))
    if by == "names":
        return order[:size], order[size : 2 * size]
    kinds = generator.permutation(sorted(set(data["kinds"])))
    inside = np.isin(data["kinds"][order], kinds[: len(kinds) // 2])
    return order[inside][:size], order[~inside][:size]


def answers(data: dict, by: str, size: int, seed: int, kind: str) -> list[dict]:
    """The best hit of every query: present or absent, right, akin, its cosine and its label."""
    from perception_encoder.index import Index, Row
    from perception_encoder.search import Query, SearchOptions
    from perception_encoder.search.calibration import calibrate
    from perception_encoder.search.grammar import QueryTerm
    from perception_encoder.search.ranking import search_index

    inside, outside = split(data, by, size, seed)
    if kind == "text":
        vectors = data["model"].embed_text(data["names"], show_progress=False)
    else:
        vectors = data["drawn_otherwise"]
    numbers = np.concatenate([inside, outside])
    queries = [Query((QueryTerm(1.0, kind, "query"),), vectors[number]) for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "t.lance", data["model"].identity)
        index.add([Row(f"/{number}") for number in inside], data["drawn"][inside])
        calibration = calibrate(index, lambda: data["model"])
        found = search_index(index, queries, SearchOptions(k=1), calibration=calibration)
    best = [int(one[0].hit.uri.removeprefix("/")) for one in found]
    return [
        {
            "is_present": place < len(inside),
            "is_right": hit == number,
            "is_akin": bool(data["kinds"][hit] == data["kinds"][number]),
            "score": one[0].hit.score,
            "label": one[0].label,
        }
        for place, (number, hit, one) in enumerate(zip(numbers, best, found, strict=True))
    ]


def tuned_cosine(rows: list[dict]) -> float:
    """The cosine that best tells present from absent names: highest balanced accuracy."""
    scores = np.array([row["score"] for row in rows])
    is_present = np.array([row["is_present"] for row in rows])
    candidates = np.quantile(scores, np.linspace(0, 1, 401))
    accuracy = [
        (scores[is_present] >= cosine).mean() + (scores[~is_present] < cosine).mean()
        for cosine in candidates
    ]
    return float(candidates[int(np.argmax(accuracy))])


def shares(rows: list[dict]) -> dict:
    """What a group of answers is made of."""
    if not rows:
        return {"answers": 0}
    present = [row for row in rows if row["is_present"]]
    return {
        "answers": len(rows),
        "present": round(len(present) / len(rows), 3),
        "right": round(sum(row["is_right"] for row in rows) / len(rows), 3),
        "akin": round(sum(row["is_akin"] for row in rows) / len(rows), 3),
    }


def summary(rows: list[dict], cosine: float) -> dict:
    """Shares of labels among present and absent names, and how good each label's hits are."""
    present = [row for row in rows if row["is_present"]]
    absent = [row for row in rows if not row["is_present"]]

    def share(group: list[dict], label: str) -> float:
        return round(sum(row["label"] == label for row in group) / len(group), 3)

    above = [row for row in rows if row["score"] >= cosine]
    return {
        "right_of_present": round(sum(row["is_right"] for row in present) / len(present), 3),
        "labels_of_present": {label: share(present, label) for label in LABELS},
        "labels_of_absent": {label: share(absent, label) for label in LABELS},
        "hits": {label: shares([r for r in rows if r["label"] == label]) for label in LABELS},
        "fixed_cosine": {
            "above_of_present": round(sum(r["score"] >= cosine for r in present) / len(present), 3),
            "above_of_absent": round(sum(r["score"] >= cosine for r in absent) / len(absent), 3),
            "hits_above": shares(above),
        },
    }


def markdown(report: dict) -> str:
    """Return the table of docs/reference/benchmarks.md: shares in percent."""
    lines = [
        "| query | left out | rows | strong, of present · absent | none, of present · absent "
        "| right: strong · weak · none | akin: strong · weak · none "
        "| above the fixed cosine, of present · absent | right above it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in report["cases"]:
        present, absent = case["labels_of_present"], case["labels_of_absent"]
        hits, fixed = case["hits"], case["fixed_cosine"]
        cells = [
            [present["strong"], absent["strong"]],
            [present["none"], absent["none"]],
            [hits[label]["right"] for label in LABELS],
            [hits[label]["akin"] for label in LABELS],
            [fixed["above_of_present"], fixed["above_of_absent"]],
            [fixed["hits_above"]["right"]],
        ]
        shown = [" · ".join(f"{100 * share:.0f}" for share in cell) for cell in cells]
        query = "name" if case["query"] == "text" else "drawing"
        lines.append(
            f"| {query} | {case['left_out']} | {case['rows']} | " + " | ".join(shown) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make the indexes, search them, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="node_modules folder")
    parser.add_argument("--cache", type=Path, required=True, help="for rendered drawings")
    args = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    args.cache.mkdir(parents=True, exist_ok=True)
    data = drawings(args.packages, args.cache)
    rows: dict[tuple[str, str, int], list[dict]] = defaultdict(list)
    for kind in ("text", "image"):
        for by in ("names", "kinds"):
            for size in SIZES:
                for seed in SEEDS:
                    rows[kind, by, size] += answers(data, by, size, seed, kind)
    cosines = {
        kind: tuned_cosine([row for key, some in rows.items() if key[0] == kind for row in some])
        for kind in ("text", "image")
    }
    report = {
        "question": "do the labels of hits hold what they promise",
        "promise": "strong: 5 % of what fits nothing; none: half of it (text), 5 % of kin (image)",
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "model": f"{data['model'].identity.model_id} {data['model'].identity.fingerprint}",
        "drawings": len(data["names"]),
        "seeds": len(SEEDS),
        "tuned_cosine": {kind: round(cosine, 4) for kind, cosine in cosines.items()},
        "cases": [
            {"query": kind, "left_out": by, "rows": size, **summary(some, cosines[kind])}
            for (kind, by, size), some in rows.items()
        ],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    main()
