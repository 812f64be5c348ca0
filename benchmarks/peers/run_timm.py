"""timm's vision tower; it reads the same weights as open_clip, which is made of it."""

import numpy as np
import timm
import torch
from safetensors import safe_open
from serving import serve

_PREFIX = "visual.trunk."


class Timm:
    """One tower in one precision."""

    def __init__(self, model, pixels, weights="", precision="fp32", compiled=False):
        tower = timm.create_model(model, pretrained=False)
        if weights:
            load(tower, weights)
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self.tower = tower.eval().to(dtype)
        if compiled:
            self.tower = torch.compile(self.tower)
        levels = torch.from_numpy(np.load(pixels)).permute(0, 3, 1, 2).contiguous()
        self.pixels = ((levels.float() / 255 - 0.5) / 0.5).to(dtype)

    def versions(self):
        """Packages that decide the speed."""
        return {"timm": timm.__version__, "torch": torch.__version__}

    @torch.inference_mode()
    def images(self, count):
        """Prepared images to pooled vectors."""
        self.tower(self.pixels[:count])


def load(tower, weights):
    """Give a tower the weights of an open_clip file."""
    with safe_open(weights, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118
        state = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in names}
    missing = tower.load_state_dict(state, strict=False).missing_keys
    if [name for name in missing if not name.startswith("head")]:
        raise ValueError(f"weights are missing: {missing}")


if __name__ == "__main__":
    serve(Timm)
