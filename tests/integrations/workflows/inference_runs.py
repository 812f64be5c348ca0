"""Runs in a process with an `inference` that has the execution engine inside; see inference.txt.

    python inference_runs.py REQUEST RESULTS

REQUEST and RESULTS are as for engine_runs.py.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any, Final

import cv2
from workflow_definitions import MODEL, cosine, embedding, workflow

# What a host gives the stock blocks, none of which is used here.
HOST: Final = dict.fromkeys(
    f"workflows_core.{name}"
    for name in ("model_manager", "api_key", "background_tasks", "step_execution_mode")
)


def run(definition: dict[str, Any], inputs: dict[str, Any]) -> list[dict[str, Any]]:
    from inference.core.workflows.execution_engine.core import ExecutionEngine

    backend = ExecutionEngine.init(workflow_definition=definition, init_parameters=HOST)
    results: list[dict[str, Any]] = backend.run(inputs, serialize_results=True)
    return results


def main(request_file: str, results_file: str) -> None:
    sys.modules["roboflow_workflows"] = None  # type: ignore[assignment]  # as if not installed
    request = json.loads(Path(request_file).read_text())
    logging.disable(logging.INFO)
    images = [cv2.imread(path) for path in request["images"]]
    zero_shot = {
        "type": "pe_zero_shot@v1", "name": "label", "images": "$inputs.image", "model": MODEL,
        "classes": ["cat", "castle", "red heart"],
    }  # fmt: skip
    add = {
        "type": "pe_index_add@v1", "name": "add", "images": "$inputs.image", "model": MODEL,
        "index": "seen.lance", "folder": "seen", "metadata": {"class": "$steps.label.class"},
    }  # fmt: skip
    steps = [
        embedding("image", "$inputs.image"),
        embedding("input", "$inputs.text", "pe_embedding@v1"),
        cosine("image", "input"),
        {"type": "roboflow_core/identify_outliers@v1", "name": "outliers",
         "embedding": "$steps.image.embedding"},
        zero_shot,
        add,
    ]  # fmt: skip
    outputs = {"image": "image.embedding", "text": "input.embedding", "cosine": "cosine.similarity"}
    outputs |= {"warming_up": "outliers.warming_up", "label": "label.*", "add": "add.*"}
    search = {"type": "pe_search@v1", "name": "search", "index": "seen.lance", "k": 2}
    found = workflow([{**search, "data": "$inputs.image"}], {"search": "search.*"})
    results = {
        "embeddings": run(workflow(steps, outputs), {"image": images, "text": "a cat"}),
        "search": run(found, {"image": images}),
    }
    Path(results_file).write_text(json.dumps(results, default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])
