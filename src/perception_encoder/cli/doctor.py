"""`pe doctor`: versions, devices and caches; checks of an index, or of a model's embedding."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder import __version__, settings
from perception_encoder.cli.options import DeviceOption, JsonOption, open_model
from perception_encoder.cli.output import say, write_json, write_line, write_table
from perception_encoder.errors import PerceptionEncoderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PACKAGES: Final = [
    "numpy",
    "pillow",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "pylance",
    "pyarrow",
    "torch",
    "openvino",
    "onnxruntime",
    "pillow-heif",
    "av",
    "pylibjxl",
    "rawpy",
]
_GOLDEN_MODEL: Final = "PE-Core-B16-224"
_GOLDEN: Final = "data/golden/pe_core_b16_dog.json"
_SAME_SCENE: Final = 0.97  # cosine of two encodings of one photo


def doctor(
    golden: Annotated[
        Path | None,
        typer.Option(
            help="dog.jpeg of Roboflow's inference tests: compare its embedding by PE-Core-B16 "
            "with the one in their tests. Downloads the model."
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="Verify this index instead: checksums of its files, every row, the searcher. "
            "Changes nothing; the exit code is 1 if something is damaged."
        ),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show versions, devices, backends and caches, or verify an index.

    Examples:
        pe doctor --golden dog.jpeg
        pe doctor --index images.lance
    """
    if index is not None:
        _verify(index, as_json=as_json)
        return
    environment = _describe_environment(device)
    if as_json:
        write_json(environment)
    else:
        write_table(["what", "value"], [[name, value] for name, value in environment.items()])
    if golden is not None:
        _compare_golden(golden, device)


def _verify(path: str, *, as_json: bool) -> None:
    """Report what is damaged in an index.

    Raises:
        typer.Exit: something is; the exit code is 1.
    """
    from tqdm import tqdm

    from perception_encoder.index.verify import verify_index

    with tqdm(disable=None, unit_scale=True) as bar:

        def show(step: str, done: int, total: int) -> None:
            if not done:
                bar.reset(total)
                bar.set_description(step)
            bar.update(done - bar.n)

        found = verify_index(path, show)
    if as_json:
        write_json(dataclasses.asdict(found))
    for problem in () if as_json else found.problems:
        rows = f" ({problem.num_rows:,} rows)" if problem.num_rows else ""
        write_line(f"{problem.place}{rows}: {problem.reason}")
        for name in problem.names:
            write_line(f"  {name}")
        write_line(f"  {problem.remedy}")
    if found.problems:
        say(f"{path}: {len(found.problems)} problems")
        raise typer.Exit(1)
    say(
        f"{path}: {found.num_rows:,} rows in {found.num_files} files are unchanged; "
        f"{found.num_compared} files match their checksums"
    )
    if found.num_compared < found.num_files:
        say(
            "the others have no checksums, as another program or an earlier version wrote them; "
            "pe optimize adds them"
        )


def _describe_environment(device: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from huggingface_hub import constants

    from perception_encoder.preprocess.vocabulary import installed_vocabulary

    report = {
        "perception-encoder": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
    }
    for name in _PACKAGES:
        try:
            report[name] = version(name)
        except PackageNotFoundError:
            report[name] = "not installed"
    try:
        with open_model("pe-nano", device=device) as model:
            from perception_encoder.backends.torch_devices import list_devices

            backend = model.backend
            report["devices"] = ", ".join(list_devices())
            report["backend"] = f"{backend.name} on {backend.device}, {backend.precision}"
    except PerceptionEncoderError as err:
        report["backend"] = f"none: {err}"
    report["vocabulary of PE and CLIP"] = str(installed_vocabulary() or "from the hub when needed")
    report["weights cache"] = str(constants.HF_HUB_CACHE)
    report["offline"] = "yes (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "no"
    report["default index"] = str(settings.default_index())
    return report


def _compare_golden(image: Path, device: str) -> None:
    """Compare the embedding of an image with the one in Roboflow's integration test.

    Raises:
        typer.Exit: they differ; the exit code is 1.
    """
    import numpy as np

    with open_model(_GOLDEN_MODEL, device=device, precision="fp32") as model:
        embedding = model.embed_image(image)[0]
    record = json.loads(files("perception_encoder").joinpath(_GOLDEN).read_text(encoding="utf-8"))
    expected = np.array(record["values"], np.float32)
    is_right, verdict = compare_golden(embedding, expected, float(record["tolerance_abs"]))
    say(f"{_GOLDEN_MODEL} on {image.name}: {verdict}")
    if not is_right:
        raise typer.Exit(1)


def compare_golden(
    embedding: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float
) -> tuple[bool, str]:
    """Return whether an embedding is the recorded one, and a sentence about the difference.

    The record is of one JPEG file. Another encoding of the same photo gives an embedding close to
    it, so the cosine decides.

    Args:
        embedding: (E,) of unit length.
        expected: (E,) of unit length.
        tolerance: the largest difference in a dimension that counts as equal.
    """
    difference = float(abs(embedding - expected).max())
    cosine = float(embedding @ expected)
    measured = f"cosine {cosine:.5f}, largest difference {difference:.1e}: "
    if difference <= tolerance:
        return True, measured + "identical to the recorded embedding"
    if cosine >= _SAME_SCENE:
        return True, measured + "the recorded photo, in another encoding"
    return False, measured + "NOT the recorded embedding; the weights or the image differ"
