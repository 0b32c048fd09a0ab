"""What cannot be exported, by name and with the reason."""

from __future__ import annotations

from maft.classifiers.mask_clip_pp import MaskCLIPpp
from maft.classifiers.masked_crops import MaskedCrops
from maft.classifiers.roi_align_crops import RoIAlignCrops
from maft.classifiers.text_region import TextRegion
from maft.errors import UserError
from maft.proposals.ground_truth import GroundTruth
from maft.proposals.mask2former import Mask2Former
from maft.proposals.mask_files import MaskFiles
from maft.proposals.sam import SAM
from maft.proposals.sam3 import SAM3
from maft.proposals.universal import Universal
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

_INSTEAD = "export --part image-tower and text-tower, or choose another one"
_REASONS: dict[type, str] = {
    MaskedCrops: "cuts as many crops as there are masks with a pixel, which a graph cannot count beforehand",
    RoIAlignCrops: "cuts as many crops as there are masks with a pixel, which a graph cannot count beforehand",
    TextRegion: "looks at each image in views of its own size, resized by OpenCV",
    MaskCLIPpp: "resizes each image of a batch for itself",
    SAM: "keeps as many masks of each image as its filters leave",
    SAM3: "makes one pass for each word, as many as there are",
    Universal: "hands each image to transformers at a size of its own",
    GroundTruth: "takes its masks from annotations",
    MaskFiles: "takes its masks from files",
}


def check_exportable(model: OpenVocabSegmentor, vocabulary: Vocabulary, *, semantic: bool = False) -> None:
    """Raises `UserError` for what a model has that cannot be exported."""
    for component in (model.proposer, model.classifier):
        for kind, reason in _REASONS.items():
            if isinstance(component, kind):
                raise UserError(f"{type(component).__name__} cannot be exported: it {reason}; {_INSTEAD}.")
    if isinstance(model.proposer, Mask2Former) and model.proposer.test_size is not None:
        raise UserError(
            f"{type(model.proposer).__name__} cannot be exported with TEST_SIZE: it looks at copies of each image's "
            f"own size; set MODEL.PROPOSER.{type(model.proposer).__name__}.TEST_SIZE to null."
        )
    if vocabulary.examples:
        raise UserError("Classes with example masks cannot be exported: give words alone.")
    if semantic:
        _check_semantic(model)


def _check_semantic(model: OpenVocabSegmentor) -> None:
    rules = {
        "sum_logits": "SUM_LOGITS joins texts at the pixels",
        "best_masks_above": "BEST_MASKS_ABOVE cuts masks",
        "seen_penalty": "SEEN_PENALTY is taken off the scores of seen classes",
    }
    for option, reason in rules.items():
        if model.inference_options.get(option):
            raise UserError(
                f"Semantic scores cannot be exported with MODEL.INFERENCE.{option.upper()} ({reason}): leave out "
                "--semantic, or set it to its default."
            )
