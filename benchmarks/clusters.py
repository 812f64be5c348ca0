"""Are planted groups found, and do maps keep neighbors?

Groups: how many are found in made vectors whose groups are known and in scikit-learn's digits, and
how well they agree with the true ones (adjusted Rand index, 1 is exact); beside it k-means from a
random beginning that was told the true number. Maps: trustworthiness (of 1) of the ten nearest
neighbors, beside scikit-learn's t-SNE and, where it is installed, UMAP.

    python -m benchmarks.clusters
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import adjusted_rand_score

from benchmarks.report import write_report
from perception_encoder.analysis.cluster_centers import find_cluster_centers, find_nearest_center
from perception_encoder.analysis.index_map import map_index
from perception_encoder.analysis.ranked_images import rank_images
from perception_encoder.index import Index, Row
from perception_encoder.types import ModelIdentity

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
PLANTED = {  # sizes of the groups, E, and how far members scatter
    "2 groups of 5": ([5] * 2, 512, 1.0),
    "3 groups of 100": ([100] * 3, 512, 1.0),
    "12 groups of 100, close": ([100] * 12, 256, 0.5),
    "12 groups of 100": ([100] * 12, 256, 1.0),
    "12 groups of 100, wide": ([100] * 12, 256, 2.0),
    "7 groups of 8 to 400": ([400, 200, 100, 50, 25, 12, 8], 256, 1.0),
    "30 groups of 60": ([60] * 30, 256, 1.0),
    "60 groups of 100": ([100] * 60, 512, 1.2),
}
MAPPED = 3000

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def main() -> None:
    """Measure all and write the results."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    sets = {name: planted(*given) for name, given in PLANTED.items()}
    digits = load_digits()
    sets["digits"] = unit(digits.data), digits.target
    groups = {name: grouped(*given) for name, given in sets.items()}
    maps = {
        "gallery": mapped(gallery_vectors()),
        "digits": mapped(sets["digits"][0]),
        "60 groups of 100": mapped(sets["60 groups of 100"][0]),
    }
    packages = ["numpy", "faiss-cpu", "openTSNE", "scikit-learn"]
    if has_umap():
        packages.append("umap-learn")
    question = "whether planted groups are found, and whether maps keep neighbors"
    write_report("clusters", question, packages, {"groups": groups, "trustworthiness": maps})


def planted(sizes: list[int], embed_dim: int, scatter: float) -> tuple[Floats, Labels]:
    """Vectors about as many directions as there are sizes, all with something in common."""
    random = np.random.default_rng(0)
    directions = unit(random.normal(size=(len(sizes), embed_dim)))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    noise = random.normal(size=(len(labels), embed_dim)) / embed_dim**0.5
    common = unit(random.normal(size=(1, embed_dim)))
    return unit(common + 0.8 * directions[labels] + scatter * noise), labels


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Vectors of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / lengths, np.float32)


def grouped(vectors: Floats, truth: Labels) -> dict[str, object]:
    """What is found of groups, ours and by k-means that knows their number."""
    centers = find_cluster_centers(vectors, None)
    labels, _ = find_nearest_center(vectors, centers.vectors)
    number = len(np.unique(truth))
    kmeans = faiss.Kmeans(vectors.shape[1], number, spherical=True, seed=0, niter=20)
    kmeans.train(vectors)
    plain = find_nearest_center(vectors, kmeans.centroids)[0]
    return {
        "true number": number,
        "found number": len(np.unique(labels)),
        "silhouette": round(float(centers.silhouette or 0), 3),
        "agreement": round(float(adjusted_rand_score(truth, labels)), 3),
        "agreement of plain k-means": round(float(adjusted_rand_score(truth, plain)), 3),
    }


def gallery_vectors() -> Floats:
    """The gallery, embedded by pe-nano."""
    from perception_encoder import AutoModel

    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    return model.embed_images(sorted(GALLERY.glob("*.webp")), show_progress=False)


def mapped(vectors: Floats) -> dict[str, float]:
    """How well maps keep neighbors."""
    vectors = vectors[:: -(-len(vectors) // MAPPED)]
    with tempfile.TemporaryDirectory() as folder:
        identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", vectors.shape[1])
        index = Index.create(f"{folder}/index", identity, vector_dtype="float32")
        index.append([Row(uri=f"{number:06}") for number in range(len(vectors))], vectors)
        places = {"ours": map_index(index, rank_images(index, "first", None)).places}
    tsne = TSNE(metric="cosine", init="pca", random_state=0)
    places["scikit-learn's t-SNE"] = tsne.fit_transform(vectors)
    if has_umap():
        import umap

        places["UMAP"] = umap.UMAP(metric="cosine", random_state=0).fit_transform(vectors)
    return {
        name: round(float(trustworthiness(vectors, found, n_neighbors=10, metric="cosine")), 4)
        for name, found in places.items()
    }


def has_umap() -> bool:
    """Whether UMAP is installed."""
    return importlib.util.find_spec("umap") is not None


if __name__ == "__main__":
    main()
