"""Measures how much likely mistakes move the golden outputs: `python parity/sensitivity.py NAME…`.

Golden outputs are worth something only if a mistake changes them by much more than the tolerance of
the tests (2e-5 on unit vectors). Each line breaks Meta's code in one way and prints the largest
change of a unit vector. Knows nothing about our own package.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator

import formula
import originals
import torch
from torch import Tensor, nn
from torch.nn import functional

Mutation = Callable[[nn.Module], contextlib.AbstractContextManager[None]]


def main() -> None:
    """Print a table for every model named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="PE-Core models of parity/originals.py")
    for name in parser.parse_args().names:
        report(name)


@torch.inference_mode()
def report(name: str) -> None:
    """Print how close different inputs are, the float32 noise, and every mutation's effect."""
    numbers = originals.PE_MODELS[name]
    model = originals.build_meta(numbers)
    size, patch = numbers.image_size, numbers.patch_size
    pixels = torch.from_numpy(formula.pixels(2, size, size))
    ids = torch.from_numpy(formula.token_ids(model.context_length))
    images, texts = embed(model, pixels, ids)
    print(f"\n{name}")
    print(f"  cosine of the two images {images[0] @ images[1]:.3f}")
    print(f"  cosines of texts {(texts @ texts.T)[texts.shape[0] - 2, :].tolist()}")
    exact = embed(model.double(), pixels.double(), ids)
    model.float()
    show("float64 instead of float32", exact, (images, texts))
    blanked = pixels.clone()
    blanked[:, :, :patch, :patch] = 0
    show("one patch blanked", embed(model, blanked, ids), (images, texts))
    other = ids.clone()
    other[2, -2] += 1
    show("last word of the full text changed", embed(model, pixels, other), (images, texts))
    for mutation in MUTATIONS:
        with mutation(model):
            label = (mutation.__doc__ or "").rstrip(".")
            show(label, embed(model, pixels, ids), (images, texts))


def embed(model: nn.Module, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of images and texts, in float64 so that comparing adds no noise."""
    model.visual.rope.grid_size = None  # makes Meta's code compute the table anew
    images, texts = model.encode_image(pixels), model.encode_text(ids)
    return functional.normalize(images.double(), dim=-1), functional.normalize(
        texts.double(), dim=-1
    )


def show(label: str, got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    """Print the largest change of an image's and a text's unit vector."""
    image, text = (float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
    print(f"  {label:36} image {image:.1e}  text {text:.1e}")


def activation(model: nn.Module, replacement: nn.Module) -> Iterator[None]:
    """Replace every activation for a while."""
    blocks = [m for m in model.modules() if isinstance(m, nn.Sequential) and hasattr(m, "gelu")]
    for block in blocks:
        block.gelu = replacement
    yield
    for block in blocks:
        block.gelu = nn.GELU()


class QuickGelu(nn.Module):
    """CLIP's activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply x * sigmoid(1.702 x)."""
        return x * torch.sigmoid(1.702 * x)


@contextlib.contextmanager
def tanh_gelu(model: nn.Module) -> Iterator[None]:
    """GELU by tanh."""
    yield from activation(model, nn.GELU(approximate="tanh"))


@contextlib.contextmanager
def quick_gelu(model: nn.Module) -> Iterator[None]:
    """QuickGELU."""
    yield from activation(model, QuickGelu())


@contextlib.contextmanager
def small_epsilon(model: nn.Module) -> Iterator[None]:
    """LayerNorm epsilon 1e-6."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    for norm in norms:
        norm.eps = 1e-6
    yield
    for norm in norms:
        norm.eps = 1e-5


@contextlib.contextmanager
def pool_heads(model: nn.Module) -> Iterator[None]:
    """Attention pool with 4 heads."""
    attention = model.visual.attn_pool.attn
    before = attention.num_heads, attention.head_dim
    attention.num_heads, attention.head_dim = 4, attention.embed_dim // 4
    yield
    attention.num_heads, attention.head_dim = before


def rope_table(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change the table of rope angles, (1, tokens, head width), for a while."""
    rope = model.visual.rope
    kind = type(rope)
    original = kind.update_grid

    def update(self: object, *grid: object) -> None:
        original(self, *grid)
        rope.freq = change(rope.freq)

    kind.update_grid = update
    yield
    kind.update_grid = original


@contextlib.contextmanager
def swapped_axes(model: nn.Module) -> Iterator[None]:
    """Rope: y before x."""
    yield from rope_table(model, lambda table: table.roll(table.shape[-1] // 2, dims=-1))


@contextlib.contextmanager
def shifted_positions(model: nn.Module) -> Iterator[None]:
    """Rope: patches shifted by one."""
    cls = int(model.visual.use_cls_token)
    step = model.visual.rope.rope.freqs.repeat_interleave(2).repeat(2)

    def change(table: Tensor) -> Tensor:
        return torch.cat([table[:, :cls], table[:, cls:] + step], dim=1)

    yield from rope_table(model, change)


@contextlib.contextmanager
def no_rope(model: nn.Module) -> Iterator[None]:
    """Rope: none."""
    yield from rope_table(model, torch.zeros_like)


@contextlib.contextmanager
def half_layout(_model: nn.Module) -> Iterator[None]:
    """Rope: pairs in halves."""
    _, _, rope = originals.meta_modules()
    original = rope.rotate_half

    def halves(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)

    rope.rotate_half = halves
    yield
    rope.rotate_half = original


MUTATIONS: tuple[Mutation, ...] = (
    tanh_gelu,
    quick_gelu,
    small_epsilon,
    pool_heads,
    swapped_axes,
    shifted_positions,
    no_rope,
    half_layout,
)

if __name__ == "__main__":
    main()
