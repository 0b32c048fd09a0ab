"""Learned prompts of ZSSeg and of FreeSeg: texts and gradients, and the names of every file with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case, released_shapes
from golden.clip import load_recorded_clip, openai_clip
from golden.ovseg_backbones import build_resnet
from golden.released_ovseg import R101C
from maft.checkpoint.key_map import differences, load_strictly
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.clip import CLIPEncoder, VocabularyEncoder, load_clip
from maft.clip.prompt_learner import PromptLearner
from maft.interfaces import BuildContext
from maft.registry import PROPOSERS
from maft.structures import Vocabulary

_CLIP = "clip_adapter.clip_model."


def _recorded(case: GoldenCase) -> tuple[CLIPEncoder, dict[str, PromptLearner]]:
    """CLIP's text tower and the prompts by the name of their shape."""
    clip = openai_clip(case.config["clip"], case.device)
    weights = case.weights
    load_recorded_clip(clip, {n.removeprefix("clip_adapter."): v for n, v in weights.items() if n.startswith(_CLIP)})
    learners = {}
    for prefix, suffix, *task in case.config["prompt_shapes"]:
        name = "_".join(map(str, [prefix, suffix, *task]))
        tasks = tuple(case.config.get("tasks", {}).values())
        learner = PromptLearner(clip, prefix=prefix, suffix=suffix, task=sum(task), tasks=tasks).to(case.device)
        start = f"{name}.prompt_learner."
        recorded = {n.removeprefix(start): value for n, value in weights.items() if n.startswith(start)}
        load_strictly(learner, key_map("prompt_learner").convert(recorded), case.name)
        learners[name] = learner
    return clip, learners


def _texts(case: GoldenCase, clip: CLIPEncoder, learner: PromptLearner, name: str, task: str) -> dict[str, Tensor]:
    names = [word.strip() for word in case.config["class_names"]]
    with torch.no_grad():
        _, ends = learner.embedded(names, clip, task)
        return {f"{name}/text_features": learner(names, clip, task), f"{name}/lengths": ends + 1}


def _gradients(case: GoldenCase, clip: CLIPEncoder, learner: PromptLearner, name: str, task: str) -> dict[str, Tensor]:
    names = [word.strip() for word in case.config["class_names"]]
    (learner(names, clip, task) * case.inputs["cotangent"]).sum().backward()
    return {f"{name}/grad/{part}_prompt": p.grad for part, p in learner.named_parameters() if p.grad is not None}


@golden_case("zsseg", "zsseg_prompt_learner")
def zsseg_prompt_learner(case: GoldenCase) -> dict[str, Tensor]:
    clip, learners = _recorded(case)
    outputs: dict[str, Tensor] = {}
    for name, learner in learners.items():
        outputs |= _texts(case, clip, learner, name, "") | _gradients(case, clip, learner, name, "")
    return outputs


@golden_case("freeseg_prompts", "freeseg_prompt_learner")
def freeseg_prompt_learner(case: GoldenCase) -> dict[str, Tensor]:
    clip, learners = _recorded(case)
    tasks = case.config["tasks"]
    outputs: dict[str, Tensor] = {}
    for name, learner in learners.items():
        for task, words in tasks.items():
            outputs |= _texts(case, clip, learner, f"{name}/{task}", words)
        outputs |= _gradients(case, clip, learner, name, tasks["semantic"])
    learner = next(learner for learner in learners.values() if learner.task is not None)
    vocabulary = Vocabulary(tuple(case.config["class_names"]))
    for form in ("adapter", "adapter_frozen"):
        encoder = VocabularyEncoder(clip.embed_dim, clip.text_width, templates="learned", prompts=learner)
        encoder.void_embedding = nn.Parameter(case.weights["clip_adapter.non_object_embedding"])
        for task, words in tasks.items():
            outputs[f"{form}/{task}"] = encoder(vocabulary, clip, words).matrix.detach()
        learner.requires_grad_(False)
        learner.keep_first_task = True
    return outputs


@golden_case("zsseg", "checkpoint_keys")
@golden_case("freeseg_prompts", "checkpoint_keys")
def learned_prompts_checkpoint_keys(case: GoldenCase) -> dict[str, Tensor]:
    outputs = {}
    with torch.device("meta"):
        for file, official in released_shapes(case):
            release = recognise(official)
            assert release in ("ZSSeg", "FreeSeg", "learned prompts of ZSSeg or FreeSeg"), (
                f"{file} is taken for {release}"
            )
            problems = differences(_model(official).state_dict(), convert_released(official, release, file))
            assert not problems, f"{file}: {problems[:4]}"
            outputs[file] = torch.ones((), device="cpu")
    return outputs


def _model(official: dict[str, torch.Size]) -> nn.ModuleDict:
    """The parts of our full-size model that a file with these tensors should fill."""
    clip = load_clip("ViT-B-16", "openai", device="meta")

    def encoder(adapter: str, void: bool) -> VocabularyEncoder:
        start = f"{adapter}.prompt_learner."
        counts = {
            part: official[f"{start}{part}_prompt"][0]
            for part in ("prefix", "suffix", "task")
            if f"{start}{part}_prompt" in official
        }
        tasks = ("semantic segmentation.",) if "task" in counts else ()
        prompts = PromptLearner(clip, tasks=tasks, **{"prefix": 0, **counts}) if counts else None  # type: ignore[arg-type]
        templates = "learned" if counts else "vild"
        return VocabularyEncoder(clip.embed_dim, clip.text_width, templates=templates, prompts=prompts, void=void)

    parts = nn.ModuleDict({"clip": clip})
    parts["vocabulary_encoder"] = encoder("clip_adapter", "clip_adapter.non_object_embedding" in official)
    if any(name.startswith("_region_clip_adapter.") for name in official):
        parts["classifier_vocabulary_encoder"] = encoder("_region_clip_adapter", False)
    if "backbone.stem.conv1.weight" in official:
        # The one plain backbone is ResNet-50.
        plain = {"DEPTH": 50, "OUT_FEATURES": R101C["OUT_FEATURES"], "STEM_TYPE": "basic", "RES5_MULTI_GRID": [1, 1, 1]}
        options = R101C if "backbone.stem.conv2.weight" in official else plain
        context = BuildContext(clip, 1, lambda: build_resnet({f"MODEL.RESNETS.{k}": v for k, v in options.items()}))
        freeseg = "sem_seg_head.interaction.gamma" in official
        name, choices = ("FreeSeg", {"DECODER_LAYERS": 10}) if freeseg else ("MaskFormer", {})
        parts["proposer"] = PROPOSERS.build(name, choices, context)
    return parts
