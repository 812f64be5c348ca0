"""Runs in a process where Roboflow's execution engine is installed; see packages.txt.

    python engine_runs.py REQUEST RESULTS

REQUEST is a JSON file: `folder`, `images` and `photos` (paths), `url` (of a server that answers
to the stock block's model), `tensor_mode`, and `page` (Python code that is run before all else).
Writes to RESULTS what each workflow gave, by name.
"""

import base64
import io
import json
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from roboflow_workflows import configuration
from workflow_definitions import MODEL, cosine, embedding, workflow

STOCK_MODEL = "PE-Core-B16-224"  # one of the three that the stock block lets a workflow name
PLUGIN = "perception_encoder.integrations.workflows"
TIMES = 50


def configure(url: str, *, tensor_mode: bool) -> None:
    """Say what hosts say before anything of the backend is imported."""
    usual = configuration.default_configuration()
    remote = replace(usual.remote, api_target="self-hosted", local_inference_api_url=url)
    tensors = configuration.TensorConfiguration(
        representation_enabled=tensor_mode,
        image_tensor_device=torch.device("cpu") if tensor_mode else None,
    )
    configuration.configure_process(replace(usual, remote=remote, tensor=tensors))


def stock(name: str, data: str) -> dict[str, Any]:
    kind = "roboflow_core/perception_encoder@v1"
    return {"type": kind, "name": name, "data": data, "version": STOCK_MODEL}


TWO_IMAGES = workflow(
    [
        embedding("a", "$inputs.image"),
        embedding("b", "$inputs.other"),
        cosine("a", "b"),
        {**cosine("sa", "sb"), "name": "stock_cosine"},
        stock("sa", "$inputs.image"),
        stock("sb", "$inputs.other"),
    ],
    {"cosine": "cosine.similarity", "stock": "stock_cosine.similarity"},
)
TEXT = workflow(
    [embedding("a", "$inputs.text"), stock("b", "$inputs.text")],
    {"ours": "a.embedding", "stock": "b.embedding"},
)


