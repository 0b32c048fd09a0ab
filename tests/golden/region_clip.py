"""OVSeg's CLIP fine-tuning, and the definition of its miner."""

from __future__ import annotations

import math

import torch
from detectron2.config import get_cfg
from torch import Tensor
from torch.optim import Optimizer

from golden.case import GoldenCase, golden_case
from golden.engine import learning_rates
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.clip import clip_from_config
from maft.clip.mask_prompts import MaskPrompts
from maft.config_keys import add_maft_config
from maft.engine.schedules import build_scheduler
from maft.engine.solver import build_optimizer
from maft.mining.captions import image_nouns, nouns_of, tag
from maft.mining.folder import best_masks
from maft.region_clip import RegionCLIP

_PROMPTS = "visual.mask_embedding"


def _official_name(name: str) -> str:
    return _PROMPTS if name == "mask_prompts.tokens" else name.removeprefix("clip.model.")


@golden_case("ovseg", "clip_finetune_step_ft", "clip_finetune_step_mpt")
def clip_finetune_step(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    described = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    clip = clip_from_config("recorded CLIP", described, quick_gelu=config["quick_gelu"], device=case.device)
    prompts = MaskPrompts(clip.tower, config["mask_emb_depth"]) if config["with_mask"] else None
    train = "prompts" if config["lock_image"] else "all" if prompts is not None else "tower"
    model = RegionCLIP(clip=clip, mask_prompts=prompts, train=train).to(case.device)
    weights = case.weights
    if prompts is not None:
        load_strictly(prompts, {"tokens": weights[_PROMPTS]}, case.name)
    load_strictly(clip, key_map("clip").convert(weights), case.name)

    optimizer = _optimizer(case, model)
    masks = inputs["masks"][:, None].float() if "masks" in inputs else torch.ones_like(inputs["images"][:, :1])
    image_features, text_features = model.encode(inputs["images"], masks), model.encode_text(inputs["texts"])
    scale = clip.model.logit_scale.exp().detach()
    loss = model.loss(image_features, text_features)
    loss.backward()
    outputs = {
        "loss": loss.detach(),
        "image_features": image_features.detach(),
        "text_features": text_features,
        "logit_scale_exp": scale,
        "lr": torch.tensor(optimizer.param_groups[0]["lr"], dtype=case.outputs["lr"].dtype, device=case.device),
    }
    trained = {_official_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    outputs |= {f"grad/{name}": parameter.grad.clone() for name, parameter in trained.items()}  # type: ignore[union-attr]
    optimizer.step()
    model.after_optimizer_step()
    outputs |= {f"param_after/{name}": parameter.detach() for name, parameter in trained.items()}
    return outputs


def _optimizer(case: GoldenCase, model: RegionCLIP) -> Optimizer:
    """The optimiser as config keys make it, at the recorded step; its groups are compared with the recorded ones."""
    config = case.config
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.merge_from_list([
        "SOLVER.BASE_LR", config["lr"], "SOLVER.WEIGHT_DECAY", config["wd"], "SOLVER.BETAS", config["betas"],
        "SOLVER.EPS", config["eps"], "SOLVER.DECAY_ONLY_MATRICES", True,
        "SOLVER.WEIGHT_DECAY_OVERRIDES", [["mask_prompts", config["mask_wd"]]],
        "SOLVER.LR_SCHEDULER_NAME", "WarmupThenCosineLR", "SOLVER.WARMUP_ITERS", config["warmup"],
        "SOLVER.MAX_ITER", config["total_steps"],
    ])  # fmt: skip
    optimizer = build_optimizer(cfg, model)
    decay = {_official_name(name): group["weight_decay"] for group in optimizer.param_groups for name in group["names"]}
    recorded = {name: group["weight_decay"] for group in case.record["groups"] for name in group["params"]}
    if decay != recorded:
        wrong = sorted(name for name in decay.keys() | recorded.keys() if decay.get(name) != recorded.get(name))
        raise AssertionError(f"trainable parameters or their weight decay differ: {wrong[:4]}")
    rates = learning_rates(build_scheduler(cfg, optimizer), [config["step"]])[0]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return optimizer


@golden_case("ovseg", "miner")
def miner(case: GoldenCase) -> dict[str, Tensor]:
    example = case.record["example_matching"]
    # Only masks that have a pixel become regions.
    regions = [mask for mask, valid in enumerate(example["valid"]) if valid]
    _, best = best_masks(torch.tensor(example["similarity"], device=case.device)[regions])
    pairs = [[regions[region], noun] for noun, region in enumerate(best.tolist())]
    statements = {"matching": sorted(pairs) == sorted(example["pairs_mask_noun"])}
    words = agreed = 0
    for position, spoken in enumerate(case.record["examples_nouns"]):
        statements[f"nouns_of_recorded_tags_{position}"] = list(nouns_of(spoken["tags"])) == spoken["nouns"]
        ours = tag(spoken["caption"])
        statements[f"same_words_{position}"] = [w for w, _ in ours] == [w.lower() for w, _ in spoken["tags"]]
        recorded, found = set(spoken["nouns"]), set(image_nouns([spoken["caption"]]))
        words += len(ours)
        agreed += len(ours) - len(recorded ^ found)
    # Two taggers differ: NLTK's, which the case records, takes the couch of "a brown couch" for an adjective.
    statements["taggers_agree"] = agreed >= math.ceil(0.95 * words)
    return {name: torch.tensor(float(holds)) for name, holds in statements.items()}
