"""Runs recorded cases of the official MaskFormer head and of its set criterion."""

from __future__ import annotations

from typing import Any

import torch
from matched import matched
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.matching import HungarianMatcher
from maft.proposals.criterion import SetCriterion
from maft.proposals.maskformer import MaskFormer
from maft.structures import Proposals, Targets

_OPTIONS = {
    "MODEL.SEM_SEG_HEAD.EMBED_HIDDEN_DIM": "embedding_hidden_dim",
    "MODEL.SEM_SEG_HEAD.EMBED_LAYERS": "embedding_layers",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "conv_dim",
    "MODEL.SEM_SEG_HEAD.MASK_DIM": "mask_dim",
    "MODEL.SEM_SEG_HEAD.NORM": "norm",
    "MODEL.MASK_FORMER.HIDDEN_DIM": "hidden_dim",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "num_queries",
    "MODEL.MASK_FORMER.NHEADS": "heads",
    "MODEL.MASK_FORMER.DROPOUT": "dropout",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": "feedforward_dim",
    "MODEL.MASK_FORMER.ENC_LAYERS": "encoder_layers",
    "MODEL.MASK_FORMER.DEC_LAYERS": "decoder_layers",
    "MODEL.MASK_FORMER.PRE_NORM": "pre_norm",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "transformer_feature",
}


def head_options(options: dict[str, Any]) -> dict[str, Any]:
    """Our options of the head from the official dotted ones; absent ones keep their default."""
    return {ours: options[official] for official, ours in _OPTIONS.items() if official in options}


@golden_case("ovseg", "maskformer_head")
@torch.no_grad()
def maskformer_head(case: GoldenCase) -> dict[str, Tensor]:
    options = case.config["opts"]
    channels = {f"res{level + 2}": width for level, width in enumerate(case.config["channels"])}
    # The features are recorded; MaskFormer without a backbone is the official head.
    width = options["MODEL.SEM_SEG_HEAD.EMBEDDING_DIM"]
    head = MaskFormer(nn.Identity(), channels, width, **head_options(options)).to(case.device)
    load_strictly(head, key_map("maskformer_head").convert(case.weights, case.name), case.name)
    embeddings, masks = head.eval().predict(case.inputs, all_layers=options["MODEL.MASK_FORMER.DEEP_SUPERVISION"])
    names = [f"aux_{index}/" for index in range(len(masks) - 1)] + [""]
    outputs = {}
    for name, embedding, mask in zip(names, embeddings, masks):
        outputs[f"{name}pred_logits"] = embedding
        outputs[f"{name}pred_masks"] = mask
    return outputs


@golden_case("ovseg", "set_criterion")
def set_criterion(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, {name: value.clone() for name, value in case.inputs.items()}
    layers = ["main", *(f"aux_{index}" for index in range(config["n_aux"]))]
    leaves = {f"{layer}/{part}" for layer in layers for part in ("pred_logits", "pred_masks")}
    for name in leaves:
        inputs[name].requires_grad_()
    targets = [Targets(inputs[f"labels_{image}"], inputs[f"masks_{image}"].bool()) for image in range(config["batch"])]
    size = (targets[0].masks.shape[-2], targets[0].masks.shape[-1])
    main, *auxiliary = (
        Proposals(inputs[f"{layer}/pred_masks"], size, class_logits=inputs[f"{layer}/pred_logits"]) for layer in layers
    )
    main.auxiliary = auxiliary
    weights = {"ce": config["w_ce"], "mask": config["w_mask"], "dice": config["w_dice"]}
    if [config["cost_class"], config["cost_mask"], config["cost_dice"]] != list(weights.values()):
        raise AssertionError("the recorded costs are weighted otherwise than the losses")
    matcher = HungarianMatcher(
        class_weight=weights["ce"], mask_weight=weights["mask"], dice_weight=weights["dice"], mask_loss="focal"
    )
    weighted = SetCriterion(matcher, void_weight=config["eos_coef"])(main, targets)
    total = torch.stack(list(weighted.values())).sum()
    total.backward()
    outputs = {f"weighted/{name}": value for name, value in weighted.items()}
    outputs |= {f"unweighted/{name}": value / weights[name.split("_")[1]] for name, value in weighted.items()}
    outputs["total"] = total
    outputs |= {f"grad/{name}": inputs[name].grad for name in leaves}  # type: ignore[misc]
    for layer, proposals in zip(layers, [main, *auxiliary]):
        assert proposals.class_logits is not None
        for image, match in enumerate(matched(matcher, proposals.class_logits, proposals.masks, targets)):
            outputs[f"match/{layer}/{image}"] = torch.stack(match)
    return outputs
