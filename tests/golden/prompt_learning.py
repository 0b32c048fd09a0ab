"""Learning prompts, in ZSSeg and in FreeSeg: samples, two steps of SGD and the schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden.case import GoldenCase, golden_case
from golden.clip import openai_clip
from golden.engine import learning_rates
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import convert_released
from maft.clip import VocabularyEncoder
from maft.clip.prompt_learner import PromptLearner
from maft.config_keys import default_config
from maft.data.class_regions import centre_crop, mask_box, resized_crop
from maft.engine.schedules import build_scheduler
from maft.engine.solver import build_optimizer, clip_gradients
from maft.prompt_learning import PromptLearning
from maft.structures import Vocabulary

_RELEASE = "learned prompts of ZSSeg or FreeSeg"
_OFFICIAL = "clip_adapter.prompt_learner."


@golden_case("zsseg", "zsseg_prompt_mapper")
def zsseg_prompt_mapper(case: GoldenCase) -> dict[str, Tensor]:
    width, height = case.config["size"]
    outputs: dict[str, Tensor] = {}
    for name, sample in case.config["samples"].items():
        image, label = (case.inputs[f"{name}/{part}"].cpu().numpy() for part in ("image", "label"))
        region, mask = _sample(image, label == sample["category"], sample, (height, width))
        outputs |= {
            f"{name}/image_s6": region[:, ::6, ::6],
            f"{name}/image_sum": region.long().sum((1, 2)),
            f"{name}/mask_s6": mask[0, ::6, ::6],
            f"{name}/mask_area": mask.sum()[None],
        }
    return outputs


def _sample(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], sample: dict[str, Any], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    draws = sample["draws"]
    box = top, left, height, width = mask_box(mask, keep_border=False)
    if [left, top, width, height] != draws["crop_xywh"]:
        raise AssertionError(f"the box is {box}, recorded (left, top, width, height) {draws['crop_xywh']}")
    if not sample["train"]:
        return centre_crop(image, mask, box, size[1])
    right, down, width, height = draws["resized_crop_xywh"]
    drawn = (top + down, left + right, height, width)
    return resized_crop(image, mask, drawn, size, flip=draws["flip"], label_resize="torch")


@golden_case("zsseg", "zsseg_prompt_step")
@golden_case("freeseg_prompts", "freeseg_prompt_step")
def prompt_step(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    clip = openai_clip(config["clip"], case.device)
    prefix, suffix, *task = config["prompt_shape"]
    tasks = [config["tasks"][config["task"]]] if task else []
    prompts = PromptLearner(clip, prefix=prefix, suffix=suffix, task=sum(task), tasks=tasks)
    encoder = VocabularyEncoder(clip.embed_dim, clip.text_width, templates="learned", prompts=prompts, void=False)
    model = PromptLearning(
        clip=clip,
        vocabulary_encoder=encoder,
        vocabulary=Vocabulary(tuple(config["class_names"])),
        fill="mean_value",
        align_corners=case.system == "freeseg_prompts",
    ).to(case.device)
    load_strictly(model, convert_released(case.weights, _RELEASE, case.name), case.name)
    trained = {f"{_OFFICIAL}{name}_prompt": parameter for name, parameter in prompts.named_parameters()}
    assert sorted(trained) == sorted(case.record["trainable"])
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained.values()}

    cfg = default_config()
    cfg.merge_from_list([
        "SOLVER.OPTIMIZER", "SGD", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.WARMUP_METHOD", "constant",
        "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
        *(item for pair in config["solver"].items() for item in pair),
    ])  # fmt: skip
    optimizer = build_optimizer(cfg, model)
    # The first rate that a scheduler is asked for sets those of the optimiser, so it has one of its own.
    if "lr_at" in case.record:
        recorded = {int(iteration): rate for iteration, rate in case.record["lr_at"].items()}
        rates = learning_rates(build_scheduler(cfg, build_optimizer(cfg, model)), [*recorded, *config["iterations"]])
        torch.testing.assert_close(
            torch.tensor(rates).flatten(),
            torch.tensor([*recorded.values(), *case.outputs["lr"].tolist()]),
            rtol=1e-5,
            atol=1e-9,
        )
    outputs: dict[str, Tensor] = {"lr": case.outputs["lr"]}
    if "regions_s8" in case.outputs:
        outputs["regions_s8"] = model.shown(inputs["images"], inputs["masks"][:, None])[:, :, ::8, ::8]
    records = [
        {"region": image, "mask": mask[None], "category": int(category)}
        for image, mask, category in zip(inputs["images"], inputs["masks"], inputs["gt_classes"])
    ]
    losses, norms = [], []
    for step, rate in enumerate(case.outputs["lr"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = model.train()(records)["loss_ce"]
        loss.backward()
        if step == 0:
            outputs |= {f"grad/{name}": p.grad.clone() for name, p in trained.items() if p.grad is not None}
        norm = clip_gradients(trained.values(), cfg.SOLVER.CLIP_GRADIENTS)
        assert norm is not None
        optimizer.step()
        losses.append(loss.detach())
        norms.append(norm)
    outputs |= {f"param_after/{name}": parameter.detach() for name, parameter in trained.items()}
    outputs |= {"loss": torch.stack(losses), "grad_norm": torch.stack(norms)}
    outputs["eval_logits_after"] = model.eval()(records)["logits"].detach()
    return outputs
