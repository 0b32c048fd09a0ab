"""MaskCLIP++ against its release: image towers with mask priors, texts, similarities and ensembles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import timm
import torch
from timm.models import register_model
from timm.models.eva import Eva
from torch import Tensor

from golden.case import GoldenCase, golden_case, official_name
from golden.clip import convnext_clip, set_normalisation
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.classifiers.mask_clip_pp import MaskCLIPpp
from maft.classifiers.mask_clip_pp_input import prepare
from maft.classifiers.mask_clip_pp_similarity import (
    LinearSimilarity,
    PseudoTextSimilarity,
    Similarity,
    cosines,
)
from maft.classifiers.mask_clip_pp_tuning import tuned_text_parameters
from maft.clip import CLIPEncoder, VocabularyEncoder, clip_from_config
from maft.clip.prompt_axis import PromptEncoder
from maft.data.label_sets import overlap
from maft.ensembles import geometric_ensemble, joint_scores
from maft.proposals.universal_scores import first_classes, mean_logits_of_names
from maft.structures import Images, Proposals, TextClassifier, Vocabulary


def _eva_tower(config: Mapping[str, Any], *, second: bool) -> str:
    """timm's name of an EVA of recorded sizes; open_clip names trunks by timm's registry."""
    vision = config["vision"]
    name = "eva_recorded_" + sha256(json.dumps(vision, sort_keys=True).encode()).hexdigest()[:8]
    if not timm.is_model(name):
        sizes: dict[str, Any] = {
            "img_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "embed_dim": vision["width"],
            "depth": vision["layers"],
            "num_heads": vision["width"] // vision["head_width"],
            "mlp_ratio": vision["mlp_ratio"],
        }
        if second:
            sizes |= {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
            sizes |= {"use_rot_pos_emb": True, "ref_feat_shape": (vision["pt_hw_seq_len"],) * 2}

        def trunk(pretrained: bool = False, **options: Any) -> Eva:
            for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
                options.pop(key, None)
            return Eva(**{**sizes, "global_pool": "token", **options})

        trunk.__name__ = name
        trunk.__module__ = __name__
        register_model(trunk)
    return name


def recorded_clip(config: Mapping[str, Any], device: torch.device) -> CLIPEncoder:
    """An untrained CLIP of any family from a recorded ``config.clip``."""
    family, vision = config["family"], config["vision"]
    if family == "convnext":
        sizes = {**vision, "proj_bias": False, "drop": 0.0}
        return convnext_clip({"clip": {**config, **sizes}}, device)
    described: dict[str, Any] = {
        "embed_dim": config["embed_dim"],
        "vision_cfg": {key: value for key, value in vision.items() if value is not None},
        "text_cfg": {key: value for key, value in config["text"].items() if key != "xattn"},
    }
    if family.startswith("eva"):
        name = _eva_tower(config, second=family == "eva02")
        tower = {"timm_model_name": name, "timm_pool": "token", "timm_proj": None}
        described |= {"custom_text": True, "vision_cfg": {**tower, "image_size": vision["image_size"]}}
    return clip_from_config("recorded CLIP", described, quick_gelu=config.get("quick_gelu", False), device=device)


def recorded_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the classifier that do not depend on its head, from a recorded ``config.visual_encoder``."""
    encoder, clip = config["visual_encoder"], config["clip"]
    first, layers = encoder["MASK_PRIOR_BEG"], clip["vision"].get("layers")
    options: dict[str, Any] = {
        "mask_threshold": encoder["DOWN_MASK_THRESH"],
        "test_size": encoder["TEST_IMAGE_SIZE"],
        "divisor": encoder["SIZE_DIVISIBILITY"],
        "train": encoder["FINETUNE_TYPE"],
        "official_batches": clip["family"].startswith("eva"),
    }
    if isinstance(layers, int):
        options["blocks"] = layers - first + 1
    return options


