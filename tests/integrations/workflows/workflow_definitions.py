"""Definitions of workflows, for scripts that run in an execution engine."""

import json
import re
from typing import Any

MODEL = "pe-nano"


def workflow(steps: list[dict[str, Any]], outputs: dict[str, str]) -> dict[str, Any]:
    """A definition with the inputs that its steps name, and outputs by name."""
    inputs = dict.fromkeys(re.findall(r"\$inputs\.(\w+)", json.dumps(steps)))
    images = ("image", "other")
    return {
        "version": "1.0",
        "inputs": [
            {"type": "WorkflowImage" if name in images else "WorkflowParameter", "name": name}
            for name in inputs
        ],
        "steps": steps,
        "outputs": [
            {"type": "JsonField", "name": name, "selector": f"$steps.{selector}"}
            for name, selector in outputs.items()
        ],
    }


def embedding(name: str, data: str, kind: str = "perception_encoder/pe_embedding@v1") -> Any:
    return {"type": kind, "name": name, "data": data, "model": MODEL}


def cosine(one: str, two: str) -> dict[str, Any]:
    return {
        "type": "roboflow_core/cosine_similarity@v1", "name": "cosine",
        "embedding_1": f"$steps.{one}.embedding", "embedding_2": f"$steps.{two}.embedding",
    }  # fmt: skip
