"""The losses."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.pe_nano.objective import ConceptTable, contrastive

SCALE = torch.tensor(20.0).log()


def unit(rows: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=-1)


@pytest.mark.parametrize(("rows", "dim"), [(2, 8), (7, 24)])
def test_matched_pairs_cost_less_than_shuffled_ones(rows: int, dim: int) -> None:
    images = unit(rows, dim)

    matched = contrastive(images, images, SCALE)
    shuffled = contrastive(images, images.roll(1, dims=0), SCALE)

    assert matched < shuffled


def test_the_contrastive_loss_of_equal_vectors_is_the_logarithm_of_the_batch() -> None:
    same = unit(1, 8).expand(5, 8)

    torch.testing.assert_close(contrastive(same, same, SCALE), torch.tensor(5.0).log())


def test_the_contrastive_loss_treats_images_and_texts_alike() -> None:
    images, texts = unit(6, 8, seed=1), unit(6, 8, seed=2)

    torch.testing.assert_close(contrastive(images, texts, SCALE), contrastive(texts, images, SCALE))


def test_the_concept_index_ignores_rows_without_a_concept() -> None:
    torch.manual_seed(0)
    index = ConceptTable(4, 8)
    known, unknown = unit(3, 8, seed=1), unit(2, 8, seed=2)
    concepts = torch.tensor([2, 0, 3])

    alone = index(known, concepts)
    mixed = index(
        torch.cat([unknown[:1], known, unknown[1:]]), torch.tensor([-1, *concepts.tolist(), -1])
    )

    torch.testing.assert_close(alone, mixed)


def test_rows_without_a_concept_get_no_gradient_from_the_index() -> None:
    torch.manual_seed(0)
    index = ConceptTable(4, 8)
    embeddings = unit(3, 8).requires_grad_()

    index(embeddings, torch.tensor([1, -1, 2])).backward()

    assert embeddings.grad is not None
    assert embeddings.grad[1].abs().max() == 0
    assert (embeddings.grad[[0, 2]].abs().amax(1) > 0).all()


def test_the_concept_index_prefers_the_right_concept() -> None:
    torch.manual_seed(0)
    index = ConceptTable(5, 16)
    own = F.normalize(index.weight.detach(), dim=-1)

    right = index(own, torch.arange(5))
    wrong = index(own, torch.arange(5).roll(1))

    assert right < wrong