def recorded_similarity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of what is learned on similarities, from a case with ``config.psm``."""
    psm, templates = config["psm"], config.get("templates_name", "t14")
    kinds = {"LinearPSM": "linear", "PseudoTextPSM": "pseudo_text", "DummyPSM": "mean"}
    names = {"CORR_WIDTH": "similarity_width", "NUM_HEADS": "similarity_heads"}
    options = {ours: psm[official] for official, ours in names.items() if official in psm}
    return {"similarity": kinds[psm["NAME"]], "templates": {"t1": "single", "t14": "vild"}[templates], **options}


def recorded_classifier(case: GoldenCase, *, may_lack: Sequence[str] = (), **options: Any) -> MaskCLIPpp:
    """The recorded classifier, with a CLIP of its own."""
    clip = set_normalisation(
        recorded_clip(case.config["clip"], case.device), case.config["visual_encoder"], "PIXEL_MEAN", "PIXEL_STD"
    )
    classifier = MaskCLIPpp(clip, clip, **{**recorded_options(case.config), **options}).to(case.device)
    weights = {name: value for name, value in case.weights.items() if _of_classifier(name)}
    # Batch statistics are recorded without their counters.
    counters = [name for name in classifier.state_dict() if name.endswith("num_batches_tracked")]
    load_strictly(classifier, _converted(weights, case.name), case.name, may_lack=(*may_lack, *counters))
    return classifier


def _of_classifier(name: str) -> bool:
    return name.startswith(("visual_encoder.", "psm.", "text_encoder."))


def _converted(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Official names to those of the classifier."""
    release = recognise(weights)
    assert release is not None, f"{source} was not recognised"
    return {
        name.removeprefix("classifier."): value for name, value in convert_released(weights, release, source).items()
    }


def padded_masks(masks: Sequence[Tensor], images: Images) -> Proposals:
    """Soft masks (Q_i, h_i, w_i) of images as one batch."""
    most, (height, width) = max(len(one) for one in masks), images.padded_size
    values = images.pixels.new_zeros(len(masks), most, height, width)
    for slot, one in zip(values, masks, strict=True):
        slot[: len(one), : one.shape[-2], : one.shape[-1]] = one
    valid = torch.arange(most, device=values.device) < torch.tensor([[len(one)] for one in masks], device=values.device)
    return Proposals(values, images.padded_size, are_logits=False, valid=valid)


_TEXT_OF_CLIP = tuple(
    f"clip.model.{name}"
    for name in ("logit_scale", "text", "positional_embedding", "token_embedding", "transformer", "ln_final")
)


def parameter_of(classifier: MaskCLIPpp, official: str, release: str) -> torch.nn.Parameter:
    """One of its parameters, by the official name."""
    return classifier.get_parameter(str(official_name(official, release)).removeprefix("classifier."))


def check_trainable(classifier: MaskCLIPpp, names: Iterable[str], release: str) -> None:
    """Holds what trains against recorded official names."""
    trained, expected = set(classifier.trainable_parameters()), {parameter_of(classifier, n, release) for n in names}
    own = {parameter: name for name, parameter in classifier.named_parameters()}
    assert trained == expected, f"trainable parameters differ: {sorted(own[one] for one in trained ^ expected)[:4]}"


