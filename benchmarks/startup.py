"""How long does one search take from nothing, as a command?

`pe search WORDS` as a process of its own, with everything on disk read before: pe-nano over the
bundled gallery, and PE-Core-B16 with random weights over some drawings. Then where the time goes,
in processes that do the same steps one after the other.

    python -m benchmarks.startup --work /tmp/startup
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.random_models import B16, random_folder
from benchmarks.report import write_report

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
NUM_DRAWINGS = 60  # for B16, which takes a fifth of a second for each
RUNS = 9
STEPS = """
import json, sys, time
marks = {}
def done(step):
    global began
    marks[step], began = time.perf_counter() - began, time.perf_counter()
began = time.perf_counter()
import perception_encoder.cli.main
done("import of the commands")
from perception_encoder.index import Index
index = Index.open(sys.argv[1])
done("opening the index, Lance and Arrow imported")
from perception_encoder.search.query_model import open_index_model
model = open_index_model(index, sys.argv[2])
done("opening the model and its vocabulary")
vector = model.embed_text("red heart")
done("the text's vector")
index.search(vector, k=10)
done("the search")
marks["torch is imported"] = "torch" in sys.modules
print(json.dumps(marks))
"""


def main() -> None:
    """Measure both models and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="For weights and indexes; kept.")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    drawings = sorted(str(path) for path in GALLERY.glob("*.webp"))
    figures = {
        "pe-nano": measured("pe-nano", work / "pe-nano.lance", [str(GALLERY)]),
        B16: measured(str(random_folder(work, B16)), work / "b16.lance", drawings[:NUM_DRAWINGS]),
    }
    print(json.dumps(figures, indent=1))
    print(
        write_report(
            "startup",
            "how long one search by words takes as a process of its own",
            ["perception-encoder", "typer", "pylance", "numpy", "tokenizers"],
            {"runs": RUNS, **figures},
        )
    )


def measured(model: str, index: Path, images: list[str]) -> dict[str, Any]:
    """Fill an index, then time searches in it; medians in seconds."""
    if not index.exists():
        pe("index", *images, "--index", index, "--model", model)
    command = ["search", "red heart", "--index", index, "--model", model]
    pe(*command)
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        pe(*command)
        seconds.append(time.perf_counter() - began)
    parts = [steps(index, model) for _ in range(RUNS)]
    timed = [name for name in parts[0] if name != "torch is imported"]
    bare = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], check=True)
        bare.append(time.perf_counter() - began)
    return {
        "process_seconds": statistics.median(seconds),
        "process_seconds_all": seconds,
        "interpreter_seconds": statistics.median(bare),
        "steps": {name: statistics.median(part[name] for part in parts) for name in timed},
        "torch_is_imported": any(part["torch is imported"] for part in parts),
    }


def steps(index: Path, model: str) -> dict[str, Any]:
    """One process that says how long each step took."""
    command = [sys.executable, "-c", STEPS, str(index), model]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    marks: dict[str, Any] = json.loads(done.stdout)
    return marks


def pe(*arguments: object) -> None:
    """Run a command of this package."""
    command = [sys.executable, "-m", "perception_encoder.cli", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
