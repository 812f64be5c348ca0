"""Opens each kind of checkpoint in each way, and compares the result with the documentation.

`PE_WRITE_DOCS=1 pytest tests/checkpoints/test_table.py` writes the tables of
docs/reference/checkpoints.md anew.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.checkpoint_samples import CLIP, State, meta, open_clip, state_of, timm
from checkpoints.hub_server import FakeHub, serve
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from small_models import save_drawings

from perception_encoder import AutoModel, EmbeddingModel, ImageIndex
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import load_model, random_model
from perception_encoder.checkpoints.open_clip_snapshot import save_open_clip
from perception_encoder.errors import PerceptionEncoderError, UnsupportedOperationError
from perception_encoder.export import export_pretrained
from perception_encoder.registry import find
from perception_encoder.types import ModelIdentity

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "checkpoints.md"
CPU: dict[str, Any] = {"device": "cpu"}
WEIGHTS_ONLY: dict[str, Any] = {"device": "cpu", "backend": "torch", "precision": "fp32"}
NANO = locate("pe-nano")


@dataclass
class Kind:
    """One row: ways to give a checkpoint, each with what `from_pretrained` takes."""

    title: str
    id: str | None = None
    folder: Path | None = None
    file: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    patch = pytest.MonkeyPatch()
    with serve() as hub:
        url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub
        patch.undo()


@pytest.fixture(scope="module")
def state() -> State:
    return state_of(load_model(NANO, dtype=torch.float32).model)


class Shelf:
    """Makes checkpoints of pe-nano's weights."""

    def __init__(self, folder: Path, state: State, hub: FakeHub) -> None:
        self.folder, self.state, self.hub = folder, state, hub

    def new(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        assert NANO.tokenizer is not None
        shutil.copy(NANO.tokenizer, folder / "tokenizer.json")
        return folder

    def file(self, title: str, name: str, content: object) -> Kind:
        folder = self.new(re.sub(r"\W+", "-", title))
        if name.endswith(".safetensors"):
            assert isinstance(content, dict)
            save_file(content, folder / name)
        else:
            torch.save(content, folder / name)
        return Kind(title, file=folder / name, options={"model": "pe-nano"})

    def upload(self, folder: Path, repo: str) -> str:
        for path in folder.iterdir():
            self.hub.put(repo, path.name, path.read_bytes())
        return repo


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def kinds(shelf: Shelf) -> Iterator[Kind]:
    state = shelf.state
    yield Kind("a registered model", id="pe-nano")
    ours = shelf.folder / "ours"
    AutoModel.from_pretrained("pe-nano", **WEIGHTS_ONLY).save_pretrained(ours)
    repo = shelf.upload(ours, "someone/ours")
    yield Kind("`save_pretrained`'s folder", repo, ours, ours / "model.safetensors")
    yield shelf.file("Meta's names", "w.pt", meta(state))
    yield shelf.file("open_clip's names", "w.safetensors", open_clip(state))
    clip = shelf.folder / "clip"
    text = replace(CLIP.text, vocab_size=49_408, activation="quick_gelu")
    save_open_clip(random_model(replace(CLIP, text=text)), clip, None)
    weights = clip / "open_clip_model.safetensors"
    yield Kind("open_clip snapshot", shelf.upload(clip, "someone/clip"), clip, weights)
    yield timm_vision(shelf)
    roboflow = shelf.new("roboflow")
    torch.save(meta(state), roboflow / "model.pt")
    (roboflow / "config.json").write_text(json.dumps({"vision_encoder_config": "pe-nano"}))
    yield Kind("Roboflow's package", folder=roboflow, file=roboflow / "model.pt")
    for backend, title in (("onnx", "ONNX export"), ("openvino", "OpenVINO export")):
        export_pretrained("pe-nano", shelf.folder / backend, backend=backend)  # type: ignore[arg-type]
        yield Kind(title, folder=shelf.folder / backend)
    yield shelf.file(
        "Lightning (`state_dict`, `model.`)",
        "last.ckpt",
        {"state_dict": prefixed("model.", open_clip(state)), "epoch": 3},
    )
    yield shelf.file("DataParallel, DDP (`module.`)", "w.pt", prefixed("module.", meta(state)))
    yield shelf.file("`torch.compile` (`_orig_mod.`)", "w.pt", prefixed("_orig_mod.", meta(state)))
    both = {"model": meta(state), "model_ema": prefixed("module.", meta(state))}
    yield shelf.file("averaged weights (EMA) beside plain ones", "w.pt", both)
    for name in ("float16", "bfloat16", "float64"):
        dtype = getattr(torch, name)
        cast = {key: tensor.to(dtype) for key, tensor in meta(state).items()}
        yield shelf.file(name, "w.safetensors", cast)
    shards = shelf.folder / "shards"
    shutil.copytree(ours, shards)
    (shards / "model.safetensors").unlink()
    save_torch_state_dict({k: t.clone() for k, t in state.items()}, shards, max_shard_size="2MB")
    index = shards / "model.safetensors.index.json"
    yield Kind("divided by an index", shelf.upload(shards, "someone/shards"), shards, index)
    lora = save_lora(shelf.folder / "lora", state)
    repo = shelf.upload(lora, "someone/lora")
    yield Kind("LoRA adapter of PEFT", repo, lora, lora / "adapter_model.safetensors")


def timm_vision(shelf: Shelf) -> Kind:
    name = "timm/vit_pe_core_tiny_patch16_384.fb"
    folder = shelf.folder / name.partition("/")[2]
    folder.mkdir()
    save_file(timm(state_of(random_model(find(name).config))), folder / "model.safetensors")
    shelf.upload(folder, name)
    return Kind("timm's vision tower", name, folder, folder / "model.safetensors")


def save_lora(folder: Path, state: State, **changed: object) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "pe-nano"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changed}))
    rows, columns = state["vision.blocks.0.mlp.up.weight"].shape
    key = "base_model.model.vision.blocks.0.mlp.up.lora_"
    pair = {f"{key}A.weight": torch.ones(2, columns), f"{key}B.weight": torch.ones(rows, 2)}
    save_file(pair, folder / "adapter_model.safetensors")
    return folder


