"""What reads archives, tables, stores and the web is loaded when it is used."""

import subprocess
import sys

HEAVY = ("torch", "pyarrow", "lance", "fsspec", "s3fs", "httpx2", "huggingface_hub")


def test_importing_sources_and_listing_a_folder_loads_nothing_heavy(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    code = f"""
import sys
from perception_encoder.sources import SourceOptions, open_sources, read_image
sources = open_sources([{str(tmp_path)!r}], SourceOptions())
assert [item.read() for source in sources for item in source.items()] == [b"x"]
assert read_image({str(tmp_path / "a.png")!r}) == b"x"
print(*(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
