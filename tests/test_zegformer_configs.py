"""ZegFormer as its configs put it together, in tiny sizes: what trains, and what its options change."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import Instances

from maft.building import build_model
from maft.classifiers.roi_align_crops import RoIAlignCrops
from maft.clip.vocabulary import prompt_templates
from maft.config import load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "maft"
_TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLIP.NAME": "tiny_vit",
    "MODEL.CLIP.PRETRAINED": "",
    "MODEL.START_FROM": "[]",
    "MODEL.VOCABULARY.CLASS_NAMES": "plain",
    # The tiny tower's tokenizer knows the words of the miniature world alone.
    "MODEL.VOCABULARY.TEMPLATES": "a photo of a {}",
    "MODEL.VOCABULARY.TEST_TEMPLATES": "the {}",
    "MODEL.VOCABULARY.CLASSIFIER_TEMPLATES": "this is a {}",
    "MODEL.RESNETS.DEPTH": "50",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "4",
    **{
        f"MODEL.PROPOSER.MaskFormer.{name}": value
        for name, value in {
            "NUM_QUERIES": "6", "HIDDEN_DIM": "32", "HEADS": "2", "FEEDFORWARD_DIM": "32", "DECODER_LAYERS": "2",
            "CONV_DIM": "32", "MASK_DIM": "32",
        }.items()
    },
    "DATASETS.TRAIN": "['miniature_train_seen']",
    "DATASETS.TEST": "['miniature_val']",
}  # fmt: skip


@pytest.fixture
def build():
    def build(changed=()):
        torch.manual_seed(0)
        overrides = [item for pair in (_TINY | dict(changed)).items() for item in pair]
        return build_model(load_config(CONFIGS / "zegformer_coco-stuff-156.yaml", overrides))

    return build


def record():
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    instances.gt_masks[0, :40, :50] = instances.gt_masks[1, 30:, 40:] = True
    return {"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), "instances": instances}


def test_the_generator_and_the_no_object_row_train_and_clip_is_not_looked_at(build, monkeypatch):
    model = build().train()
    monkeypatch.setattr(RoIAlignCrops, "forward", lambda *_: pytest.fail("the crops were classified in training"))
    torch.stack(list(model([record(), record()]).values())).sum().backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(name.startswith("proposer.") for name in moved - {"vocabulary_encoder.void_embedding"})
    assert {"vocabulary_encoder.void_embedding", "proposer.class_embed.layers.0.weight"} <= moved
    assert model.vocabulary_encoder.templates == ("a photo of a {}",)
    assert model.eval().vocabulary_encoder.templates == ("the {}",)


@torch.no_grad()
def test_score_rules_and_the_penalty_of_seen_classes(build):
    item, found = record(), {}
    for name, (key, value) in {
        "averaged": ("ENSEMBLE.ZegFormerEnsemble.RULE", "seen_average"),
        "all": ("ENSEMBLE.ZegFormerEnsemble.RULE", "all_classes"),
        "clip": ("ENSEMBLE.ZegFormerEnsemble.RULE", "classifier"),
        "queries": ("ENSEMBLE.NAME", "ProposerAlone"),
        "no penalty": ("INFERENCE.SEEN_PENALTY", "0.0"),
    }.items():
        model = build({"MODEL.INFERENCE.LABELS_ONLY": "False", f"MODEL.{key}": value}).eval()
        found[name] = model([{**item, "height": 50, "width": 70}])[0]["sem_seg"]
    seen = model.vocabulary.seen
    assert seen is not None
    expected = found["no penalty"] - 0.1 * torch.tensor(seen).float()[:, None, None]
    torch.testing.assert_close(found["averaged"], expected)
    distinct = [found[name] for name in ("averaged", "all", "clip", "queries")]
    assert all(not torch.allclose(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


def test_the_release_has_templates_of_its_own_in_training_evaluation_and_for_regions():
    def texts(name):
        words = load_config(CONFIGS / f"{name}.yaml").MODEL.VOCABULARY
        chosen = words.TEMPLATES, words.TEST_TEMPLATES or words.TEMPLATES, words.CLASSIFIER_TEMPLATES
        return [len(prompt_templates(one)) for one in chosen]

    assert texts("zegformer_coco-stuff-156") == [8, 1, 32]
    assert texts("zegformer_r50_coco-stuff-156") == [8, 8, 32]
    assert texts("zegformer_voc-15") == texts("zegformer_r50_voc-15") == [1, 1, 32]
    assert texts("zegformer_ade-847-572") == texts("zegformer_coco-stuff-156_ade-847") == [8, 8, 32]
