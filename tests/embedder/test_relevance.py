"""Relevance maps: what each patch of an image adds to its cosine with a text."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import CLIP, CORE, WITHOUT_POOLING, WITHOUT_TEXT, drawing, open_tiny
from torch.nn import functional as F

from perception_encoder import AutoModel
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import load_model
from perception_encoder.errors import CheckpointError, ImageError, UnsupportedOperationError
from perception_encoder.export import export_pretrained

pytestmark = pytest.mark.usefixtures("exporting_once")

GALLERY = files("perception_encoder") / "data" / "gallery"
BACKENDS = ["torch", "openvino", "onnx"]
WITHOUT_CLASS_TOKEN = replace(
    CORE, id="tiny/no-class-token", vision=replace(CORE.vision, has_class_token=False)
)
CONFIGS = [CORE, CLIP, WITHOUT_CLASS_TOKEN]
TEXTS = ["cat", "cat ca", "t"]
TOLERANCE = 2e-5  # of a sum of contributions: what backends may differ by


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of tiny models, by id."""
    folder = tmp_path_factory.mktemp("saved")
    return {
        config.id: open_tiny(config).save_pretrained(folder / config.id.replace("/", "-"))
        for config in CONFIGS
    }


def open_saved(path, backend="torch"):
    return AutoModel.from_pretrained(path, device="cpu", backend=backend, precision="fp32")


@pytest.fixture(scope="module")
def nano():
    return open_saved("pe-nano")


# -- contributions --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.id)
def test_contributions_and_the_rest_are_the_cosine(saved, config, backend):
    model = open_saved(saved[config.id], backend)
    for seed in range(3):
        image = drawing(seed)
        found = model.explain(image, TEXTS)
        grid = config.vision.grid_size
        assert (found.maps.shape, found.maps.dtype) == ((3, grid, grid), np.float32)
        cosines = model.similarity(model.embed_text(TEXTS), model.embed_image(image))[:, 0]
        assert np.abs(found.maps.sum(axis=(1, 2)) + found.rest - cosines).max() <= TOLERANCE
        assert np.abs(found.scores - cosines).max() <= TOLERANCE


@pytest.mark.parametrize("config", [CORE, CLIP], ids=lambda config: config.id)
def test_contributions_are_those_of_torchs_gradients_with_held_factors(saved, config):
    model = open_saved(saved[config.id])
    tower = load_model(locate(saved[config.id]), dtype=torch.float64).model.vision
    image = drawing(5)
    tokens = torch.from_numpy(model.backend.pool_inputs(model.processor(image)[None])[0]).double()
    texts = torch.from_numpy(model.embed_text(TEXTS)).double()
    shares = torch_contributions(tower, tokens, texts)[:, 1:]
    maps = model.relevance(image, TEXTS).reshape(3, -1)
    assert np.abs(maps - shares.numpy()).max() <= 1e-6


def torch_contributions(tower, tokens, texts):
    """(T, N): each token's part of u, times torch's gradient of the cosine at u."""
    is_pool = tower.config.pooling == "attention"
    if is_pool:
        block, x = tower.pool, tokens
        q, (k, v) = block.q(block.probe), block.kv(x).chunk(2, dim=-1)
        heads, out, norm, residual = block.num_heads, block.out, block.norm, 0
    else:
        block = tower.blocks[-1]
        x = block.norm1(tokens)
        q, k, v = block.attention.qkv(x).chunk(3, dim=-1)
        q, heads, out = q[0], block.attention.num_heads, block.attention.out
        norm, residual = block.norm2, tokens[0]
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in (q, k, v))
    weights = torch.einsum("mc,nmc->nm", q, k).div(q.shape[-1] ** 0.5).softmax(dim=0)
    parts = (weights[..., None] * v).flatten(1) @ out.weight.T  # (N, D)
    u = (residual + parts.sum(0) + out.bias).detach().requires_grad_(True)
    hidden = block.mlp.up(held_norm(norm, u))
    gate = (block.mlp.activation(hidden) / hidden).detach()
    y = u + block.mlp.down(gate * hidden)
    e = tower.projection(y if is_pool else held_norm(tower.post_norm, y))
    cosines = texts @ e / e.detach().norm()
    gradients = [torch.autograd.grad(one, u, retain_graph=True)[0] for one in cosines]
    return (torch.stack(gradients) @ parts.T).detach()