@golden_case(
    "maskclippp", "eva02_encoder", "eva01_encoder", "clip_vit_encoder", "convnext_encoder", "resnet_encoder"
)  # fmt: skip
def image_tower(case: GoldenCase) -> dict[str, Tensor]:
    inputs, release = case.inputs, str(recognise(case.weights))
    convnext = case.config["clip"]["family"] == "convnext"
    # Nothing is learned on similarities here, but the map of a ConvNeXt is recorded too.
    classifier = recorded_classifier(case, may_lack=_TEXT_OF_CLIP, similarity="mean").eval()
    classifier.similarity.reads_map = convnext
    check_trainable(
        classifier, (f"visual_encoder.{name}" for name in case.record["outputs_json"]["trainable"]), release
    )
    for parameter in classifier.trainable_parameters():
        parameter.requires_grad_(True)
    pictures = [inputs[f"image/{index}"] for index in range(sum(name.startswith("image/") for name in inputs))]
    masks = [inputs[f"masks/{index}"].float() for index in range(len(pictures))]
    found = _embedded(classifier, pictures, masks, "")
    for index, (picture, shown) in enumerate(zip(pictures, masks)):
        if len(shown):
            alone = _embedded(classifier, [picture], [shown], "alone/")
            found[f"alone/m_embs/{index}"] = alone["alone/m_embs/0"]
    test = _embedded(classifier, [inputs["test/image"]], [inputs["test/masks"]], "", size=classifier.test_size)
    found |= {f"test/{name}": test[f"{name}/0"] for name in ("m_embs", "areas")}
    loss = torch.stack([_against(found[f"m_embs/{i}"], 5 + i) for i in range(len(pictures))]).sum()
    if convnext:
        found["test/p_embs"] = test["p_embs"]
        loss = loss + 0.1 * _against(found["p_embs"], 50)
    loss.backward()
    wanted = [name.removeprefix("grad/") for name in case.outputs if name.startswith("grad/")]
    gradients = {name: parameter_of(classifier, name, release).grad for name in wanted}
    found |= {f"grad/{name}": gradient for name, gradient in gradients.items() if gradient is not None}
    return {name: value for name, value in found.items() if name in case.outputs}


def _embedded(
    classifier: MaskCLIPpp, pictures: Sequence[Tensor], masks: Sequence[Tensor], prefix: str, size: int | None = None
) -> dict[str, Tensor]:
    """Embeddings and areas of the masks of every picture, and the dense embeddings of all."""
    images, clip = Images.from_list(pictures, 1), classifier.clip
    assert clip is not None
    pixels, sizes = prepare(images, clip, size, classifier.divisor)
    embeddings, on_grid, dense = classifier.encode(pixels, sizes, images, padded_masks(masks, images), clip)
    found = {} if dense is None else {f"{prefix}p_embs": dense}
    for index, one in enumerate(masks):
        found[f"{prefix}m_embs/{index}"] = embeddings[index, : len(one)]
        found[f"{prefix}areas/{index}"] = on_grid[index, : len(one)].sum((1, 2))
    return found


def _against(values: Tensor, seed: int) -> Tensor:
    """Sum of the values times what a generator of this seed draws."""
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)).to(values.device)
    return (values * drawn).sum()


