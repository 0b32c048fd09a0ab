"""Every component of this package does what its base class promises."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from universal_families import save_universal

from maft.conformance import (
    SIZES,
    ClassifierConformance,
    EnsembleConformance,
    LossConformance,
    ProposerConformance,
)
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS

DECODER = {"NUM_QUERIES": 6, "HIDDEN_DIM": 32, "HEADS": 2, "FEEDFORWARD_DIM": 32, "DECODER_LAYERS": 2}
ENCODER = {"ENCODER_LAYERS": 1, "ENCODER_FEEDFORWARD_DIM": 32, "EMBEDDING_HIDDEN_DIM": 16}


class TestMask2Former(ProposerConformance):
    name = "Mask2Former"
    options = {**DECODER, **ENCODER, "CONV_DIM": 32, "MASK_DIM": 32, "NUM_POINTS": 64}


class TestMask2FormerOnCLIP(ProposerConformance):
    name, clip = "Mask2Former", "tiny_convnext"
    options = {**TestMask2Former.options, "BACKBONE": "clip", "CLASS_HEAD": "pooled"}


class TestFreeSeg(ProposerConformance):
    name = "FreeSeg"
    options = {**DECODER, **ENCODER, "INTERACTION_DIM": 32, "INTERACTION_HEADS": 2}


class TestMaskFormer(ProposerConformance):
    name = "MaskFormer"
    options = {**DECODER, "EMBEDDING_HIDDEN_DIM": 16, "CONV_DIM": 32, "MASK_DIM": 32}


class TestGroundTruth(ProposerConformance):
    name = "GroundTruth"


class TestMaskFiles(ProposerConformance):
    name = "MaskFiles"

    def prepare(self, folder: Path):
        for stem, size in zip(("one", "two"), SIZES):
            values = np.zeros(size, np.uint8)
            values[:20, :30], values[30:50, 10:60] = 1, 2
            Image.fromarray(values).save(folder / f"{stem}.png")
        return {"PATH": str(folder)}


class TestSAM(ProposerConformance):
    name = "SAM"
    options = {"POINTS_PER_SIDE": 2, "IOU_THRESHOLD": -1000.0, "STABILITY_THRESHOLD": 0.0, "NMS_THRESHOLD": 1.0}

    @pytest.fixture(autouse=True)
    def model(self, tiny_sam, tmp_path):
        tiny_sam("sam").save_pretrained(tmp_path)

    def prepare(self, folder: Path):
        return {"PRETRAINED": str(folder)}


class TestSAM3(ProposerConformance):
    name = "SAM3"
    options = {"SCORE_THRESHOLD": 0.0}

    @pytest.fixture(autouse=True)
    def model(self, tiny_sam3, tmp_path):
        tiny_sam3(tmp_path)

    def prepare(self, folder: Path):
        return {"PRETRAINED": str(folder)}


class TestUniversal(ProposerConformance):
    name, options = "Universal", {"NUM_POINTS": 64}

    def prepare(self, folder: Path):
        return {"PRETRAINED": str(save_universal("mask2former", folder))}


class TestEoMT(ProposerConformance):
    name = "EoMT"
    options = {"NUM_QUERIES": 6, "BLOCKS": 2, "TRAINED_BLOCKS": 2, "EMBEDDING_HIDDEN_DIM": 16, "NUM_POINTS": 64}


class TestSAN(ProposerConformance):
    name = "SAN"
    options = {
        "NUM_QUERIES": 6, "WIDTH": 24, "HEADS": 2, "DEPTH": 2, "IMAGE_SIZE": 96, "EMBED_DIM": 16, "HIDDEN_DIM": 16,
        "START_LAYER": 2, "FUSION": [[0, 0], [2, 1]], "SUPERVISED_BLOCKS": [1, 2], "CLIP_SCALE": 0.75, "NUM_POINTS": 64,
    }  # fmt: skip


class TestRecognitionOfSAN(ClassifierConformance):
    name, options = "SAN", {"START_LAYER": 2, "CLIP_SCALE": 0.75}


class TestIPCLIP(ClassifierConformance):
    name, options = "IPCLIP", {"START_LAYER": 2, "INPUT_SIZE": 96}


class TestRoIAlignCrops(ClassifierConformance):
    name = "RoIAlignCrops"
    options = {"CROPS_PER_CHUNK": 3}


class TestRoIAlignCropsOfWholeImages(ClassifierConformance):
    name = "RoIAlignCrops"
    options = {"STYLE": "mask"}


class TestMaskedCrops(ClassifierConformance):
    name, options = "MaskedCrops", {"TRAIN": "all", "MASK_PROMPT_DEPTH": 2}


class TestMaskPooling(ClassifierConformance):
    name, clip = "MaskPooling", "tiny_convnext"


class TestMAFTPlus(ClassifierConformance):
    name, clip = "MAFTPlus", "tiny_convnext"


class TestMaskAdapter(ClassifierConformance):
    name, clip = "MaskAdapter", "tiny_convnext"
    options = {"CHANNELS": 16, "NUM_MAPS": 2, "NUM_BLOCKS": 1, "NUM_GROUND_TRUTH": 4, "NUM_MATCHED": 2}


class TestMaskPoolingOnAViT(ClassifierConformance):
    name = "MaskPooling"


class TestMAFTPlusOnAViT(ClassifierConformance):
    name = "MAFTPlus"


class TestMaskAdapterOnAViT(ClassifierConformance):
    name, options = "MaskAdapter", TestMaskAdapter.options


class TestMaskCLIPpp(ClassifierConformance):
    name, options = "MaskCLIPpp", {"SIMILARITY_WIDTH": 16, "TEMPLATES": "single"}


class TestTextRegion(ClassifierConformance):
    name, options = "TextRegion", {"CROP_SIZE": 32, "DENSE_ELSEWHERE": True}


class TestTextRegionOnALearnedQuery(ClassifierConformance):
    name, clip, options = "TextRegion", "tiny_siglip", {"CROP_SIZE": 32}


class TestMaskAwareLoss(LossConformance):
    name = "MaskAwareLoss"


class TestSelfDistillationLoss(LossConformance):
    name = "SelfDistillationLoss"


class OnMaskAdapter(LossConformance):
    clip, classifier, classifier_options = "tiny_convnext", "MaskAdapter", TestMaskAdapter.options


class TestMaskCrossEntropyLoss(OnMaskAdapter):
    name = "MaskCrossEntropyLoss"


class TestBalancedCrossEntropyLoss(OnMaskAdapter):
    name = "BalancedCrossEntropyLoss"


class TestMaskConsistencyLoss(OnMaskAdapter):
    name = "MaskConsistencyLoss"


class TestRepresentationCompensationLoss(LossConformance):
    name, clip, classifier, classifier_options = "RepresentationCompensationLoss", "tiny_convnext", "MAFTPlus", {}


class TestClassifierAlone(EnsembleConformance):
    name = "ClassifierAlone"


class TestProposerAlone(EnsembleConformance):
    name = "ProposerAlone"


class TestFreeSegEnsemble(EnsembleConformance):
    name = "FreeSegEnsemble"


class TestOVSegEnsemble(EnsembleConformance):
    name = "OVSegEnsemble"


class TestZegFormerEnsemble(EnsembleConformance):
    name = "ZegFormerEnsemble"


class TestZegFormerEnsembleOfTheClassifier(EnsembleConformance):
    name = "ZegFormerEnsemble"
    options = {"RULE": "classifier"}


class TestFCCLIPEnsemble(EnsembleConformance):
    name = "FCCLIPEnsemble"


@pytest.mark.parametrize(
    ("registry", "kind"),
    [
        (PROPOSERS, ProposerConformance),
        (CLASSIFIERS, ClassifierConformance),
        (LOSSES, LossConformance),
        (ENSEMBLES, EnsembleConformance),
    ],
)
def test_no_component_is_left_out(registry, kind):
    joined = {
        test.name
        for test in globals().values()
        if isinstance(test, type) and issubclass(test, kind) and vars(test).get("name")
    }
    assert joined == {name for name in registry if registry.get(name).__module__.startswith("maft.")}
