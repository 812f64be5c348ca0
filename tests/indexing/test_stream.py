"""Images of sources as vectors, without an index."""

from pathlib import Path

import numpy as np
import pytest
from small_models import CORE, FP32_ON_CPU, CountingBackend, open_tiny, save_drawings

from perception_encoder.backends import open_random_backend
from perception_encoder.indexing import Progress
from perception_encoder.indexing.stream import embed_items, iter_items
from perception_encoder.sources import Item, SourceOptions, open_sources


@pytest.mark.parametrize(("concurrency", "batch_size"), [(1, 3), (2, 2), (1, 32)])
def test_vectors_come_in_the_order_of_the_images_and_bad_ones_stop_nobody(
    tmp_path: Path, concurrency: int, batch_size: int
) -> None:
    paths = save_drawings(tmp_path, 8)
    paths[4].write_bytes(b"no image")
    backend = CountingBackend(open_random_backend(CORE, FP32_ON_CPU))
    backend.concurrency = concurrency
    progress = Progress()
    with open_tiny(backend=backend) as model:
        items = iter_items(open_sources([str(tmp_path)], SourceOptions()))
        blocks = list(embed_items(model, items, batch_size=batch_size, progress=progress))
        expected = model.embed_images([*paths[:4], *paths[5:]])
    assert [row.uri for block in blocks for row in block.rows] == [
        str(path) for path in [*paths[:4], *paths[5:]]
    ]
    np.testing.assert_allclose(
        np.concatenate([block.vectors for block in blocks]), expected, atol=1e-5
    )
    (failed,) = [failure for block in blocks for failure in block.failed]
    assert (failed.uri, failed.reason) == (str(paths[4]), "ImageDecodeError")
    assert all(len(block.rows) + len(block.failed) <= batch_size for block in blocks)
    assert (progress.num_listed, progress.num_done, progress.is_listing) == (8, 8, False)
    assert progress.counts["failed"] == 1


def test_only_a_window_of_the_images_is_listed_ahead(tmp_path: Path) -> None:
    (path,) = save_drawings(tmp_path, 1)
    listed = []

    def items() -> object:
        for number in range(100):
            listed.append(number)
            yield Item(f"{path}{number}", path.read_bytes)

    with open_tiny() as model:
        blocks = embed_items(model, items(), batch_size=4)
        next(blocks)
        assert len(listed) <= 4 * 4  # three batches wait while one is computed
        blocks.close()  # type: ignore[attr-defined]
    assert len(listed) <= 4 * 4


def test_an_image_that_overlapping_sources_name_comes_once(tmp_path: Path) -> None:
    paths = save_drawings(tmp_path, 3)
    sources = open_sources([str(paths[1]), str(tmp_path), str(paths[1])], SourceOptions())
    assert [item.uri for item in iter_items(sources)] == [
        str(paths[n]) for n in (1, 0, 2)
    ]  # fmt: skip
