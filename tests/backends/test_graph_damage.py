"""Damaged graphs, notes and configurations are made anew or refused: they change no embedding."""

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from backends.backend_inputs import pixels, token_rows
from small_models import CORE, WITHOUT_POOLING, open_tiny

from perception_encoder.backends import Backend, ComputeOptions, graph_cache, open_backend
from perception_encoder.backends.graph_cache import checksum
from perception_encoder.checkpoints import locate
from perception_encoder.errors import CheckpointError, PerceptionEncoderError
from perception_encoder.export import export_pretrained

pytestmark = pytest.mark.usefixtures("exporting_once")

BACKENDS = ("openvino", "onnx")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return open_tiny().save_pretrained(tmp_path_factory.mktemp("models") / "core")


@pytest.fixture(scope="module")
def exported(saved) -> Path:
    for backend in BACKENDS:
        export_pretrained(saved, saved.parent / backend, backend=backend)
    return saved.parent


@pytest.fixture(params=["before", "meanwhile"])
def checked(request, monkeypatch):
    """Small files are checked before they are opened, large ones while they are."""
    if request.param == "meanwhile":
        monkeypatch.setattr(graph_cache, "_SMALL_BYTES", -1)


def embeddings(backend: Backend) -> list[np.ndarray]:
    return [backend.encode_image(pixels(CORE, 2)), backend.encode_text(token_rows(2))]


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (value,) = file.read(1)
        file.seek(position)
        file.write(bytes([value ^ 0x41]))


def positions(path: Path) -> list[int]:
    """Some of a file, its ends among them: what a sample would not see is most of it."""
    size = path.stat().st_size
    return sorted({0, size - 1, *np.random.default_rng(size).integers(0, size, 4).tolist()})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("checked")
