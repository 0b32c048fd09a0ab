"""SAN: its towers, side adapter, recognition, texts, whole models, a training step and its optimiser, as recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor

from golden.case import GoldenCase, golden_case, official_name, released_shapes
from golden.clip import openai_clip, set_normalisation, vocabulary_encoder
from golden.draws import RecordedDraws
from golden.engine import _rates
from golden.proposals import maskadapter_set_criterion
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.loading import unfit
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.clip import CLIPEncoder
from maft.clip.class_rows import bias_on_grid, embeddings_of_rows
from maft.clip.towers.base import Grid
from maft.clip.towers.tokens import ClassTokenTower
from maft.config import load_config
from maft.data.catalog import class_names
from maft.engine.solver import build_optimizer, clip_gradients, parameter_groups
from maft.ensembles import ProposerAlone
from maft.interfaces import BuildContext
from maft.proposals.san import SAN
from maft.proposals.side_adapter import SideAdapter
from maft.registry import PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

_CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs/san"
_FILES = {"san_vit_b_16.pth": "san_vitb16_coco-stuff-171", "san_vit_large_14.pth": "san_vitl14-336_coco-stuff-171"}

golden_case("san", "set_criterion")(maskadapter_set_criterion)


def _pairs(config: Mapping[str, Any]) -> list[list[int]]:
    return [[int(number) for number in pair.split("->")] for pair in config["FUSION_MAP"]]


def _side_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the side adapter as options, in lower case."""
    adapter, vit, bias = config["side_adapter"], config["side_vit"], config["side_adapter"]["ATTN_BIAS"]
    assert bias["NUM_LAYERS"] == 1 and bias["RESCALE_ATTN_BIAS"]
    return {
        "num_queries": adapter["NUM_QUERIES"],
        "width": vit["width"],
        "depth": vit["depth"],
        "heads": vit["heads"],
        "patch_size": vit["patch_size"],
        "image_size": adapter["IMAGE_SIZE"],
        "embed_dim": bias["EMBED_CHANNELS"],
        "hidden_dim": bias["MLP_CHANNELS"],
        "mlp_layers": bias["MLP_NUM_LAYERS"],
        "resize_by_count": True,
    }


def _tower_of(case: GoldenCase, first_blocks: int, prefix: str) -> tuple[CLIPEncoder, ClassTokenTower]:
    """A CLIP with one recorded part of its image tower."""
    clip = openai_clip(case.config["clip"], case.device)
    part = {name.removeprefix(prefix): value for name, value in case.weights.items() if name.startswith(prefix)}
    # Of two options that no release uses.
    part.pop("sos_token", None)
    ours = key_map("san_image_tower").convert(part, case.name)
    if first_blocks:
        ours = {_shifted(name, first_blocks): value for name, value in ours.items()}
    present = {name: value for name, value in clip.visual.state_dict().items() if name in ours}
    load_strictly(clip.visual, ours, case.name, among=present)
    clip.requires_grad_(False)
    return clip, cast(ClassTokenTower, clip.tower)


def _shifted(name: str, count: int) -> str:
    start = "transformer.resblocks."
    if not name.startswith(start):
        return name
    number, _, rest = name.removeprefix(start).partition(".")
    return f"{start}{int(number) + count}.{rest}"


@golden_case("san", "clip_features")
def clip_features(case: GoldenCase) -> dict[str, Tensor]:
    last = case.config["FEATURE_LAST_LAYER_IDX"]
    clip, tower = _tower_of(case, 0, "clip_visual_extractor.")
    proposer = SAN(
        clip,
        width=24,
        heads=1,
        depth=max(last, 1),
        start_layer=last,
        fusion=tuple((block, block) for block in range(last + 1)),
        supervised_blocks=(max(last, 1),),
    )
    (position,) = proposer.trainable_clip_parameters(clip)
    position.requires_grad_(True)
    outputs: dict[str, Tensor] = {}
    for name in case.config["sizes"]:
        pixels = case.inputs[f"image/{name}"]
        tokens, _, maps = proposer.clip_features(tower, pixels)
        for block, features in maps.items():
            outputs[f"{name}/{block}"] = features
            outputs[f"{name}/{block}_cls_token"] = tower.tokens(pixels, block)[0][:, :1].transpose(0, 1)
        if name == "rect":
            products = [(features * case.inputs[f"cotangent/{block}"]).sum() for block, features in maps.items()]
            products.append((tokens[:, :1].transpose(0, 1) * case.inputs["cotangent/cls"]).sum())
            torch.stack(products).sum().backward()
    assert position.grad is not None
    return outputs | {"grad/clip_visual_extractor.positional_embedding": position.grad}


