"""Could `pe classify` tell that none of the labels fits?

The idea: a label fits an image if its cosine is above those of 200 prompts that describe what next
to no collection has, so far above that the best of as many unrelated labels would be there in one
image of twenty only. Tried on the bundled gallery with pe-nano: labels are the names of other
drawings, drawn at random ("absent"), or the right one is among them ("present").

    python -m benchmarks.none_of_these
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.report import write_report

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
SCENES = ("-next-to-", "-left-of-", "-above-")
NUM_LABELS = (2, 5, 10, 30)
PROMISED = 0.05
DRAWS = 5


def main() -> None:
    """Try it and write the results."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    from perception_encoder import AutoModel
    from perception_encoder.search.null_distribution import embed_prompts

    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    files = [
        path
        for path in sorted(GALLERY.glob("*.webp"))
        if not any(scene in path.stem for scene in SCENES)
    ]
    images = model.embed_images(files)
    scores = images @ model.embed_text([path.stem.replace("-", " ") for path in files]).T
    background = images @ embed_prompts(model).T  # (N, 200)
    generator = np.random.default_rng(0)
    figures = {}
    for count in NUM_LABELS:
        bars = np.quantile(background, (1 - PROMISED) ** (1 / count), axis=1)
        passed: dict[str, list[bool]] = {"absent": [], "present": []}
        for number in range(len(files)):
            others = np.setdiff1d(np.arange(len(files)), [number])
            for _ in range(DRAWS):
                absent = generator.choice(others, count, replace=False)
                present = np.append(generator.choice(others, count - 1, replace=False), number)
                for name, labels in (("absent", absent), ("present", present)):
                    passed[name].append(bool(scores[number, labels].max() > bars[number]))
        figures[f"{count} labels"] = {
            name: round(float(np.mean(found)), 3) for name, found in passed.items()
        }
    path = write_report(
        "none_of_these",
        "how often the best label passes for fitting, where it may in one image of twenty",
        ["numpy"],
        {"images": len(files), "model": model.identity.fingerprint, "passed": figures},
    )
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