class Runs:
    """The backend with our models in fp32, and the images that workflows are given."""

    def __init__(self, request: dict[str, Any]) -> None:
        from roboflow_workflows.core_steps.common.entities import StepExecutionMode
        from roboflow_workflows.execution_engine.core import ExecutionEngine

        from perception_encoder import AutoModel
        from perception_encoder.integrations.workflows.models import Models
        from perception_encoder.integrations.workflows.provider import PerceptionEncoderModels

        self.folder = Path(request["folder"])
        self.paths = request["images"]
        self.images = [cv2.imread(path) for path in self.paths]
        self.photos = [cv2.imread(path) for path in request["photos"]]
        self._backend = ExecutionEngine
        models = Models(partial(AutoModel.from_pretrained, device="cpu", precision="fp32"))
        provider = PerceptionEncoderModels(models, names={STOCK_MODEL: MODEL})
        self._parameters = {
            f"{PLUGIN}.models": models,
            "workflows_core.model_manager": provider,
            "workflows_core.api_key": None,
        }
        self._remote = {"workflows_core.step_execution_mode": StepExecutionMode.REMOTE}

    def run(
        self, definition: dict[str, Any], inputs: dict[str, Any], *, remote: bool = False
    ) -> list[dict[str, Any]]:
        """What a workflow gives, as a server would send it."""
        backend = self._backend.init(
            workflow_definition=definition,
            init_parameters=self._parameters | (self._remote if remote else {}),
            max_concurrent_steps=4,
        )
        results: list[dict[str, Any]] = backend.run(inputs, serialize_results=True)
        return results

    def failing(self, definition: dict[str, Any], inputs: dict[str, Any]) -> str:
        """What a workflow that cannot be run says."""
        from roboflow_workflows.errors import WorkflowError

        try:
            self.run(definition, inputs)
        except WorkflowError as err:
            return f"{type(err).__name__}: {err}"
        return "it ran"

    def _read_from(self, path: str) -> Any:
        """An image that knows where it was read, as hosts give them that allow local files."""
        from roboflow_workflows.execution_engine.entities.base import (
            ImageParentMetadata,
            WorkflowImageData,
        )

        about = ImageParentMetadata(parent_id=path)
        return WorkflowImageData(about, image_reference=path, numpy_image=cv2.imread(path))

    # Every public method below is a run; its name is its result's.

    def embeddings(self) -> Any:
        steps = [
            embedding("image", "$inputs.image"),
            embedding("input", "$inputs.text", "pe_embedding@v1"),
            embedding("literal", "a red heart"),
            stock("stock", "$inputs.image"),
            stock("stock_text", "$inputs.text"),
            cosine("image", "input"),
        ]
        outputs = {step["name"]: f"{step['name']}.embedding" for step in steps[:-1]}
        definition = workflow(steps, {**outputs, "cosine": "cosine.similarity"})
        return self.run(definition, {"image": self.images, "text": "a cat"})

    def encoded(self) -> Any:
        """Of the image's own file, in base64; in tensor mode it is decoded to a tensor."""
        given = [
            {"type": "base64", "value": base64.b64encode(Path(path).read_bytes()).decode()}
            for path in self.paths
        ]
        steps = [
            {"type": "roboflow_core/relative_statoic_crop@v1", "name": "crop",
             "images": "$inputs.image", "x_center": 0.5, "y_center": 0.5, "width": 1, "height": 1},
            embedding("whole", "$inputs.image"), embedding("crop_embedding", "$steps.crop.crops"),
        ]  # fmt: skip
        outputs = {"whole": "whole.embedding", "crop": "crop_embedding.embedding"}
        return self.run(workflow(steps, outputs), {"image": given})

    def crops(self) -> Any:
        """Of photos, into an index, which is then searched for them."""
        crop = {
            "type": "roboflow_core/relative_statoic_crop@v1", "name": "crop",
            "images": "$inputs.image",
            "x_center": 0.4, "y_center": 0.6, "width": 0.3, "height": 0.25,
        }  # fmt: skip
        zero_shot = {
            "type": "perception_encoder/pe_zero_shot@v1", "name": "zero_shot", "model": MODEL,
            "images": "$steps.crop.crops", "classes": "$inputs.classes", "template": "a {}",
        }  # fmt: skip
        add = {
            "type": "perception_encoder/pe_index_add@v1", "name": "add", "model": MODEL,
            "images": "$steps.crop.crops", "index": str(self.folder / "crops.lance"),
            "folder": str(self.folder / "crops"),
            "metadata": {"camera": "north", "class": "$steps.zero_shot.class"},
        }  # fmt: skip
        steps = [crop, zero_shot, add, embedding("embed", "$steps.crop.crops")]
        outputs = {"embedding": "embed.embedding", "zero_shot": "zero_shot.*", "add": "add.*"}
        definition = workflow(steps, outputs)
        inputs = {"image": self.photos, "classes": ["cat", "red car", "tree"]}
        search = {
            "type": "perception_encoder/pe_search@v1", "name": "search", "k": 2,
            "data": "$steps.crop.crops", "index": str(self.folder / "crops.lance"),
        }  # fmt: skip
        found = workflow([crop, search], {"search": "search.*"})
        return {
            "first": self.run(definition, inputs),
            "again": self.run(definition, inputs),
            "search": self.run(found, {"image": self.photos}),
        }

    def index(self) -> Any:
        """Whole images by their paths and by names; searched by words, with a condition."""
        path = str(self.folder / "drawings.lance")
        add = {"type": "pe_index_add@v1", "name": "add", "images": "$inputs.image", "model": MODEL}
        named = {**add, "name": "named", "index": "$inputs.index", "uri": "$inputs.name",
                 "metadata": {"number": "$inputs.number"}}  # fmt: skip
        by_path = workflow([{**add, "index": path}], {"add": "add.*"})
        by_name = workflow([named], {"add": "named.*"})
        off = workflow([{**add, "index": path, "disable_sink": True}], {"add": "add.*"})
        search = {"type": "pe_search@v1", "name": "search", "index": path}
        by_words = workflow(
            [{**search, "data": "$inputs.text", "k": "$inputs.k"}], {"search": "search.*"}
        )  # fmt: skip
        narrow = workflow(
            [{**search, "data": "a red heart", "where": "number > 1"}], {"search": "search.*"}
        )
        nothing = workflow(
            [{**search, "data": "a red heart", "threshold": 0.99}], {"search": "search.*"}
        )
        read = [self._read_from(path) for path in self.paths]
        pixels = {"image": self.images[0]}
        return {
            "missing": self.failing(by_words, {"text": "a cat", "k": 3}),
            "by_path": self.run(by_path, {"image": read}),
            "by_pixels": self.run(by_path, pixels),
            "by_name": [
                self.run(
                    by_name,
                    {"image": image, "index": path, "name": f"camera/{n}", "number": n},
                )
                for n, image in enumerate(self.images)
            ],
            "off": self.run(off, {"image": self.images}),
            "by_words": self.run(by_words, {"text": "a cat", "k": 3}),
            "narrow": self.run(narrow, {}),
            "nothing": self.run(nothing, {}),
            "both_names": self.failing(
                workflow([{**add, "index": path, "uri": "a", "folder": "b"}], {"add": "add.*"}),
                pixels,
            ),
        }

    def changes(self) -> Any:
        """The same scene seven times, then another, through blocks that remember what was."""
        # Of eight, the farthest has a percentile of 0, or of 1/8 where sums are rounded unluckily.
        shared = {
            "embedding": "$steps.embed.embedding", "warmup": 3, "threshold_percentile": 0.2
        }  # fmt: skip
        steps = [
            embedding("embed", "$inputs.image"),
            {"type": "roboflow_core/identify_changes@v1", "name": "changes",
             "strategy": "Simple Moving Average (SMA)", **shared},
            {"type": "roboflow_core/identify_outliers@v1", "name": "outliers", **shared},
        ]  # fmt: skip
        outputs = {"change": "changes.is_outlier", "outlier": "outliers.is_outlier"}
        backend = self._backend.init(
            workflow_definition=workflow(steps, outputs), init_parameters=self._parameters
        )
        noise = np.random.default_rng(0)
        frames = [
            np.clip(self.images[0] + noise.integers(-3, 4, self.images[0].shape), 0, 255)
            for _ in range(7)
        ]
        frames = [frame.astype(np.uint8) for frame in frames]
        return [backend.run({"image": frame})[0] for frame in [*frames, self.images[1]]]

    def together(self) -> Any:
        """Two workflows many times at once, each compiled anew, as a server does."""
        count = len(self.images)

        def once(number: int) -> Any:
            one, two = number % count, (number // count) % count
            pair = {"image": self.images[one], "other": self.images[two]}
            texts = self.run(TEXT, {"text": f"image {number}"})[0]
            return {"pair": [one, two], **self.run(TWO_IMAGES, pair)[0], "texts": texts}

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(once, range(TIMES)))

    def filling(self) -> Any:
        """One index from four threads, past the number of commits where it is optimized."""
        index = str(self.folder / "filling.lance")
        add = {"type": "pe_index_add@v1", "name": "add", "images": "$inputs.image", "model": MODEL}
        definition = workflow([{**add, "index": index, "uri": "$inputs.name"}], {"add": "add.*"})

        def once(number: int) -> Any:
            image = self.images[number % len(self.images)]
            return self.run(definition, {"image": image, "name": f"camera/{number}"})[0]["add"]

        with ThreadPoolExecutor(4) as pool:
            added = list(pool.map(once, range(70)))
        return {"index": index, "added": added}

    def taught(self) -> Any:
        """The block of a classifier, whose file the test made."""
        step = {"type": "pe_few_shot@v1", "name": "taught", "images": "$inputs.image"}
        here = workflow([{**step, "classifier": "$inputs.file"}], {"taught": "taught.*"})
        gone = workflow([{**step, "classifier": "gone.npz"}], {"taught": "taught.*"})
        inputs = {"image": self.images, "file": str(self.folder / "things.npz")}
        return {
            "found": self.run(here, inputs), "gone": self.failing(gone, {"image": self.images})
        }  # fmt: skip

    def remote(self) -> Any:
        """The stock block, at a server of ours."""
        definition = workflow(
            [stock("image", "$inputs.image"), stock("text", "$inputs.text")],
            {"image": "image.embedding", "text": "text.embedding"},
        )
        return self.run(definition, {"image": self.images, "text": "a dog"}, remote=True)

    def mistakes(self) -> Any:
        no_model = workflow([{**embedding("a", "a cat"), "model": "no-such-model"}], {"a": "a.*"})
        labels = {"type": "pe_zero_shot@v1", "name": "a", "images": "$inputs.image", "classes": []}
        wrong = {**embedding("a", "$inputs.number")}
        return {
            "no_model": self.failing(no_model, {}),
            "no_labels": self.failing(
                workflow([{**labels, "model": MODEL}], {"a": "a.*"}), {"image": self.images}
            ),
            "not_a_text": self.failing(workflow([wrong], {"a": "a.*"}), {"number": 3}),
        }


def printed_by(blocks: list[str]) -> str:
    """Run code in this folder, and return what it printed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with redirect_stdout(io.StringIO()) as printed:
        for block in blocks:
            exec(block, names)
    return printed.getvalue()


def main(request_file: str, results_file: str) -> None:
    request = json.loads(Path(request_file).read_text())
    results = {"page": printed_by(request["page"])}
    configure(request["url"], tensor_mode=request["tensor_mode"])
    logging.disable(logging.INFO)
    runs = Runs(request)
    names = ["embeddings", "encoded", "index", "changes", "remote", "taught"]
    names += ["crops"] if request["photos"] else []
    names += [] if request["tensor_mode"] else ["together", "filling", "mistakes"]
    calls: dict[str, Callable[[], Any]] = {name: getattr(runs, name) for name in names}
    results |= {name: call() for name, call in calls.items()}
    Path(results_file).write_text(json.dumps(results, default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])
