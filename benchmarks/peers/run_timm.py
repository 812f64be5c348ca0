"""timm's vision tower, eager; it reads the same weights as open_clip, which is made of it."""

import numpy as np
import timm
import torch
from safetensors import safe_open
from serving import serve

_PREFIX = "visual.trunk."


class Timm:
    """One tower in one precision."""

    def __init__(self, model, weights, pixels, precision="fp32"):
        tower = timm.create_model(model, pretrained=False)
        with safe_open(weights, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118
            state = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in names}
        missing = tower.load_state_dict(state, strict=False).missing_keys
        if [name for name in missing if not name.startswith("head")]:
            raise ValueError(f"weights are missing: {missing}")
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self.tower = tower.eval().to(dtype)
        levels = torch.from_numpy(np.load(pixels)).permute(0, 3, 1, 2).contiguous()
        self.pixels = ((levels.float() / 255 - 0.5) / 0.5).to(dtype)

    def versions(self):
        """Packages that decide the speed."""
        return {"timm": timm.__version__, "torch": torch.__version__}

    @torch.inference_mode()
    def pictures(self, count):
        """Prepared pictures to pooled vectors."""
        self.tower(self.pixels[:count])


if __name__ == "__main__":
    serve(Timm)
