"""`pe features` and `pe match`: what a model sees in the patches of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    ComputeFlags,
    JsonOption,
    ModelOption,
    with_flags,
)
from perception_encoder.cli.output import check_file, say, write_json, write_table
from perception_encoder.errors import ImageError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.embedder.patch_features import PatchFeatures

_MAX_IMAGES: Final = 64  # of one figure
_MAX_BYTES: Final = 4 << 30  # of all features, which are held at once

SizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Side in pixels of the square that the model reads; a multiple of its patches.  "
        "[default: the model's own]",
        show_default=False,
    ),
]
LayerOption = Annotated[
    int, typer.Option(help="Block whose output is read; negative numbers count from the last.")
]
KeepAspectOption = Annotated[
    bool,
    typer.Option(
        "--keep-aspect",
        help="Read each image in its own proportions, with no more patches than the square.",
    ),
]
ForegroundOption = Annotated[
    bool,
    typer.Option("--foreground", help="Leave out the background, which the model's features show."),
]


@with_flags
def features(  # noqa: PLR0913  one parameter for each option
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Image file to write: .png, .jpg or .webp.")
    ] = None,
    npy: Annotated[
        Path | None,
        typer.Option(help="File for the features: float32, images x rows x columns x dimensions."),
    ] = None,
    size: SizeOption = None,
    keep_aspect: KeepAspectOption = False,
    layer: LayerOption = -1,
    foreground: ForegroundOption = False,
    model: ModelOption = DEFAULT_MODEL,
    *,
    compute: ComputeFlags,
) -> None:
    """Draw or write the patch features of images.

    The figure shows each image beside its patches. Patches of the same color have similar
    features: red, green and blue are the first three principal components of all images together.
    An image that cannot be used is reported and left out, and the exit code is 1.

    Examples:
        pe features cat.jpg dog.jpg -o pca.png --foreground
        pe features street.jpg --size 1024 --keep-aspect -o pca.png -m PE-Spatial-S16-512
        pe features *.jpg --npy features.npy --layer 8
    """
    if out is None and npy is None:
        raise typer.BadParameter("nothing to write: add -o pca.png or --npy features.npy")
    if out is not None and len(images) > _MAX_IMAGES:
        raise typer.BadParameter(
            f"a figure shows up to {_MAX_IMAGES} images, and these are {len(images)}"
        )
    _check_figure(out)
    check_file(npy)
    if npy is not None and npy.suffix != ".npy":
        raise typer.BadParameter(f"{npy.name}: the name must end in .npy")
    loaded = compute.open(model)
    _check_memory(loaded, size, len(images))
    found = _compute(loaded, images, size, keep_aspect=keep_aspect, layer=layer)
    if found:
        if npy is not None:
            _write_npy(npy, list(found.values()))
        if out is not None:
            _draw(out, found, foreground=foreground)
    if len(found) < len(set(images)):
        raise typer.Exit(1)


@with_flags
def match(  # noqa: PLR0913  one parameter for each option
    a: Annotated[str, typer.Argument(help="An image file.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Image file to write: .png, .jpg or .webp.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="The best matches only.")] = 20,
    size: SizeOption = None,
    keep_aspect: KeepAspectOption = False,
    layer: LayerOption = -1,
    foreground: ForegroundOption = False,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    *,
    compute: ComputeFlags,
) -> None:
    """Find the places of two images that correspond.

    Prints patches that are each other's nearest by cosine, best first, as points in pixels of the
    upright images. Matches are places that the model finds alike; it may confuse repeated or
    mirrored parts and plain backgrounds.

    Examples:
        pe match cat.jpg dog.jpg -o matches.png --foreground
        pe match left.jpg right.jpg -k 50 --size 768 --json
    """
    from perception_encoder.analysis.drawing import save_image
    from perception_encoder.analysis.patch_drawings import draw_matches
    from perception_encoder.analysis.patches import match_patches

    _check_figure(out)
    loaded = compute.open(model)
    found = _compute(loaded, [a, b], size, keep_aspect=keep_aspect, layer=layer)
    if len(found) < len({a, b}):
        raise typer.Exit(1)
    one, other = found[a], found[b]
    matches = match_patches(one, other, k, only_foreground=foreground)
    rows = [
        (float(score), *map(float, (*point_a, *point_b)))
        for score, point_a, point_b in zip(
            matches.scores, matches.points_a, matches.points_b, strict=True
        )
    ]
    if as_json:
        for score, *places in rows:
            x_a, y_a, x_b, y_b = (round(place, 1) for place in places)
            write_json({"score": round(score, 6), "a": [x_a, y_a], "b": [x_b, y_b]})
    elif rows:
        header = ["score", "x in A", "y in A", "x in B", "y in B"]
        cells = [[f"{row[0]:.4f}", *(f"{place:.0f}" for place in row[1:])] for row in rows]
        write_table(header, cells)
    else:
        say("no patches are each other's nearest")
    if out is not None:
        shown = (_read_shown(a), _read_shown(b))
        save_image(draw_matches(shown, (one.image_size, other.image_size), matches), out)
        say(f"{out}: {len(matches)} matches of {_grid_name(one)} and {_grid_name(other)} patches")


def _check_figure(path: Path | None) -> None:
    """Refuse a figure that cannot be written."""
    check_file(path)
    if path is None:
        return
    from PIL import Image

    Image.init()
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise typer.BadParameter(f"{path}: choose a name that ends in .png, .jpg or .webp")


def _check_memory(model: EmbeddingModel, size: int | None, count: int) -> None:
    vision = model.config.vision
    side = (size or vision.image_size) // vision.patch_size
    num_bytes = count * side**2 * vision.width * 4
    if num_bytes > _MAX_BYTES:
        raise typer.BadParameter(
            f"the features of {count:,} images take up to {num_bytes / 2**30:,.1f} GB, and the "
            f"limit is {_MAX_BYTES >> 30}; give fewer images, or a smaller --size"
        )


def _compute(
    model: EmbeddingModel, images: Sequence[str], size: int | None, *, keep_aspect: bool, layer: int
) -> dict[str, PatchFeatures]:
    """Return the features of each image; an image that cannot be used is reported."""
    from perception_encoder.cli.progress import show_steps

    found: dict[str, PatchFeatures] = {}
    names = list(dict.fromkeys(images))
    with show_steps("computing features") as report:
        for done, name in enumerate(names):
            report("computing features", done, len(names))
            try:
                (found[name],) = model.features(
                    [name],
                    image_size=size or model.config.vision.image_size,
                    keep_aspect=keep_aspect,
                    layer=layer,
                    show_progress=False,
                )
            except ImageError as err:
                say(f"pe: {err}")
    if len(names) > 1 and len(found) < len(names):
        say(f"pe: {len(names) - len(found)} of {len(names)} images left out")
    return found


def _write_npy(path: Path, found: Sequence[PatchFeatures]) -> None:
    import numpy as np

    from perception_encoder.atomic import atomic_write

    grids = dict.fromkeys(_grid_name(one) for one in found)
    if len(grids) > 1:
        raise typer.BadParameter(
            f"{path}: the images have different grids ({', '.join(list(grids)[:4])}); leave out "
            "--keep-aspect, or write one file for each image"
        )
    values = np.stack([one.as_map() for one in found])
    with atomic_write(path, OutputError) as partial, partial.open("wb") as file:
        # Not `np.save`: on a full disk it truncates the rows and raises nothing.
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)
    say(f"{path}: {_grid_name(found[0])} patches (rows x columns), shape {values.shape}")


def _draw(path: Path, found: dict[str, PatchFeatures], *, foreground: bool) -> None:
    from perception_encoder.analysis.drawing import save_image
    from perception_encoder.analysis.patch_drawings import ColoredImage, draw_colored_images
    from perception_encoder.analysis.patches import color_patches, find_foreground

    computed = list(found.values())
    masks = find_foreground(computed) if foreground else None
    colors = color_patches(computed, masks)
    shown = [
        ColoredImage(_read_shown(name), each, f"{Path(name).name}, {_grid_name(one)} patches")
        for (name, one), each in zip(found.items(), colors, strict=True)
    ]
    save_image(draw_colored_images(shown), path)
    say(f"{path}: {', '.join(dict.fromkeys(map(_grid_name, computed)))} patches (rows x columns)")


def _read_shown(name: str) -> Image.Image:
    from perception_encoder.analysis.drawing import make_thumbnail
    from perception_encoder.analysis.patch_drawings import PANEL_SIDE

    return make_thumbnail(name, PANEL_SIDE, item=name)


def _grid_name(one: PatchFeatures) -> str:
    return f"{one.grid[0]} x {one.grid[1]}"
