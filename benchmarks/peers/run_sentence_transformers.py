"""sentence-transformers' CLIP path, with random weights of CLIP ViT-B-32's shapes."""

import json
from pathlib import Path

import torch
import transformers
from PIL import Image
from serving import serve

_SIDE = 224


class SentenceTransformers:
    """CLIP in fp32, which is its default on a CPU; the model lies in a folder or is made there."""

    def __init__(self, folder, captions="", tokenizer=""):
        import sentence_transformers

        self.package = sentence_transformers
        if tokenizer:
            _make(Path(folder), Path(tokenizer))
        self.model = sentence_transformers.SentenceTransformer(folder, device="cpu")
        if captions:
            self.captions = Path(captions).read_text(encoding="utf-8").splitlines()

    def versions(self):
        """Packages that decide the speed."""
        return {
            "sentence-transformers": self.package.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    def texts(self, count):
        """Captions to vectors."""
        self.model.encode(self.captions[:count], batch_size=count)

    def files(self, batch_size, paths):
        """Image files to vectors."""
        self.model.encode([Image.open(path) for path in paths], batch_size=batch_size)

    def export(self, folder):
        """Write the vision tower as ONNX, in the layout that fastembed reads."""
        path = Path(folder)
        path.mkdir(parents=True)
        clip = next(m for m in self.model.modules() if isinstance(m, transformers.CLIPModel))
        torch.onnx.export(
            _Vision(clip),
            (torch.zeros(2, 3, _SIDE, _SIDE),),
            path / "model.onnx",
            input_names=["pixel_values"],
            output_names=["image_embeds"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
        )
        preprocessing = {
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "crop_size": _SIDE,
            "size": {"shortest_edge": _SIDE},
            "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "CLIPImageProcessor",
        }
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")


class _Vision(torch.nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.vision = clip.vision_model
        self.projection = clip.visual_projection

    def forward(self, pixel_values):
        return self.projection(self.vision(pixel_values=pixel_values).pooler_output)


def _make(folder, tokenizer):
    """Save a model with the shapes of CLIP ViT-B-32, which are the configuration's defaults."""
    torch.manual_seed(0)
    words = transformers.CLIPTokenizer(**_vocabulary(tokenizer), model_max_length=77)
    images = transformers.CLIPImageProcessor()
    transformers.CLIPModel(transformers.CLIPConfig()).save_pretrained(folder)
    transformers.CLIPProcessor(images, words).save_pretrained(folder)


def _vocabulary(tokenizer):
    """The vocabulary of a `tokenizers` file, where the last two tokens have other names."""
    model = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
    ids = sorted(model["vocab"], key=model["vocab"].get)
    names = [*ids[:-2], "<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(merge) for merge in model["merges"]]
    return {"vocab": {name: place for place, name in enumerate(names)}, "merges": merges}


if __name__ == "__main__":
    serve(SentenceTransformers)