@golden_case("san", "side_adapter")
def side_adapter(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    sources = {side: block for block, side in _pairs(config["side_adapter"])}
    model = SideAdapter(
        **_side_options(config),
        fused=dict.fromkeys(sources, config["clip_width"]),
        supervised=config["side_adapter"]["DEEP_SUPERVISION_IDXS"],
        bias_heads=config["side_adapter"]["ATTN_BIAS"]["NUM_HEADS"],
    ).to(case.device)
    start, names = "side_adapter_network.", key_map("side_adapter")
    weights = {name.removeprefix(start): value for name, value in case.weights.items()}
    load_strictly(model, names.convert(weights, case.name), case.name)
    outputs: dict[str, Tensor] = {}
    for size in config["sizes"]:
        image = case.inputs[f"image/{size}"].requires_grad_()
        features = {n: case.inputs[f"clip_feature/{size}/{n}"].requires_grad_() for n in set(sources.values())}
        read = {side: features[block] for side, block in sources.items()}
        found = {f"train/{size}/{n}": layer for n, layer in enumerate(model(image, read, all_layers=True))}
        products = []
        for name, (masks, bias) in found.items():
            outputs |= {f"{name}/mask_preds": masks, f"{name}/attn_bias_0": bias}
            cotangent = name.replace("train", "cotangent")
            products += [(masks * case.inputs[f"{cotangent}/mask_preds"]).sum()]
            products += [(bias * case.inputs[f"{cotangent}/attn_bias_0"]).sum()]
        ((masks, bias),) = model(image, read, all_layers=False)
        outputs |= {f"eval/{size}/mask_preds": masks, f"eval/{size}/attn_bias_0": bias}
        if size == config["grad_size"]:
            torch.stack(products).sum().backward()
            assert image.grad is not None
            outputs["grad/image"] = image.grad
            outputs |= {f"grad/clip_feature/{n}": cast(Tensor, value.grad) for n, value in features.items()}
    for name in case.outputs:
        if name.startswith(f"grad/{start}"):
            ours = str(names.rename(name.removeprefix(f"grad/{start}")))
            outputs[name] = cast(Tensor, model.get_parameter(ours).grad)
    return outputs


@golden_case("san", "recognition")
def recognition(case: GoldenCase) -> dict[str, Tensor]:
    first, inputs = case.config["first_layer_idx"], case.inputs
    _, tower = _tower_of(case, first, "clip_rec_head.")

    def tokens_of(name: str) -> tuple[Tensor, Grid, Tensor]:
        features = inputs[f"{name}/pix_feat"]
        grid = (features.shape[-2], features.shape[-1])
        tokens = torch.cat([inputs[f"{name}/cls_token"].transpose(0, 1), features.flatten(2).transpose(1, 2)], dim=1)
        return tokens, grid, inputs[f"{name}/attn_bias"]

    outputs: dict[str, Tensor] = {}
    for name in case.config["grids"]:
        tokens, grid, bias = tokens_of(name)
        outputs[f"{name}/embeddings"] = embeddings_of_rows(tower, tokens, grid, bias_on_grid(bias, grid), first)
        outputs[f"{name}/embeddings_normalised"] = F.normalize(outputs[f"{name}/embeddings"], dim=-1)
    name = case.config["grad_grid"]
    leaves = {part: inputs[f"{name}/{part}"].requires_grad_() for part in ("attn_bias", "pix_feat", "cls_token")}
    tokens, grid, bias = tokens_of(name)
    shown = bias_on_grid(bias, grid)
    rows = embeddings_of_rows(tower, tokens, grid, shown, first)
    (F.normalize(rows, dim=-1) * inputs["cotangent"]).sum().backward()
    outputs |= {f"grad/{part}": cast(Tensor, leaf.grad) for part, leaf in leaves.items()}
    # Options of the code that no release uses: what they give the class rows is made here.
    flat = bias.flatten(0, 1)
    averaged = F.adaptive_avg_pool2d(flat, grid)
    resized = F.interpolate(flat, size=grid, mode="bilinear", align_corners=False)
    steps = [shown * (1 + 0.5 * index) for index in range(len(tower.blocks) - first)]
    start, token = case.weights["clip_rec_head.sos_token"].transpose(0, 1), tokens[:, :1]
    forms: dict[str, dict[str, Any]] = {
        "one_bias_head": {"bias": shown[:, :1]},
        "bias_per_block": {"bias": steps},
        "downsample_avg": {"bias": averaged.flatten(2).unflatten(0, shown.shape[:2])},
        "downsample_bilinear": {"bias": resized.flatten(2).unflatten(0, shown.shape[:2])},
        # Cross attention of the rows is how we compute it always.
        "cross_attn": {"bias": shown},
        "sos_learnable_token": {"bias": shown, "rows": start.expand(len(tokens), -1, -1)},
        "sos_pos_embedding": {"bias": shown, "rows": start + token},
    }
    for form, given in forms.items():
        found = tower.class_rows(tokens, grid, start_layer=first, keeps_class_token=True, **given)
        outputs[f"option/{form}"] = F.normalize(tower.project(found), dim=-1)
    return {name: value.detach() for name, value in outputs.items()}


@golden_case("san", "classifier")
def classifier(case: GoldenCase) -> dict[str, Tensor]:
    config, weights = case.config, case.weights
    clip = openai_clip(config["clip"], case.device)
    texts = {name.removeprefix("ov_classifier."): value for name, value in weights.items()}
    ours = key_map("san_texts").convert(texts, case.name)
    void = ours.pop("vocabulary_encoder.void_embedding")
    ours = {name.removeprefix("clip."): value for name, value in ours.items()}
    load_strictly(clip, ours, case.name, may_lack=("model.visual.",))
    clip.requires_grad_(False)
    scale = float(texts["logit_scale"].exp())
    encoder = vocabulary_encoder(clip, "vild", void, logit_scale=scale)
    names = tuple(name.strip() for name in config["class_names"])
    matrix = encoder(Vocabulary(names), clip).matrix
    (matrix * case.inputs["cotangent"]).sum().backward()
    assert encoder.void_embedding is not None and encoder.void_embedding.grad is not None
    reversed_rows = encoder(Vocabulary(names[::-1]), clip).matrix.detach()
    first = matrix[:1].detach()
    return {
        "classifier": matrix.detach(),
        "classifier_scaled": scale * matrix.detach(),
        "classifier_by_dataset": matrix.detach(),
        # A vocabulary of ours names nothing twice.
        "classifier_reordered": torch.cat([reversed_rows[:-1], first, reversed_rows[-1:]]),
        "grad/ov_classifier.bg_embed": encoder.void_embedding.grad,
    }


def _model(case: GoldenCase) -> OpenVocabSegmentor:
    config, weights, options = case.config, case.weights, case.config["san"]
    clip = set_normalisation(openai_clip(config["clip"], case.device), config, "pixel_mean", "pixel_std")
    proposer = PROPOSERS.build(
        "SAN",
        {
            **{name.upper(): value for name, value in _side_options(config).items()},
            "START_LAYER": options["FEATURE_LAST_LAYER_IDX"],
            "FUSION": _pairs(config["side_adapter"]),
            "SUPERVISED_BLOCKS": config["side_adapter"]["DEEP_SUPERVISION_IDXS"],
            "CLIP_SCALE": options["CLIP_RESOLUTION"],
            "NUM_POINTS": options["TRAIN_NUM_POINTS"],
        },
        BuildContext(clip, options["NUM_CLASSES"], torch.nn.Identity),
    )
    proposer.size_divisibility = options["SIZE_DIVISIBILITY"]
    model = OpenVocabSegmentor(
        clip=clip,
        vocabulary_encoder=vocabulary_encoder(
            clip, config["templates"], torch.zeros(1, clip.embed_dim), logit_scale=config["logit_scale_exp"]
        ),
        proposer=proposer,
        classifier=None,
        ensemble=ProposerAlone(),
        losses={},
        inference={
            "semantic": True, "panoptic": False, "instance": False, "resize_before": True, "labels_only": False,
            "seen_penalty": 0.0, "best_masks_above": 0.0, "sum_logits": False,
        },
        vocabulary=Vocabulary(tuple(name.strip() for name in config["class_names"])),
    ).to(case.device)  # fmt: skip
    assert recognise(weights) == "SAN"
    load_strictly(model, convert_released(weights, "SAN", case.name, options["NUM_CLASSES"]), case.name)
    return model


@golden_case("san", "san_model", "san_model_l")
@torch.no_grad()
def model(case: GoldenCase) -> dict[str, Tensor]:
    model = _model(case).eval()
    records = [
        {"image": case.inputs[f"image/{index}"], "height": height, "width": width}
        for index, (height, width) in enumerate(case.config["output_sizes"])
    ]
    outputs = {f"sem_seg/{index}": model([record])[0]["sem_seg"] for index, record in enumerate(records)}
    outputs |= {f"batched/sem_seg/{index}": found["sem_seg"] for index, found in enumerate(model(records))}
    for index, record in enumerate(records):
        proposals = model.propose(model.padded([record]), [record])
        for name, value in (("mask_preds", proposals.masks), ("attn_bias", proposals.attention_bias),
                            ("mask_logits", proposals.class_logits)):  # fmt: skip
            assert value is not None
            torch.testing.assert_close(value, case.tensors[f"mid/{index}/{name}"], rtol=1e-3, atol=1e-3)
    model.inference_options["resize_before"] = False
    outputs["postprocess_after/sem_seg/0"] = model(records[:1])[0]["sem_seg"]
    model.inference_options["resize_before"] = True
    cast(SAN, model.proposer).clip_scale = 1.0
    return outputs | {"symmetric/sem_seg/0": model(records[:1])[0]["sem_seg"]}


@golden_case("san", "san_train")
def train(case: GoldenCase) -> dict[str, Tensor]:
    model = _model(case).train()
    records = []
    for index in range(len(case.config["train_images"])):
        image = case.inputs[f"image/{index}"]
        instances = Instances((image.shape[-2], image.shape[-1]))
        instances.gt_classes = case.inputs[f"gt_classes/{index}"].long()
        instances.gt_masks = case.inputs[f"gt_masks/{index}"].bool()
        records.append({"image": image, "instances": instances})
    with RecordedDraws(case).replayed():
        losses = model(records)
    total = torch.stack(list(losses.values())).sum()
    total.backward()

    def parameter(name: str) -> torch.nn.Parameter:
        return model.get_parameter(str(official_name(name, "SAN")))

    def gradient(name: str) -> Tensor:
        found = parameter(name).grad
        assert found is not None, f"{name} has no gradient"
        return found.clone()

    names = case.record["grad_norm_names"]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {str(official_name(name, "SAN")) for name in names}, "other parameters are trained"
    outputs = {name: value.detach() for name, value in losses.items()} | {"total": total.detach()}
    outputs["grad_norms"] = torch.stack([gradient(name).norm() for name in names])
    outputs |= {f"grad/{name}": gradient(name) for name in case.config["grad_names"]}
    solver = case.config["solver"]
    cfg = load_config(_CONFIGS / f"{_FILES['san_vit_b_16.pth']}.yaml")
    overrides = [[part, solver["SOLVER.WEIGHT_DECAY"] if rate else 0.0] for part, rate in _overrides(cfg)]
    cfg.SOLVER.WEIGHT_DECAY_OVERRIDES = overrides
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = solver["SOLVER.BASE_LR"], solver["SOLVER.WEIGHT_DECAY"]
    clip = cfg.SOLVER.CLIP_GRADIENTS
    assert clip.ENABLED and solver["SOLVER.CLIP_GRADIENTS.CLIP_TYPE"] == clip.CLIP_TYPE
    clip.CLIP_VALUE = solver["SOLVER.CLIP_GRADIENTS.CLIP_VALUE"]
    optimizer = build_optimizer(cfg, model)
    clip_gradients([parameter for parameter in model.parameters() if parameter.requires_grad], clip)
    optimizer.step()
    outputs |= {f"updated/{name}": parameter(name).detach() for name in case.config["updated_names"]}
    # The rate that the tolerance of what was updated is measured in.
    return outputs | {"lr": torch.tensor([cfg.SOLVER.BASE_LR])}


def _overrides(cfg: Any) -> list[tuple[str, float]]:
    return [(part, float(rate)) for part, rate in cfg.SOLVER.WEIGHT_DECAY_OVERRIDES]


@golden_case("san", "optimizer_san_vit_b_16", "optimizer_san_vit_large_14")
def optimizer(case: GoldenCase) -> dict[str, Tensor]:
    """Every trainable parameter of the released config with its rate and decay, and the rates over the iterations."""
    cfg = load_config(_CONFIGS / f"{_FILES[case.name.removeprefix('optimizer_') + '.pth']}.yaml")
    with torch.device("meta"):
        model = OpenVocabSegmentor(cfg)
    ours = {
        name: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, cfg.SOLVER)
        for name in group["names"]
    }
    theirs = key_map("san").convert(case.record["param_groups"], case.name)
    assert ours.keys() == theirs.keys(), f"other parameters are trained: {sorted(ours.keys() ^ theirs.keys())[:8]}"
    relative, absolute = case.tolerance("out/lr_factor")
    for name, values in theirs.items():
        for mine, wanted in zip(ours[name], values, strict=True):
            assert math.isclose(mine, wanted, rel_tol=relative, abs_tol=absolute), f"{name}: {ours[name]}, not {values}"
    count = sum(model.get_parameter(name).numel() for name in ours)
    assert count == case.record["trainable_params"], f"{count} parameters train"
    recorded, clip = case.config["CLIP_GRADIENTS"], cfg.SOLVER.CLIP_GRADIENTS
    assert tuple(recorded[key] for key in ("ENABLED", "CLIP_TYPE", "CLIP_VALUE")) == (
        clip.ENABLED,
        clip.CLIP_TYPE,
        clip.CLIP_VALUE,
    )
    assert case.config["SOLVER"]["MAX_ITER"] == cfg.SOLVER.MAX_ITER
    return {"lr_factor": _rates(cfg, case.inputs["iterations"].tolist()) / cfg.SOLVER.BASE_LR}


