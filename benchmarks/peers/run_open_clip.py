"""open_clip, as its README uses it: eager, fp32 unless told otherwise, Pillow in a DataLoader."""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from serving import serve
from torch.utils.data import DataLoader, Dataset


class Files(Dataset):
    """Image files, prepared by open_clip's own transform."""

    def __init__(self, paths, preprocess):
        self.paths = paths
        self.preprocess = preprocess

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, place):
        return self.preprocess(Image.open(self.paths[place]))


class OpenClip:
    """One model in one precision; prepared images are normalized outside of what is timed."""

    def __init__(
        self,
        model,
        weights="",
        precision="fp32",
        compiled=False,
        pixels="",
        captions="",
    ):
        torch.manual_seed(0)
        self.name = model
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            model, pretrained=weights or None, precision=precision
        )
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(model)
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        if pixels:
            levels = torch.from_numpy(np.load(pixels)).permute(0, 3, 1, 2).contiguous()
            self.pixels = ((levels.float() / 255 - 0.5) / 0.5).to(self.dtype)
        if captions:
            self.captions = Path(captions).read_text(encoding="utf-8").splitlines()
            self.tokens = self.tokenizer(self.captions)
        self.encode_image = self.model.encode_image
        if compiled:
            self.encode_image = torch.compile(self.model.encode_image)

    def versions(self):
        """Packages that decide the speed."""
        import timm

        return {
            "open_clip_torch": open_clip.__version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
        }

    @torch.inference_mode()
    def images(self, count):
        """Prepared images to vectors."""
        self.encode_image(self.pixels[:count])

    @torch.inference_mode()
    def texts(self, count):
        """Captions to vectors."""
        self.model.encode_text(self.tokenizer(self.captions[:count]))

    @torch.inference_mode()
    def padded_texts(self, count):
        """Token ids in all columns of the context to vectors."""
        self.model.encode_text(self.tokens[:count])

    @torch.inference_mode()
    def files(self, num_workers, paths):
        """Image files to vectors."""
        loader = DataLoader(Files(paths, self.preprocess), batch_size=16, num_workers=num_workers)
        for pixels in loader:
            self.model.encode_image(pixels.to(self.dtype))

    @torch.inference_mode()
    def vectors(self, path):
        """Write vectors, so that they can be compared with other backends'."""
        np.savez(
            path,
            images=self.model.encode_image(self.pixels[:8]).float().numpy(),
            texts=self.model.encode_text(self.tokens[:8]).float().numpy(),
        )

    def save(self, folder):
        """Save the weights as such a model lies on the hub."""
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True)
        config = {"model_cfg": open_clip.get_model_config(self.name)}
        config["preprocess_cfg"] = open_clip.get_model_preprocess_cfg(self.model)
        (path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
        state = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(state, path / "open_clip_model.safetensors")


if __name__ == "__main__":
    serve(OpenClip)
