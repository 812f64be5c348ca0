import hashlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints.checkpoint_samples import CORE
from checkpoints.hub_server import COMMIT, OLD_COMMIT, FakeHub, serve
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

from perception_encoder.checkpoints import download, is_cached, locate
from perception_encoder.checkpoints.load import load_model, random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.errors import (
    CheckpointError,
    DownloadError,
    OfflineError,
    UnknownModelError,
)
from perception_encoder.registry import find

B16 = find("PE-Core-B16-224")
TIMM, META = (source.repo for source in B16.sources)
SAFETENSORS, PT = (source.filename for source in B16.sources)
CONTENT = bytes(range(256)) * 4000  # 1 MB


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[FakeHub]:
    """A hub that this process talks to. The variables are read at import, so constants are set."""
    from huggingface_hub import constants

    with serve() as hub:
        url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


def partial_files(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "hub").rglob("*.incomplete") if p.stat().st_size]


def test_a_model_is_downloaded_into_the_hubs_own_cache_and_then_never_asked_for_again(hub):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    assert is_cached(B16) is None
    path = download(B16)
    assert path.read_bytes() == CONTENT
    assert path.parts[-4:] == ("models--timm--PE-Core-B-16", "snapshots", COMMIT, SAFETENSORS)
    assert is_cached(B16) == path
    hub.requests.clear()
    assert download(B16) == path
    assert hub.requests == []


