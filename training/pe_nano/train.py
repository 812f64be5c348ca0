"""Train pe-nano for a given time and write it as a model folder.

    python -m training.pe_nano.train --data DIR --out DIR --minutes 95

Images grow during the run (`--stages 32:0.55,48:0.45`: side and share of the time), as in PE's
own recipe: small images are cheap, and rope and resized positions carry over. The schedule
follows the clock, so a run of any length ends with a learning rate of zero. The last averaged
weights are written; nothing is selected by a held-out score.
"""

import argparse
import copy
import json
import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception_encoder.checkpoints.folder import format_config
from perception_encoder.model import DualEncoder
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig
from perception_encoder.registry.perception_encoder import CONFIG
from training.pe_nano.batches import Batch, Drawings, batches_ahead
from training.pe_nano.captions import all_texts
from training.pe_nano.evaluate import held_out, retrieval, trained_vendor
from training.pe_nano.objective import ConceptTable, contrastive
from training.pe_nano.tokenizer import train_tokenizer

EMA_DECAY = 0.998
WARMUP_SHARE = 0.02
CAPTION_TOKENS = 11
logger = logging.getLogger("pe_nano")


def initialize(model: DualEncoder) -> None:
    """Start values as usual for small transformers: normal, residual outputs scaled by depth."""
    assert model.config.text is not None
    for tower, depth in (
        (model.vision, model.config.vision.depth),
        (model.text, model.config.text.depth),
    ):
        for name, parameter in tower.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)
            if name.endswith(("out.weight", "down.weight")):
                parameter.data.mul_((2 * depth) ** -0.5)
            elif name.endswith(("projection.weight", "patch_embed.weight")):
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif name.endswith(("probe", "class_token")):
                nn.init.normal_(parameter, std=0.02)


def optimisers_for(
    model: DualEncoder, table: ConceptTable, lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else; weight decay on matrices only.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) gets twice the learning
    rate, in the scaling that makes its steps as long as those of AdamW.
    """
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and ".blocks." in name]
    inside = {id(p) for p in hidden}
    others = [p for p in (*model.parameters(), *table.parameters()) if id(p) not in inside]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(hidden, lr=2 * lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True),
    ]


def loss_of(
    model: DualEncoder, table: ConceptTable, pixels: Tensor, token_ids: Tensor, concepts: Tensor
) -> Tensor:
    """The whole objective for one batch of prepared tensors."""
    images = F.normalize(model.encode_image(pixels).float(), dim=-1)
    texts = F.normalize(model.encode_text(token_ids).float(), dim=-1)
    return (
        contrastive(images, texts, model.logit_scale)
        + table(images, concepts)
        + 0.3 * table(texts, concepts)
    )


def stage_sizes(text: str) -> list[tuple[float, int]]:
    """Parse "32:0.5,48:0.5" into [(end of the stage as a share of the time, side)]."""
    stages, end = [], 0.0
    for part in text.split(","):
        side, share = part.split(":")
        end += float(share)
        stages.append((end, int(side)))
    return stages


class Run:
    """One training run: the model, its average, the optimiser and the clock."""

    def __init__(self, args: argparse.Namespace, config: ModelConfig) -> None:
        torch.manual_seed(args.seed)
        self.args = args
        self.device = torch.device(args.device)
        self.drawings = Drawings(args.data)
        texts = all_texts(self.drawings.concepts, self.drawings.items)
        assert config.text is not None
        backend = train_tokenizer(texts, config.text.vocab_size)
        self.tokenizer = Tokenizer(backend, config.text.context_length)
        # Most captions have fewer tokens; a few long ones would widen every batch.
        self.captions = Tokenizer(backend, CAPTION_TOKENS)
        self.model = DualEncoder(config)
        initialize(self.model)
        self.model.to(self.device)
        assert config.embed_dim is not None
        self.table = ConceptTable(len(self.drawings.concepts), config.embed_dim).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(requires_grad=False)
        self.optimisers = optimisers_for(self.model, self.table, args.lr)
        self.full_rates = [
            (group, group["lr"]) for each in self.optimisers for group in each.param_groups
        ]
        self.stages = stage_sizes(args.stages)
        self.side = torch.tensor(self.stages[0][1]).share_memory_()
        self.batches = batches_ahead(
            self.drawings,
            args.batch_size,
            self.side,
            seed=args.seed,
            num_workers=args.workers,
        )
        self.step = 0

    def train(self) -> None:
        """Run until the time is up."""
        start = time.monotonic()
        seen, total = 0, 0.0
        while (progress := (time.monotonic() - start) / (60 * self.args.minutes)) < 1:
            last_side = self.stages[-1][1]
            self.side.fill_(next((side for end, side in self.stages if progress < end), last_side))
            total += self._one_step(next(self.batches), progress)
            seen += self.args.batch_size
            self.step += 1
            if self.step % 100 == 0:
                rate = seen / (time.monotonic() - start)
                logger.info(
                    "step %d, %.1f%%, side %d, loss %.3f, %d images, %.0f/s",
                    self.step, 100 * progress, int(self.side), total / 100, seen, rate,
                )  # fmt: skip
                total = 0.0
            if self.step % self.args.watch_every == 0:
                self.watch()

    def _one_step(self, batch: Batch, progress: float) -> float:
        share = min(progress / WARMUP_SHARE, 0.5 * (1 + math.cos(math.pi * progress)))
        for group, full_rate in self.full_rates:
            group["lr"] = share * full_rate
        pixels = torch.from_numpy(batch.images).to(self.device).permute(0, 3, 1, 2)
        pixels = ((pixels.float() / 255 - 0.5) / 0.5).contiguous()
        token_ids = torch.from_numpy(self.captions(batch.captions)).to(self.device)
        concepts = torch.from_numpy(batch.concepts).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16):
            loss = loss_of(self.model, self.table, pixels, token_ids, concepts)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        decay = min(EMA_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return loss.item()

    def watch(self) -> dict[str, object]:
        """Scores of the averaged weights, for the log; they decide nothing."""
        scores: dict[str, object] = {"step": self.step}
        for name, (drawings, names) in {
            "held_out_openmoji": held_out(self.args.data),
            "trained_noto": trained_vendor(self.args.data, "noto"),
        }.items():
            score = retrieval(self.average, self.tokenizer, drawings, names)
            scores[name] = {k: v for k, v in score.items() if k != "confusions"}
        logger.info("%s", json.dumps(scores))
        self.save()
        return scores

    def save(self) -> None:
        """Write the averaged weights in float16 with the vocabulary and configuration."""
        from safetensors.torch import save_file

        self.args.out.mkdir(parents=True, exist_ok=True)
        state = {name: value.half().cpu() for name, value in self.average.state_dict().items()}
        save_file(state, self.args.out / "model.safetensors")
        self.tokenizer.save(self.args.out / "tokenizer.json")
        config = format_config(self.model.config, "standard")
        (self.args.out / "config.json").write_text(config, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=95.0)
    parser.add_argument("--stages", default="32:0.5,48:0.5")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="where the hardware multiplies bf16")
    parser.add_argument("--watch-every", type=int, default=2000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    last_side = stage_sizes(args.stages)[-1][1]
    config = replace(CONFIG, vision=replace(CONFIG.vision, image_size=last_side))
    run = Run(args, config)
    logger.info("%d concepts, %d drawings", len(run.drawings.concept_ids), len(run.drawings.images))
    run.train()
    run.watch()


if __name__ == "__main__":
    main()
