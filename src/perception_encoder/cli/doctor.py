"""`pe doctor`: what is installed, what the backend would choose, and whether it is exact."""

import dataclasses
import json
import platform
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder import __version__, settings
from perception_encoder.cli.options import DeviceOption, JsonOption, open_model
from perception_encoder.cli.output import say, write_json, write_line, write_table
from perception_encoder.errors import PerceptionEncoderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PACKAGES = [
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
]
_GOLDEN_MODEL = "PE-Core-B16-224"
_GOLDEN = "data/golden/pe_core_b16_dog.json"
_SAME_SCENE = 0.97


def doctor(
    golden: Annotated[
        Path | None,
        typer.Option(
            help="The dog.jpeg of Roboflow's inference tests: compare PE-Core-B16's vector of it "
            "with the one their tests keep. Downloads the model."
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="Verify an index instead: its files by their checksums, every row, the searcher. "
            "Nothing is changed. Exit code 1: something is damaged."
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
    facts = _facts(device)
    if as_json:
        write_json(facts)
    else:
        write_table(["what", "value"], [[name, str(value)] for name, value in facts.items()])
    if golden is not None:
        _compare_golden(golden, device)


def _verify(path: str, *, as_json: bool) -> None:
    """Exit 1 where something of an index is damaged."""
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
        f"{path}: {found.num_rows:,} rows in {found.num_files} files are as they were written; "
        f"{found.num_compared} files were compared with checksums"
    )
    if found.num_compared < found.num_files:
        say(
            "the others have none (another program or an earlier version wrote them); pe optimize "
            "adds them"
        )


def _facts(device: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from huggingface_hub import constants

    from perception_encoder.preprocess.vocabulary import installed_vocabulary

    facts = {
        "perception-encoder": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
    }
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    try:
        with open_model("pe-nano", device=device) as model:
            from perception_encoder.backends.torch_devices import devices

            backend = model.backend
            facts["devices"] = ", ".join(devices())
            facts["backend"] = f"{backend.name} on {backend.device}, {backend.precision}"
    except PerceptionEncoderError as err:
        facts["backend"] = f"none: {err}"
    facts["vocabulary of PE and CLIP"] = str(installed_vocabulary() or "from the hub when needed")
    facts["weights cache"] = str(constants.HF_HUB_CACHE)
    facts["offline"] = "yes (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "no"
    facts["default index"] = str(settings.default_index())
    return facts


def _compare_golden(image: Path, device: str) -> None:
    """Exit 1 where B16 does not give the vector that Roboflow's integration test keeps."""
    import numpy as np

    with open_model(_GOLDEN_MODEL, device=device, precision="fp32") as model:
        vector = model.embed_image(image)[0]
    record = json.loads(files("perception_encoder").joinpath(_GOLDEN).read_text(encoding="utf-8"))
    expected = np.array(record["values"], np.float32)
    is_right, verdict = golden_verdict(vector, expected, float(record["tolerance_abs"]))
    say(f"{_GOLDEN_MODEL} on {image.name}: {verdict}")
    if not is_right:
        raise typer.Exit(1)


def golden_verdict(
    vector: "NDArray[np.float32]", expected: "NDArray[np.float32]", tolerance: float
) -> tuple[bool, str]:
    """Tell whether a vector is the recorded one, and in words how near it is.

    The record is of one JPEG file. Another encoding of the same photo gives a vector close to it,
    so the cosine decides; whether the very numbers agree is said beside it.

    Args:
        vector: (E,) of unit length.
        expected: (E,) of unit length.
        tolerance: the largest difference of a number that counts as equal.
    """
    difference = float(abs(vector - expected).max())
    cosine = float(vector @ expected)
    measured = f"cosine {cosine:.5f}, largest difference {difference:.1e}: "
    if difference <= tolerance:
        return True, measured + "the very vector that was recorded"
    if cosine >= _SAME_SCENE:
        return True, measured + "the recorded scene, in another encoding of the photo"
    return False, measured + "NOT what was recorded; the weights or the image are others"
