"""What does storing vectors as float16 change in what is found?

The best ten of every query among float32 vectors and among the same rounded to float16: made
vectors of E = 1024, and the bundled gallery embedded with pe-nano, each image a query.

    python -m benchmarks.half_floats
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import write_report
from benchmarks.synthetic_vectors import SyntheticVectors

K = 10
NUM_ROWS = 50_000
GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"


def main() -> None:
    """Compare and write the results."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    from perception_encoder import AutoModel

    made = SyntheticVectors(1024)
    queries = np.concatenate([made.image_queries(100), made.word_queries(100)])
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    gallery = model.embed_images(sorted(GALLERY.glob("*.webp")))
    figures = {
        "made": compared(made.rows(NUM_ROWS), queries),
        "gallery": compared(gallery, gallery),
    }
    path = write_report("half_floats", "float16 instead of float32 in an index", ["numpy"], figures)
    print(path.read_text(encoding="utf-8"))


def compared(rows: NDArray[np.float32], queries: NDArray[np.float32]) -> dict[str, float]:
    """Return how the best ten and their scores differ."""
    full = queries @ rows.T
    half = queries @ rows.astype(np.float16).astype(np.float32).T
    best = [np.argsort(-scores, axis=1, kind="stable")[:, :K] for scores in (full, half)]
    same = [len(set(a.tolist()) & set(b.tolist())) / K for a, b in zip(*best, strict=True)]
    return {
        "rows": len(rows),
        "queries": len(queries),
        "overlap_at_10": float(np.mean(same)),
        "same_order_share": float(np.mean((best[0] == best[1]).all(axis=1))),
        "same_first_share": float(np.mean(best[0][:, 0] == best[1][:, 0])),
        "max_score_change": float(np.abs(full - half).max()),
    }


if __name__ == "__main__":
    main()
