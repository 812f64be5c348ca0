"""What lies in the cache of graphs, and for how long."""

import os
import subprocess
import sys
import time

import pytest

from perception_encoder.backends.graph_cache import GraphCache

MONTH = 30 * 24 * 3600


def write(folder):
    (folder / "graph.bin").write_bytes(b"weights" * 1000)


def refuse(folder):
    raise AssertionError(f"{folder} was made again")


def age(folder, months):
    then = time.time() - months * MONTH
    os.utime(folder, (then, then))


def test_graphs_that_nobody_opens_for_months_go_when_another_is_made(tmp_path):
    cache = GraphCache(tmp_path)
    old = cache.graph("backend/model-version-1", "text", write)
    recent = cache.graph("backend/model-version-2", "text", write)
    age(old.parent, months=3)
    age(recent.parent, months=1)
    cache.graph("backend/model-version-3", "text", write)
    assert not old.parent.exists()
    assert cache.graph("backend/model-version-2", "text", refuse) == recent


def test_opening_a_graph_keeps_it(tmp_path):
    cache = GraphCache(tmp_path)
    used = cache.graph("backend/used", "text", write)
    age(used.parent, months=3)
    assert cache.graph("backend/used", "text", refuse) == used
    cache.graph("backend/new", "text", write)
    assert cache.graph("backend/used", "text", refuse) == used


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_second_graph_of_the_same_weights_leaves_the_first(tmp_path, name):
    cache = GraphCache(tmp_path)
    first = cache.graph("backend/model", "first", write)
    age(first.parent, months=3)
    cache.graph("backend/model", name, write)
    assert cache.graph("backend/model", "first", refuse) == first


def test_what_a_killed_process_left_goes_when_the_graph_is_made(tmp_path):
    cache = GraphCache(tmp_path)
    killed = (
        "import os, sys; from pathlib import Path\n"
        "from perception_encoder.backends.graph_cache import GraphCache\n"
        "def build(folder): (folder / 'graph.bin').write_bytes(b'half'); os._exit(9)\n"
        f"GraphCache(Path({str(tmp_path)!r})).graph('backend/model', 'text', build)"
    )
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    assert list(tmp_path.glob("backend/model/.text.*/graph.bin"))
    other = cache.graph("backend/model", "image", write)
    made = cache.graph("backend/model", "text", write)
    assert {path for path in made.parent.iterdir() if path.is_dir()} == {made, other}
