"""ZSSeg: its whole model with hand-written and with learned prompts, and the parts that are not OVSeg's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case
from golden.clip import openai_clip
from golden.maskformer import head_options
from golden.models_ovseg import adapter_options, maskformer_model, train_step
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.classifiers.masked_crops import MaskedCrops
from maft.clip import CLIPEncoder, VocabularyEncoder
from maft.clip.prompt_learner import PromptLearner
from maft.ensembles import FreeSegEnsemble, ProposerAlone
from maft.interfaces import ClassScores
from maft.proposals.maskformer import MaskFormer
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Images, Proposals, TextClassifier, Vocabulary

# What ZSSeg's base config sets and the cases do not repeat.
_BACKBONE = {
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.BACKBONE.FREEZE_AT": 0,
}


@golden_case("zsseg", "zsseg_head")
@torch.no_grad()
def zsseg_head(case: GoldenCase) -> dict[str, Tensor]:
    options, inputs = case.config["opts"], case.inputs
    channels = {f"res{level + 2}": width for level, width in enumerate(case.config["channels"])}
    head = MaskFormer(nn.Identity(), channels, options["MODEL.SEM_SEG_HEAD.EMBEDDING_DIM"], **head_options(options))
    head = head.to(case.device).eval()
    load_strictly(head, key_map("maskformer_head").convert(case.weights, case.name), case.name)
    text = _text(inputs["text_features"], inputs["non_object_embedding"])
    features = {name: value for name, value in inputs.items() if name in channels}
    embeddings, masks = head.predict(features, all_layers=True)
    outputs = {"pred_embeddings": embeddings[-1]}
    for name, embedding, mask in zip([f"aux_{index}/" for index in range(len(masks) - 1)] + [""], embeddings, masks):
        outputs[f"{name}pred_logits"], outputs[f"{name}pred_masks"] = text.logits(embedding), mask
    return outputs


def _text(rows: Tensor, void: Tensor) -> TextClassifier:
    classes = torch.arange(len(rows), device=rows.device)
    return TextClassifier(rows, classes, len(rows), F.normalize(void, dim=-1), classes >= 0)


@golden_case("zsseg", "zsseg_regions")
@torch.no_grad()
def zsseg_regions(case: GoldenCase) -> dict[str, Tensor]:
    inputs, weights = case.inputs, case.weights
    clip = openai_clip(case.config["clip"], case.device)
    tower = "clip_adapter.clip_model.visual."
    visual = {name.removeprefix(tower): value for name, value in weights.items() if name.startswith(tower)}
    load_strictly(clip.visual, key_map("image_tower").convert(visual), case.name)
    text = _text(inputs["text_features"], weights["clip_adapter.non_object_embedding"])
    images = Images.from_list([inputs["image"]])
    proposals = Proposals(inputs["masks"][None], images.sizes[0], are_logits=False)
    outputs: dict[str, Tensor] = {}
    for threshold in case.config["mask_thresholds"]:
        classifier = MaskedCrops(clip, mask_threshold=threshold, fill=case.config["mask_fill"])
        regions, _, valid = classifier.regions(images, proposals, 0, clip)
        found = classifier(images, proposals, text, clip)
        outputs |= {
            f"thr_{threshold}/regions_s8": regions[:, :, ::8, ::8],
            f"thr_{threshold}/valid": valid.to(torch.uint8),
            f"thr_{threshold}/clip_logits": found.logits[0, valid],
            f"thr_{threshold}/clip_probabilities": found.class_logits[0, valid].softmax(-1),
        }
    return outputs


@golden_case("zsseg", "zsseg_ensemble")
def zsseg_ensemble(case: GoldenCase) -> dict[str, Tensor]:
    inputs = case.inputs
    flags = torch.tensor(case.config["trainable_flag"], device=case.device).bool()
    outputs: dict[str, Tensor] = {}
    for name in case.outputs:
        form = name.removesuffix("/sem_seg")
        valid = torch.zeros_like(inputs["valid"]) if form.endswith("_novalid") else inputs["valid"]
        valid = valid.bool()
        clip = inputs["clip_logits"].new_zeros(len(valid), inputs["clip_logits"].shape[1])
        clip[valid] = inputs["clip_logits"][: int(valid.sum())]
        scores = ClassScores(
            proposer=inputs["pred_logits"][None],
            classifier=clip[None, :, :-1],
            classifier_void=clip[None, :, -1:],
            valid=valid[None],
            seen=torch.zeros_like(flags) if form.endswith("_noflag") else flags,
        )
        weight = form.partition("_")[0].removeprefix("w")
        classes = ProposerAlone()(scores) if form == "noens" else FreeSegEnsemble(weight=float(weight))(scores)
        classes = classes[0, :, : len(flags)]
        outputs[name] = torch.einsum("qc,qhw->chw", classes, inputs["mask_logits"].sigmoid())
    return outputs


def _encoder(clip: CLIPEncoder, adapter: dict, **options: object) -> VocabularyEncoder:
    """Of one adapter, with the recorded number of prompts where they are learned."""
    if adapter["PROMPT_LEARNER"] != "learnable":
        templates = adapter["PREDEFINED_PROMPT_TEMPLATES"]
        return VocabularyEncoder(clip.embed_dim, clip.text_width, templates=templates, **options)  # type: ignore[arg-type]
    prefix, suffix = adapter["PROMPT_SHAPE"]
    prompts = PromptLearner(clip, prefix=prefix, suffix=suffix)
    return VocabularyEncoder(clip.embed_dim, clip.text_width, templates="learned", prompts=prompts, **options)  # type: ignore[arg-type]


def _build(case: GoldenCase) -> OpenVocabSegmentor:
    if "weights_from" in case.record:
        weighed = GoldenCase.read(case.folder / f"{case.record['weights_from']}.json", str(case.device))
        case.config["opts"] = weighed.config["opts"] | case.config["opts"]
    case.config["opts"] = _BACKBONE | case.config["opts"]
    clip = openai_clip(case.config["clip"], case.device)
    adapter = adapter_options(case)
    of_regions = None
    if adapter.get("SEPERATE_ADAPTER"):
        prefix = "MODEL.CLIP_ADAPTER.REGION_CLIP_ADAPTER."
        own = {k.removeprefix(prefix): v for k, v in case.config["opts"].items() if k.startswith(prefix)}
        of_regions = _encoder(clip, own, void=False).to(case.device)
    ensemble = FreeSegEnsemble(weight=adapter["CLIP_ENSEMBLE_WEIGHT"])
    return maskformer_model(case, "ZSSeg", clip, ensemble, _encoder(clip, adapter).to(case.device), of_regions)


@golden_case("zsseg", "zsseg_model", "zsseg_model_learned", "zsseg_model_separate")
@torch.no_grad()
def zsseg_model(case: GoldenCase) -> dict[str, Tensor]:
    model = _build(case).eval()
    names, flags = tuple(case.config["class_names"]), tuple(map(bool, case.config["trainable_flag"]))
    trained = model.vocabulary_encoder
    outputs: dict[str, Tensor] = {}
    for name in case.outputs:
        kind, _, form = name.rpartition("/")
        label = form if kind.startswith("text") else kind
        if label in ("vild", "imagenet"):
            encoder = VocabularyEncoder(model.clip.embed_dim, model.clip.text_width, templates=label)
            encoder.void_embedding = trained.void_embedding
            model.vocabulary_encoder = encoder
        model.set_vocabulary(Vocabulary(names, None if label.endswith("_noflag") else flags))
        if kind == "text":
            outputs[name] = model.vocabulary_encoder(model.vocabulary, model.clip).matrix
        elif kind == "text_region":
            # The release appends a no-object row there that counts nowhere, and ours has none.
            void = F.normalize(case.weights["_region_clip_adapter.non_object_embedding"], dim=-1)
            outputs[name] = torch.cat([model.classifier_text().matrix, void])
        else:
            index = int(form.removeprefix("image_"))
            height, width = case.config["out_hw"][index]
            ensemble = model.ensemble
            model.ensemble = ProposerAlone() if label.endswith("_noens") else ensemble
            record = {"image": case.inputs[form], "height": height, "width": width}
            outputs[name] = model([record])[0]["sem_seg"]  # type: ignore[index]
            model.ensemble = ensemble
        model.vocabulary_encoder = trained
    return outputs


@golden_case("zsseg", "zsseg_train", "zsseg_train_learned")
def zsseg_train(case: GoldenCase) -> dict[str, Tensor]:
    model = _build(case)
    model.set_vocabulary(Vocabulary(tuple(case.config["train_class_names"])))
    losses, gradients = train_step(case, model, "ZSSeg", images="image_", labels="gt_classes_", masks="gt_masks_")
    del gradients[""]
    losses["total"] = torch.stack(list(losses.values())).sum()
    outputs = {f"train/{name}": value[None] for name, value in losses.items()}
    return outputs | {f"grad/{name}": value for name, value in gradients.items()}