@golden_case("maskclippp", "text_eva", "text_clip")
@torch.no_grad()
def texts(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    clip = recorded_clip(config["clip"], case.device)
    state = key_map("mask_clip_pp").convert(case.weights, case.name)
    load_strictly(clip, {n.removeprefix("clip."): v for n, v in state.items()}, case.name, may_lack=("model.visual.",))
    train, test = (Vocabulary(tuple(config[f"{split}_classes"])) for split in ("train", "test"))
    encoder = PromptEncoder(clip.embed_dim, clip.text_width, templates=config["templates"], synonyms="max")
    averaged = VocabularyEncoder(
        clip.embed_dim, clip.text_width, templates=config["templates_f"], synonyms="max", void=False
    )
    words = [word for index in range(len(test)) for word in test.synonyms(index)]
    tokens = clip.tokenize([template.replace("{}", word) for word in words for template in config["templates"]])
    outputs = {"tokens": tokens, "raw": clip.encode_text(tokens.to(case.device))}
    for split, vocabulary in (("train", train), ("test", test)):
        outputs[f"{split}_t_embs"], row_class = encoder.under_every_template(vocabulary, clip)
        outputs[f"{split}_num_synonyms"] = torch.bincount(row_class)
    outputs["test_t_embs_f"] = averaged(test, clip).embeddings
    outputs["category_overlapping_mask"] = torch.tensor(overlap(test.names, train.names))
    rule: Any = "attention_mlp_norms" if config["clip"]["family"].startswith("eva") else "attention"
    names = {parameter: name for name, parameter in clip.named_parameters()}
    trained = {names[parameter] for parameter in tuned_text_parameters(clip, rule)}
    expected = case.record["outputs_json"]["trainable_attention"]
    prefix = "text." if rule != "attention" else ""
    assert trained == {f"model.{prefix}{name.removeprefix('proxy.')}" for name in expected}
    return outputs


@golden_case("maskclippp", "mask_logits_linear", "mask_logits_pseudo")
def mask_logits(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    options = recorded_similarity(config)
    pseudo = options["similarity"] == "pseudo_text"
    similarity: Similarity = (
        PseudoTextSimilarity(config["embed_dim"], options["similarity_heads"], 0.0)
        if pseudo
        else LinearSimilarity(config["num_templates"], options["similarity_width"])
    )
    similarity.to(case.device).eval()
    state = key_map("mask_clip_pp").convert(case.weights, case.name)
    load_strictly(similarity, {name.removeprefix("similarity."): v for name, v in state.items()}, case.name)
    numbers = config["num_masks"]
    leaves = {name: inputs[name].requires_grad_() for name in inputs if inputs[name].is_floating_point()}
    rows = leaves["m_embs/0"].new_zeros(len(numbers), max(numbers), config["embed_dim"])
    embeddings = torch.stack(
        [torch.cat([leaves[f"m_embs/{i}"], rows[i, : len(rows[i]) - number]]) for i, number in enumerate(numbers)]
    )
    temperature = leaves["logit_scale"].exp().clamp(max=100)
    scale = temperature if config["use_logit_scale"] else 1.0
    scores = similarity(embeddings, leaves["t_embs"], scale, leaves.get("p_embs"))
    counts = torch.tensor(config["num_synonyms"], device=case.device)
    classes = torch.arange(len(counts), device=case.device)
    text = TextClassifier(
        leaves["t_embs"].mean(1), classes.repeat_interleave(counts), len(counts), void=None, seen=classes >= 0
    )
    logits = text.class_maximum(scores)
    outputs = {f"pred_logits/{index}": logits[index, :number] for index, number in enumerate(numbers)}
    kept = [scores[index, :number] for index, number in enumerate(numbers)]
    outputs["corrs"] = torch.cat(kept)
    real = torch.cat([embeddings[index, :number] for index, number in enumerate(numbers)])
    outputs["corrs_dummy"] = Similarity().of_cosines(cosines(real, leaves["t_embs"]) * temperature)
    _against(outputs["corrs"], 9).backward()
    parameters = dict(similarity.named_parameters())
    for name in case.outputs:
        if name.startswith("grad/"):
            official = name.removeprefix("grad/")
            if official.startswith("psm."):
                ours = str(key_map("mask_clip_pp").rename(official)).removeprefix("similarity.")
                gradient = parameters[ours].grad
            else:
                gradient = leaves[official].grad
            assert gradient is not None, f"{official} has no gradient"
            outputs[name] = gradient
    return outputs


_FLOOR = 1e-8


@golden_case("maskclippp", "geometric_ensemble")
def ensembles(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    train, test = config["train_classes"], Vocabulary(tuple(config["test_classes"]))
    alpha, beta = config["alpha"], config["beta"]
    seen = torch.tensor(overlap(test.names, train), device=case.device)
    columns = first_classes(train, test)
    outputs = {
        "category_overlapping_mask": seen,
        # Labels without a class go to void in the official table, which has a column for void itself.
        "lut": torch.tensor([*(len(test) if one < 0 else one for one in columns), len(test)]),
    }
    for index in range(sum(name.startswith("pred_logits/") for name in inputs)):
        named = inputs[f"pred_logits/{index}"]
        closed = mean_logits_of_names(inputs[f"segmentor_logits_closed/{index}"], train, test)
        for end, logits in (("", inputs[f"segmentor_logits/{index}"]), ("_closed", closed)):
            rule = (named, seen, alpha, beta, _FLOOR)
            outputs[f"ensembled{end}/{index}"] = joint_scores(logits[:, :-1], *rule)
            outputs[f"mask_cls{end}/{index}"] = geometric_ensemble(logits, *rule)
        alone = geometric_ensemble(inputs[f"segmentor_logits/{index}"], named, seen, 1.0, 1.0)
        outputs[f"no_ensemble/{index}"] = alone
    return outputs