def held_norm(norm, x):
    """LayerNorm that divides by a constant."""
    deviation = (x.var(unbiased=False) + norm.eps).sqrt().detach()
    exact = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    held = (x - x.mean()) / deviation * norm.weight + norm.bias
    assert torch.allclose(held, exact)
    return held


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("config", [CORE, CLIP], ids=lambda config: config.id)
def test_backends_give_the_same_maps(saved, config, backend):
    image = drawing(1)
    expected = open_saved(saved[config.id]).relevance(image, TEXTS)
    found = open_saved(saved[config.id], backend).relevance(image, TEXTS)
    assert np.abs(found - expected).max() <= TOLERANCE


def test_a_text_alone_has_the_map_that_it_has_among_others(nano):
    image = drawing(2)
    alone = nano.relevance(image, "a cat")
    assert alone.shape == (6, 6)
    assert np.allclose(alone, nano.relevance(image, ["a dog", "a cat"])[1], atol=1e-6)


@pytest.mark.parametrize(
    ("file", "left", "right"),
    [
        ("cat-left-of-house", "cat", "house"),
        ("dog-left-of-red-car", "dog", "red car"),
        ("horse-left-of-tree", "horse", "tree"),
        ("monkey-left-of-banana", "monkey", "banana"),
        ("robot-left-of-rocket", "robot", "rocket"),
        ("rabbit-left-of-carrot", "rabbit", "carrot"),
    ],
)
def test_maps_point_at_what_the_text_names(nano, file, left, right):
    first, second = nano.relevance(GALLERY / f"{file}.webp", [left, right])
    halves = first - second
    assert halves[:, :3].sum() > 0 > halves[:, 3:].sum()


def test_a_map_covers_the_square_that_the_model_sees(saved, nano):
    wide = drawing(3, width=80, height=20)
    assert nano.explain(wide, "cat").region == (0, 0, 1, 1)
    model = open_saved(saved[CLIP.id])
    assert model.explain(wide, "cat").region == (0.375, 0, 0.625, 1)
    assert model.explain(wide.transpose(Image.Transpose.ROTATE_90), "cat").region == (
        0, 0.375, 1, 0.625,
    )  # fmt: skip


# -- weights --------------------------------------------------------------------------------------


def test_weights_in_torchs_format_give_the_same(nano, tmp_path):
    found = locate("pe-nano")
    torch.save(load_model(found).model.state_dict(), tmp_path / "nano.pt")
    shutil.copy(found.tokenizer, tmp_path)
    again = AutoModel.from_pretrained(tmp_path / "nano.pt", model="pe-nano", precision="fp32")
    maps = again.relevance(drawing(1), "a cat")
    assert np.abs(maps - nano.relevance(drawing(1), "a cat")).max() <= TOLERANCE


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_an_export_has_no_weights_to_explain_with(saved, backend, tmp_path):
    export_pretrained(saved[CORE.id], tmp_path / "export", backend=backend)
    model = AutoModel.from_pretrained(tmp_path / "export")
    with pytest.raises(UnsupportedOperationError, match="open the model that it was made from"):
        model.relevance(drawing(1), "cat")


def test_models_that_cannot_explain_say_why():
    with pytest.raises(UnsupportedOperationError, match="file of weights"):
        open_tiny(CORE).relevance(drawing(1), "cat")
    with pytest.raises(UnsupportedOperationError, match="reads no text"):
        open_tiny(WITHOUT_TEXT).relevance(drawing(1), "cat")
    with pytest.raises(UnsupportedOperationError, match="patch features only"):
        open_tiny(WITHOUT_POOLING).relevance(drawing(1), "cat")


def test_an_image_that_cannot_be_used_is_an_image_error(nano, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"no\.png"):
        nano.relevance(tmp_path / "no.png", "a cat")


def test_weights_that_were_replaced_are_refused(saved, tmp_path):
    path = open_saved(saved[CORE.id]).save_pretrained(tmp_path / "model")
    model = open_saved(path)
    other = open_saved(saved[CORE.id]).save_pretrained(tmp_path / "other") / "model.safetensors"
    content = bytearray(other.read_bytes())
    content[-4:] = np.float32(9).tobytes()
    other.write_bytes(content)
    open_saved(tmp_path / "other")
    os.replace(other, path / "model.safetensors")
    open_saved(path)  # notes the weights that are there now
    with pytest.raises(CheckpointError, match="open it again"):
        model.relevance(drawing(1), "cat")


def test_openvino_explains_without_torch():
    name = str(GALLERY / "cat.webp")
    code = (
        "import sys\nfrom perception_encoder import AutoModel\n"
        "model = AutoModel.from_pretrained('pe-nano', backend='openvino')\n"
        f"assert model.relevance({name!r}, 'a cat').shape == (6, 6)\n"
        "assert 'torch' not in sys.modules"
    )
    AutoModel.from_pretrained("pe-nano", backend="openvino").relevance(name, "a cat")  # its graphs
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