def works(call: Callable[[], object]) -> str:
    try:
        call()
    except UnsupportedOperationError:
        return "no"
    return "yes"


def row_of(kind: Kind, image: Path, tmp_path: Path, own: ModelIdentity) -> list[str]:
    """Open a checkpoint in all ways; all must be the same model."""
    ways = {"id": kind.id, "folder": kind.folder, "file": kind.file}
    found: dict[str, EmbeddingModel] = {}
    for way, given in ways.items():
        if given is not None:
            is_export = kind.folder is not None and "export" in kind.title
            found[way] = AutoModel.from_pretrained(
                given,
                **(CPU if is_export else WEIGHTS_ONLY),
                **(kind.options if way == "file" else {}),
            )
    assert len({model.identity.fingerprint for model in found.values()}) == 1
    model = next(iter(found.values()))
    return [
        kind.title,
        *("yes" if way in found else "–" for way in ways),
        works(lambda: model.embed_image(image)),
        works(lambda: model.embed_text("a cat")),
        works(lambda: model.features([image])),
        index_of(model, image, tmp_path / f"{len(list(tmp_path.iterdir()))}.lance", own),
    ]


def index_of(model: EmbeddingModel, image: Path, path: Path, own: ModelIdentity) -> str:
    """Whether an index of the weights in another file takes the model, or only one of its own."""
    if model.identity == own:
        return "yes"
    index = ImageIndex(path, model=model)
    index.add(image)
    assert len(index) == 1
    return "its own"


def refused_files(state: State) -> dict[str, object]:
    return {
        "transformers' CLIP": {
            "text_model.embeddings.token_embedding.weight": torch.ones(1),
            "vision_model.embeddings.patch_embedding.weight": torch.ones(1),
        },
        "a whole pickled model": torch.nn.Linear(2, 2),
        "a module with a head beside the model": {
            **prefixed("clip.", meta(state)),
            "head.weight": torch.ones(2),
        },
        "PEFT in training": {
            "base_model.model.visual.conv1.weight": torch.ones(1),
            "base_model.model.visual.proj.lora_A.default.weight": torch.ones(1),
        },
        "two models": {"model": meta(state), "net": meta(state)},
    }


def refusals(shelf: Shelf) -> Iterator[tuple[str, str]]:
    for number, (title, content) in enumerate(refused_files(shelf.state).items()):
        path = shelf.folder / f"refused{number}.pt"
        torch.save(content, path)
        yield title, message_of(path, model="pe-nano")
    for number, (title, changed) in enumerate(
        {
            "an adapter without a base": {"base_model_name_or_path": None},
            "another kind of adapter": {"peft_type": "IA3"},
            "LoRA that changed its base": {"init_lora_weights": "pissa"},
        }.items()
    ):
        yield title, message_of(save_lora(shelf.folder / f"no{number}", shelf.state, **changed))
    snapshot = shelf.folder / "longest"
    shutil.copytree(shelf.folder / "clip", snapshot)
    config = json.loads((snapshot / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    yield "an open_clip snapshot with other preprocessing", message_of(snapshot)


def message_of(path: Path, **options: Any) -> str:
    with pytest.raises(PerceptionEncoderError) as caught:
        load_model(locate(path, **options))
    text = str(caught.value).replace(f"{path.parent}/", "")
    text = re.sub(r"^[^:]*: (taken for [^,]*, )?", "", text)
    return text.replace("|", r"\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@pytest.mark.usefixtures("exporting_once")
def test_the_tables_of_the_documentation_say_what_happens(state, hub, tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "indexes").mkdir()
    image = save_drawings(tmp_path, 1)[0]
    shelf = Shelf(tmp_path / "shelf", state, hub)
    own = AutoModel.from_pretrained("pe-nano", **WEIGHTS_ONLY).identity
    rows = [row_of(kind, image, tmp_path / "indexes", own) for kind in kinds(shelf)]
    head = ["checkpoint", "id", "folder", "file", "images", "texts", "features", "index"]
    opened = table(head, rows)
    refused = table(["checkpoint", "error"], [list(pair) for pair in refusals(shelf)])
    page = PAGE.read_text()
    for name, text in (("opened", opened), ("refused", refused)):
        start, end = f"<!-- {name} -->\n\n", f"\n\n<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        assert after, f"{PAGE} lacks the marks of a table"
        page = before + start + text + end + after
    if os.environ.get("PE_WRITE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page