@golden_case("san", "checkpoint_keys")
def checkpoint_keys(case: GoldenCase) -> dict[str, Tensor]:
    outputs = {}
    for file, official in released_shapes(case):
        release = recognise(official)
        assert release == "SAN", f"{file} was recognised as {release}"
        with torch.device("meta"):
            model = OpenVocabSegmentor(load_config(_CONFIGS / f"{_FILES[file]}.yaml"))
        problems = unfit(model.state_dict(), convert_released(official, release, file))
        assert not problems, f"{file}: {problems[:4]}"
        outputs[file] = torch.ones(())
    return outputs


@golden_case("san", "predictor")
def predictor(case: GoldenCase) -> dict[str, Tensor]:
    """The release's demo, which is none of our parts: its words beside our names of COCO-Stuff, its sizes and labels.

    A picture's shorter side becomes 640 by Pillow's bicubic filter, the longer one is cut to whole pixels and has no
    limit; names beyond the user's words are one label.
    """
    config = case.config
    words = sorted({word.strip().lower() for word in config["vocabulary"]})
    assert words == config["vocabulary_clean"]
    names = class_names("coco_stuff_val")
    for rule, others in (("merged", names), ("COCO-stuff", names[80:])):
        beside = [*words, *(name for name in others if name not in words)]
        recorded = case.record["vocabularies"]
        assert beside[: len(recorded[rule])] == recorded[rule] and len(beside) == recorded[f"{rule}_len"], rule
    outputs: dict[str, Tensor] = {}
    for index in range(len(config["sizes"])):
        pixels = case.inputs[f"image/{index}"].numpy()
        height, width = pixels.shape[:2]
        sides = [int(side * config["short_side"] / min(height, width)) for side in (height, width)]
        resized = ResizeTransform(height, width, *sides, interp=Image.Resampling.BICUBIC).apply_image(pixels)
        image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        outputs |= {f"image/{index}": image[:, ::8, ::8], f"image_size/{index}": torch.tensor(image.shape[-2:])}
        outputs[f"labels/{index}"] = case.inputs[f"scores/{index}"].argmax(0).clamp(max=len(words))
    return outputs
