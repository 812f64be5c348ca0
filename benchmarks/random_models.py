"""What `encoders.py` measures with: random weights, prepared images, large files; made once.

The weights are open_clip's own initial ones, saved as such a model lies on the hub, so that
open_clip, timm and this package read the same file.
"""

import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import tokenizers
from PIL import Image

from benchmarks.backend_process import Backend, BackendError, Spec
from benchmarks.decoding_images import TWELVE, enlarged, photos_in
from perception_encoder import AutoModel
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.preprocess.vocabulary import installed_vocabulary, read_vocabulary
from perception_encoder.registry import TextConfig, find

CAPTIONS = str(files("perception_encoder").joinpath("data/captions.txt"))
B16, T16 = "PE-Core-B16-224", "PE-Core-T16-384"
OPEN_CLIP_NAMES = {B16: "PE-Core-B-16", T16: "PE-Core-T-16-384"}


@dataclass(frozen=True)
class Place:
    """Where things are: the peers' environments, and the files that are made once."""

    peers: Path
    photos: Path
    work: Path

    def python(self, peer: str) -> Path:
        """The interpreter of a peer's environment."""
        return self.peers / peer / "bin" / "python"

    def weights(self, model: str) -> Path:
        """A folder of random weights, as open_clip saves them."""
        return self.work / OPEN_CLIP_NAMES[model]

    def pixels(self, model: str) -> Path:
        """Prepared images, (32, S, S, 3) uint8."""
        return self.work / f"{OPEN_CLIP_NAMES[model]}.npy"


def weights_file(place: Place, model: str) -> str:
    """The file of weights that open_clip and timm read."""
    return str(place.weights(model) / "open_clip_model.safetensors")


def prepare(place: Place, model: str) -> None:
    """Make weights and prepared images, unless an earlier run has."""
    name = OPEN_CLIP_NAMES[model]
    if not place.weights(model).exists():
        spec = Spec("open_clip", "run_open_clip", place.python("open_clip"), {"model": name})
        try:
            with Backend(spec) as backend:
                backend.ask("save", str(place.weights(model)))
        except BackendError as err:
            raise SystemExit(f"open_clip is needed to make the weights: {err}") from err
    if not place.pixels(model).exists():
        config = find(model).config
        processor = ImageProcessor(config.image, config.vision.image_size)
        found = [processor(path) for path in small_photos(place)]
        np.save(place.pixels(model), np.stack((found * 32)[:32]))


def random_folder(work: Path, model: str) -> Path:
    """A folder of this package's own random weights, made without any peer; 2 GB for B16."""
    folder = work / f"{model}-random"
    if not folder.exists():
        AutoModel.from_pretrained(
            model, random_weights=True, backend="torch", device="cpu"
        ).save_pretrained(folder)
    return folder


def exported(place: Place, model: str, precision: str) -> Path:
    """The model as ONNX graphs of this package, unless an earlier run has made them."""
    folder = place.work / f"{OPEN_CLIP_NAMES[model]}-onnx-{precision}"
    if not folder.exists():
        command = [sys.executable, "-m", "perception_encoder.cli", "export"]
        command += [str(place.weights(model)), str(folder), "--precision", precision]
        done = subprocess.run(command, check=False)  # what cannot be made is left out later
        if done.returncode:
            print(f"  no ONNX graphs of {model} in {precision}", file=sys.stderr)
    return folder


def prepare_clip(place: Place) -> Path:
    """Make CLIP's folder for sentence-transformers and Infinity, and its ONNX for fastembed."""
    folder, tokenizer = place.work / "clip", place.work / "tokenizer.json"
    if not folder.exists():
        clip_vocabulary().save(str(tokenizer))
        settings = {"folder": str(folder), "tokenizer": str(tokenizer)}
        python = place.python("sentence_transformers")
        with Backend(Spec("", "run_sentence_transformers", python, settings)) as backend:
            backend.ask("export", str(place.work / "clip-onnx"))
    return folder


def clip_vocabulary() -> tokenizers.Tokenizer:
    """The vocabulary of CLIP and PE-Core, which lies in open_clip's wheel."""
    vocabulary = installed_vocabulary()
    if vocabulary is None:
        raise SystemExit("CLIP's vocabulary is needed: pip install --no-deps open_clip_torch")
    return read_vocabulary(vocabulary)


def mean_tokens(config: TextConfig) -> float:
    """Tokens of a caption, begin and end among them."""
    tokenizer = Tokenizer(clip_vocabulary(), config.context_length)
    captions = Path(CAPTIONS).read_text(encoding="utf-8").splitlines()
    return float(np.mean([len(row) for row in tokenizer.encode(captions)]))


def small_photos(place: Place) -> list[Path]:
    """The photos of under a megapixel."""
    paths = sorted(p for p in place.photos.iterdir() if p.suffix in (".jpg", ".jpeg"))
    return [path for path in paths if np.prod(Image.open(path).size) < 1_000_000]


def camera_files(place: Place) -> list[str]:
    """JPEG files of 12 megapixels: each photo scaled up, with a sensor's noise, and mirrored."""
    folder = place.work / "12-megapixels"
    if not folder.exists():
        folder.mkdir()
        for name, photo in photos_in(place.photos).items():
            large = enlarged(photo, TWELVE)
            large.save(folder / f"{Path(name).stem}.jpg", quality=90)
            mirrored = large.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            mirrored.save(folder / f"{Path(name).stem}-mirrored.jpg", quality=90)
    return sorted(str(path) for path in folder.iterdir())