def test_a_terminal_shows_the_progress(hub, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    hub.put(TIMM, SAFETENSORS, CONTENT)
    download(B16)
    assert f"{SAFETENSORS}: 100%" in terminal.getvalue()


def test_a_partial_file_of_another_program_is_neither_used_nor_changed(hub, tmp_path):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    blobs = tmp_path / "hub" / "models--timm--PE-Core-B-16" / "blobs"
    blobs.mkdir(parents=True)
    other = blobs / f"{hashlib.sha256(CONTENT).hexdigest()}.incomplete"
    other.write_bytes(b"half")
    assert download(B16).read_bytes() == CONTENT
    assert other.read_bytes() == b"half"


def test_what_another_program_downloaded_is_used(hub):
    from huggingface_hub import hf_hub_download

    hub.put(META, PT, CONTENT)
    path = hf_hub_download(META, PT)
    hub.status = 500
    assert download(B16) == Path(path)


def test_locate_brings_a_model_and_says_where_it_came_from(hub):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    found = locate("pe-core-b16-224")
    assert found.entry is B16
    assert found.path.read_bytes() == CONTENT
    assert "hub" in found.source


def test_the_license_is_stated_once_at_the_first_download(hub, caplog):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    with caplog.at_level(logging.WARNING):
        download(B16)
        download(B16)
    assert caplog.text.count("LICENSE.PLM") == B16.license.notice.count("LICENSE.PLM")


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.put(TIMM, SAFETENSORS, CONTENT)
    hub.cut_after = [300_000, 200_000]
    assert download(B16).read_bytes() == CONTENT
    ranges = [request.range for request in hub.gets() if request.path.startswith("/cdn/")]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_download_given_up_is_continued_by_the_next_call(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.put(TIMM, SAFETENSORS, CONTENT)
    hub.cut_after = [400_000, *[0] * 20]
    with pytest.raises(DownloadError, match="continues where it stopped"):
        download(B16)
    assert [path.stat().st_size for path in partial_files(tmp_path)] == [400_000]
    hub.cut_after, hub.requests = [], []
    assert download(B16).read_bytes() == CONTENT
    assert [request.range for request in hub.gets()][-1] == "bytes=400000-"
    assert partial_files(tmp_path) == []


def test_content_with_another_hash_is_refused_and_deleted(hub, tmp_path):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    hub.corrupt = True
    with pytest.raises(DownloadError, match=r"hash is .*the hub announced"):
        download(B16)
    assert is_cached(B16) is None
    assert partial_files(tmp_path) == []
    hub.corrupt = False
    assert download(B16).read_bytes() == CONTENT


def test_small_files_are_verified_too(hub):
    hub.put("someone/model", "open_clip_config.json", b"{}")
    hub.corrupt = True
    with pytest.raises(DownloadError, match="hash"):
        locate("someone/model")


def test_content_of_another_size_is_refused_and_not_continued(hub, tmp_path):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    hub.announce_more = 10
    with pytest.raises(DownloadError, match="size"):
        download(B16)
    assert is_cached(B16) is None
    assert partial_files(tmp_path) == []
    hub.announce_more = 0
    assert download(B16).read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_whole_is_begun_anew(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.put(TIMM, SAFETENSORS, CONTENT)
    hub.cut_after = [1000, *[0] * 20]
    with pytest.raises(DownloadError):
        download(B16)
    partial_files(tmp_path)[0].write_bytes(CONTENT * 2)
    hub.cut_after = []
    assert download(B16).read_bytes() == CONTENT


def test_the_second_source_is_tried_where_the_first_does_not_exist(hub):
    hub.put(META, PT, CONTENT)
    path = download(B16)
    assert path.name == PT
    assert path.read_bytes() == CONTENT


def test_a_cached_second_source_comes_before_downloading_the_first(hub):
    hub.put(META, PT, CONTENT)
    first = download(B16)
    hub.put(TIMM, SAFETENSORS, CONTENT)
    assert download(B16) == first


def test_a_repository_asked_for_by_name_is_the_only_one_used(hub):
    hub.put(META, PT, CONTENT)
    hub.put(TIMM, SAFETENSORS, CONTENT)
    assert locate("facebook/PE-Core-B16-224").path.name == PT
    assert locate("timm/PE-Core-B-16").path.name == SAFETENSORS


def test_a_model_that_no_source_has_is_named_with_the_choices(hub):
    hub.put("someone/else", "a.bin", b"1")
    with pytest.raises(DownloadError) as caught:
        locate("PE-Core-B16-224")
    text = str(caught.value)
    assert B16.id in text
    assert f"{TIMM}/{SAFETENSORS}: no such public repository" in text
    assert f"{META}/{PT}: no such public repository" in text
    assert "perception-encoder/PE-Core-L14-336" in text
    assert "pe-nano" in text


def test_a_failing_hub_is_told_from_a_missing_file(hub):
    hub.status = 503
    with pytest.raises(DownloadError, match=r"PE-Core-B16-224: .* status 503\. Try again later"):
        download(B16)


def test_a_server_that_is_no_hub_is_named_as_such(hub):
    hub.status = 200
    with pytest.raises(DownloadError, match="HF_ENDPOINT"):
        download(B16)


def test_a_revision_is_pinned(hub):
    hub.put(TIMM, SAFETENSORS, b"new")
    hub.put(TIMM, SAFETENSORS, b"old", commit=OLD_COMMIT)
    assert locate("PE-Core-B16-224", revision=OLD_COMMIT).path.read_bytes() == b"old"
    assert locate("PE-Core-B16-224").path.read_bytes() == b"new"
    hub.status = 500
    assert locate("PE-Core-B16-224", revision=OLD_COMMIT).path.read_bytes() == b"old"


def test_an_unknown_revision_is_named(hub):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    with pytest.raises(DownloadError, match=r"at revision 'v9': .*: no such revision"):
        locate("PE-Core-B16-224", revision="v9")


def test_nothing_is_asked_offline_and_the_cache_still_serves(hub, monkeypatch):
    from huggingface_hub import constants

    hub.put(TIMM, SAFETENSORS, CONTENT)
    with pytest.raises(OfflineError, match="local_files_only forbids"):
        locate("PE-Core-B16-224", local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE forbids"):
        locate("PE-Core-B16-224")
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path = locate("PE-Core-B16-224").path
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("PE-Core-B16-224").path == path
    assert locate("PE-Core-B16-224", local_files_only=True).path == path
    assert hub.requests == []


def test_another_cache_folder_can_be_chosen(hub, tmp_path):
    hub.put(TIMM, SAFETENSORS, CONTENT)
    path = locate("PE-Core-B16-224", cache_dir=tmp_path / "elsewhere").path
    assert (tmp_path / "elsewhere") in path.parents
    assert is_cached(B16) is None
    assert is_cached(B16, tmp_path / "elsewhere") == path


@pytest.mark.usefixtures("hub")
def test_no_server_at_all_fails_within_seconds_and_says_what_to_do(monkeypatch):
    from huggingface_hub import constants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    template = dead + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    start = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        locate("PE-Core-B16-224")
    assert time.monotonic() - start < 30  # no retries for minutes
    for part in (B16.id, dead, "pe download", "HF_HOME", "the path of a checkpoint file"):
        assert part in str(caught.value)


def test_an_unregistered_repository_of_our_own_folder_is_loaded(hub, tmp_path):
    model = random_model(CORE)
    save_model(model, tmp_path / "mine", None)
    for path in (tmp_path / "mine").iterdir():
        hub.put("someone/fine-tuned", path.name, path.read_bytes())
    found = locate("someone/fine-tuned")
    assert found.config == CORE
    assert "someone/fine-tuned" in found.source
    loaded = load_model(found).model
    assert loaded.vision.patch_embed.weight.equal(model.vision.patch_embed.weight)
    hub.status = 500
    assert locate("someone/fine-tuned").path == found.path


def test_a_repository_of_divided_weights_is_fetched_whole(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    save_model(random_model(CORE), tmp_path / "mine", None)
    state = load_file(tmp_path / "mine" / "model.safetensors")
    (tmp_path / "mine" / "model.safetensors").unlink()
    save_torch_state_dict(state, tmp_path / "mine", max_shard_size="200KB")
    for path in (tmp_path / "mine").iterdir():
        hub.put("someone/divided", path.name, path.read_bytes())
    found = locate("someone/divided")
    assert found.path.name == "model.safetensors.index.json"
    assert len(found.list_files()) > 3
    assert load_model(found).model.logit_scale.equal(state["logit_scale"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("someone/divided").list_files() == found.list_files()


def test_no_file_outside_a_repository_is_fetched_for_its_index(hub, tmp_path):
    save_model(random_model(CORE), tmp_path / "mine", None)
    hub.put("someone/odd", "config.json", (tmp_path / "mine" / "config.json").read_bytes())
    index = {"weight_map": {"a": "../../other/model.safetensors"}}
    hub.put("someone/odd", "model.safetensors.index.json", json.dumps(index).encode())
    with pytest.raises(CheckpointError, match="only files of the same folder"):
        locate("someone/odd")
    assert not any("other" in request.path for request in hub.requests)


def test_an_unregistered_open_clip_snapshot_is_found_with_its_vocabulary(hub, monkeypatch):
    from huggingface_hub import constants

    trunk = {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_pe_core_base_patch16_224"}}}
    hub.put("someone/pe", "open_clip_config.json", json.dumps(trunk).encode())
    hub.put("someone/pe", "open_clip_pytorch_model.bin", b"weights")
    hub.put("someone/pe", "tokenizer.json", b'{"a": 1}')
    found = locate("someone/pe")
    assert found.config == B16.config
    assert found.path.name == "open_clip_pytorch_model.bin"
    assert found.tokenizer == found.path.with_name("tokenizer.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("someone/pe") == found


@pytest.mark.parametrize("files", [{}, {"config.json": b"{}", "model.safetensors": CONTENT}])
def test_other_repositories_are_refused_before_their_weights_are_fetched(files, hub):
    for name, content in files.items():
        hub.put("someone/thing", name, content)
    with pytest.raises(UnknownModelError, match=r"'someone/thing' is no registered model"):
        locate("someone/thing")
    assert not any("safetensors" in request.path for request in hub.requests)


def test_a_name_that_no_repository_can_have_is_unknown(hub):
    with pytest.raises(UnknownModelError, match="cannot be a repository's name"):
        locate("some--one/-thing-")
    assert hub.requests == []


def test_the_vocabulary_is_fetched_where_no_copy_is_installed(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "perception_encoder.preprocess.vocabulary.installed_vocabulary", lambda: None
    )
    hub.put("openai/clip-vit-base-patch32", "tokenizer.json", b"{}")
    (tmp_path / "PE-Core-B16-224.pt").touch()
    path = locate(tmp_path / "PE-Core-B16-224.pt").tokenizer
    assert path.read_bytes() == b"{}"
    hub.status = 500
    assert locate(tmp_path / "PE-Core-B16-224.pt").tokenizer == path


def test_the_token_is_sent_to_the_hub_but_not_to_its_cdn(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.put(TIMM, SAFETENSORS, CONTENT)
    download(B16)
    on_hub = {r.authorization for r in hub.requests if not r.path.startswith("/cdn/")}
    on_cdn = {r.authorization for r in hub.requests if r.path.startswith("/cdn/")}
    assert on_hub == {"Bearer hf_secret"}
    assert on_cdn == {None}


# From here on in processes of their own, through the variables that people set.

SCRIPT = """
import sys
from perception_encoder.checkpoints import locate
from perception_encoder.errors import PerceptionEncoderError
try:
    print(locate("PE-Core-B16-224").path)
except PerceptionEncoderError as err:
    sys.exit(f"{type(err).__name__}: {err}")
"""


def start(hub: FakeHub, home: Path, **variables: str) -> subprocess.Popen[str]:
    keep = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT") if key in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={**keep, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_hf_endpoint_hf_home_and_hf_hub_offline_are_honored(tmp_path):
    with serve() as hub:
        hub.put(TIMM, SAFETENSORS, CONTENT)
        process = start(hub, tmp_path, HF_HUB_OFFLINE="1")
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 1
        assert "OfflineError: perception-encoder/PE-Core-B16-224" in errors
        assert hub.requests == []
        process = start(hub, tmp_path)
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert Path(output.strip()).read_bytes() == CONTENT
        assert tmp_path / "hub" in Path(output.strip()).parents
        assert "LICENSE.PE" in errors
        assert SAFETENSORS not in errors  # no progress bar outside a terminal
        hub.requests.clear()
        process = start(hub, tmp_path, HF_HUB_OFFLINE="1")
        assert process.communicate(timeout=200)[0] == output
        assert hub.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_killed_download_is_continued_by_the_next_process(tmp_path):
    with serve() as hub:
        content = CONTENT * 40
        hub.put(TIMM, SAFETENSORS, content)
        hub.pause_after = 25_000_000
        process = start(hub, tmp_path)
        deadline = time.monotonic() + 100
        while not any(size >= 10_000_000 for size in sizes(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (kept,) = sizes(tmp_path)
        hub.pause_after = None
        process = start(hub, tmp_path)
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert Path(output.strip()).read_bytes() == content
        assert hub.gets()[-1].range == f"bytes={kept}-"


def sizes(home: Path) -> list[int]:
    return [path.stat().st_size for path in home.rglob("*.incomplete")]