def test_a_byte_anywhere_in_a_cached_graph_changes_no_embedding(backend, saved, tmp_path):
    options = ComputeOptions(backend=backend, precision="fp32", graph_cache=tmp_path)
    expected = embeddings(open_backend(locate(saved), options))
    files = [p for p in tmp_path.rglob("*") if p.suffix in (".xml", ".bin", ".onnx", ".data")]
    assert len(files) == 4
    # Making ONNX graphs takes seconds, so all of them are damaged at once.
    for damaged in [files] if backend == "onnx" else [[file] for file in files]:
        for file in damaged:
            for position in positions(file):
                flip(file, position)
        found = embeddings(open_backend(locate(saved), options))
        assert all(map(np.array_equal, found, expected)), damaged


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("checked")
def test_a_damaged_export_is_refused(backend, exported, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exported / backend, folder)
    embeddings(open_backend(locate(folder), ComputeOptions()))
    for file in sorted(exported.joinpath(backend).glob("*.*")):
        if file.name in ("config.json", "tokenizer.json"):
            continue
        for position in positions(file)[:3]:
            shutil.copy(file, folder)
            flip(folder / file.name, position)
            with pytest.raises(CheckpointError, match=f"{file.name}.*Export the model again"):
                embeddings(open_backend(locate(folder), ComputeOptions()))
        shutil.copy(file, folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_export_of_an_earlier_version_opens_without_checksums(backend, exported, tmp_path):
    folder = shutil.copytree(exported / backend, tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())
    del config["checksum"], config["graphs"]["checksums"]
    (folder / "config.json").write_text(json.dumps(config))
    expected = embeddings(open_backend(locate(exported / backend), ComputeOptions()))
    found = embeddings(open_backend(locate(folder), ComputeOptions()))
    assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("name", ["core", "openvino"])
def test_a_byte_anywhere_in_a_configuration_changes_no_model(name, exported, tmp_path):
    folder = shutil.copytree(exported / name, tmp_path / "copy")
    before = locate(folder)
    content = (folder / "config.json").read_bytes()
    opened = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x01  # "5" becomes "4", "a" becomes "`"
        (folder / "config.json").write_bytes(damaged)
        try:
            found = locate(folder)
        except PerceptionEncoderError:
            continue
        opened += 1
        assert found == dataclasses.replace(before, graphs=found.graphs), damaged.decode()
        assert found.graphs is None or found.graphs.fingerprint == before.graphs.fingerprint
    assert opened < len(content) / 4  # spaces and the name of the checksum itself


def test_a_changed_configuration_says_what_to_do(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["image"]["mean"] = [0.4, 0.5, 0.5]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'checksum' does not fit.*remove that line"):
        locate(folder)
    del config["checksum"]
    (folder / "config.json").write_text(json.dumps(config))
    assert locate(folder).config.image.mean == (0.4, 0.5, 0.5)


def test_a_damaged_graph_is_reported_and_made_once(saved, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(graph_cache, "_SMALL_BYTES", -1)
    caplog.set_level(logging.WARNING)
    options = ComputeOptions(backend="openvino", precision="fp32", graph_cache=tmp_path)
    open_backend(locate(saved), options).encode_text(token_rows(1))
    (graph,) = tmp_path.rglob("graph.bin")
    flip(graph, graph.stat().st_size // 3)
    for num_reports in (1, 1):
        open_backend(locate(saved), options).encode_text(token_rows(1))
        assert caplog.text.count("is damaged and is built again") == num_reports


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) + 5, (2 << 20) + 4096])
def test_a_checksum_notices_what_flips_moves_and_goes(size, tmp_path):
    path = tmp_path / "file"
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    seen = set()
    variants = [data, np.append(data, 0).astype(np.uint8), data[:-1]]
    for position in {0, size // 3, size - 1} if size else set():
        changed = data.copy()
        changed[position] ^= 1
        variants.append(changed)
    if size > 8192:
        zeroed, pages, words = data.copy(), data.copy(), data.copy()
        zeroed[4096:8192] = 0
        pages[:4096], pages[4096:8192] = data[4096:8192], data[:4096]
        words[:8], words[8:16] = data[8:16], data[:8]
        variants += [zeroed, pages, words]
    for variant in variants:
        path.write_bytes(variant.tobytes())
        seen.add(checksum(path))
    assert len(seen) == len({variant.tobytes() for variant in variants})


# -- overwritten while open -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_graphs_that_are_overwritten_while_open_are_noticed(backend, saved, tmp_path):
    options = ComputeOptions(backend=backend, precision="fp32", graph_cache=tmp_path)
    backend = open_backend(locate(saved), options)
    expected = embeddings(backend)
    for suffix in (".bin", ".data"):
        for path in tmp_path.rglob(f"*{suffix}"):
            path.write_bytes(bytes(path.stat().st_size))
    for call, inputs in (
        (backend.encode_image, pixels(CORE, 2)),
        (backend.encode_text, token_rows(2)),
    ):
        with pytest.raises(CheckpointError, match="overwritten while the model was open"):
            call(inputs)
    again = embeddings(open_backend(locate(saved), options))
    assert all(map(np.array_equal, again, expected))


def test_a_cache_that_is_deleted_or_made_anew_leaves_open_models_alone(saved, tmp_path):
    options = ComputeOptions(backend="openvino", precision="fp32", graph_cache=tmp_path / "cache")
    backend = open_backend(locate(saved), options)
    expected = embeddings(backend)
    (tmp_path / "cache").rename(tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("graph.*"):
        path.chmod(0o600)
        os.link(path, path.with_name(f"{path.name}.backup"))
    assert all(map(np.array_equal, embeddings(backend), expected))
    shutil.rmtree(tmp_path / "moved")
    assert all(map(np.array_equal, embeddings(backend), expected))


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_exports_have_the_names_that_are_documented(backend, precision, saved, tmp_path):
    export_pretrained(saved, tmp_path / "export", backend=backend, precision=precision)
    check_names(backend, tmp_path / "export", ["embeddings", "features", "pool_inputs"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_export_of_features_has_the_names_that_are_documented(backend, tmp_path):
    saved = open_tiny(WITHOUT_POOLING).save_pretrained(tmp_path / "saved")
    export_pretrained(saved, tmp_path / "export", backend=backend)
    check_names(backend, tmp_path / "export", ["features"])


def check_names(backend: str, folder: Path, image_outputs: list[str]) -> None:
    """Open the graphs as any other program would."""
    found = {}
    if backend == "onnx":
        import onnxruntime

        for path in folder.glob("*.onnx"):
            session = onnxruntime.InferenceSession(path)
            found[path.stem] = (
                [one.name for one in session.get_inputs()],
                [one.name for one in session.get_outputs()],
            )
    else:
        import openvino as ov

        for path in folder.glob("*.xml"):
            graph = ov.Core().read_model(path)
            compiled = ov.Core().compile_model(graph, "CPU")
            found[path.stem] = (
                [one.get_any_name() for one in compiled.inputs],
                [one.get_any_name() for one in compiled.outputs],
            )
            assert [one.get_friendly_name() for one in graph.get_parameters()] == found[path.stem][
                0
            ]
    expected = {"image": (["pixels"], image_outputs)}
    if "text" in found:
        expected["text"] = (["token_ids"], ["embeddings"])
    assert found == expected
