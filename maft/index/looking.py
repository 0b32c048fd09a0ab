"""Looking once: a model's masks of an image and what its classifier sees in them, before any word is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from maft.checkpoint.fingerprint import fingerprint
from maft.errors import UserError
from maft.files import sha256
from maft.index.stored import StoredImage
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Images, Proposals, Vocabulary
from maft.test_time import averaging

# Annotated masks (1, n, h, w) of a record and the class of each; None where it has none.
Truth = Callable[[Mapping[str, Any], Images], "tuple[Proposals, Sequence[int]] | None"]


def model_fingerprint(cfg: CfgNode, model: OpenVocabSegmentor) -> str:
    """What tells two models apart that would see other things: weights, config and the size of images.

    Where the weights came from, where the model runs and where it keeps texts is not part of it.
    """
    parts = cfg.MODEL.clone()
    parts.defrost()
    parts.WEIGHTS, parts.START_FROM, parts.DEVICE, parts.VOCABULARY.CACHE_DIR = "", [], "", ""
    seen = [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT]
    return fingerprint(model, {"model": parts, "input": seen})


def check_look(cfg: CfgNode) -> None:
    """Raises `UserError` where a config has a model look at an image more than once."""
    if averaging(cfg):
        raise UserError(
            "An index keeps one look at each image, and TEST.AUG and TEST.SLIDING_WINDOW average several: set "
            "TEST.AUG.ENABLED and TEST.SLIDING_WINDOW.ENABLED False."
        )


def look(
    model: OpenVocabSegmentor, record: Mapping[str, Any], vocabulary: Vocabulary, truth: Truth | None = None
) -> tuple[Images, Proposals, StoredImage]:
    """Looks at one image.

    Args:
        model: in evaluation mode.
        record: see `OpenVocabSegmentor.forward`, with "file_name".
        vocabulary: with what a proposer looks for masks that reads words; any for others.
        truth: gives annotated masks.

    Returns:
        the batch of one, all that was proposed, and what an index keeps.

    Raises:
        UserError: masks or their names cannot be told apart from words, see `_kept`.
    """
    records = [dict(record)]
    with torch.no_grad():
        images = model.padded(records)
        proposals = model.propose(images, records, vocabulary)
        kept = _kept(model, proposals)
        embedded = None
        true_masks, true_classes = None, tuple[int, ...]()
        if model.classifier is not None:
            embedded = model.classifier.embed(images, proposals, model.clip)
            if truth is not None and (found := truth(record, images)) is not None:
                masks, classes = found
                true_masks = model.classifier.embed(images, masks, model.clip)
                true_classes = tuple(int(one) for one in classes)
    size = images.sizes[0]
    return (
        images,
        proposals,
        StoredImage(
            file=str(record["file_name"]),
            digest=sha256(record["file_name"]),
            output_size=(int(record.get("height", size[0])), int(record.get("width", size[1]))),
            size=size,
            proposals=kept,
            embedded=embedded,
            true_masks=true_masks,
            true_classes=true_classes,
        ),
    )


def _kept(model: OpenVocabSegmentor, proposals: Proposals) -> Proposals:
    """What an index keeps of proposals; raises `UserError` where their class scores are of words that no one names."""
    scores = None
    if proposals.queries is None and proposals.class_logits is not None:
        if not model.proposer.reads_words:
            raise UserError(
                f"The proposer {type(model.proposer).__name__} makes class scores in one step with its masks, which "
                "other words cannot be compared with: its images cannot be indexed."
            )
        scores = proposals.class_logits
    return Proposals(
        masks=proposals.masks,
        padded_size=proposals.padded_size,
        are_logits=proposals.are_logits,
        own_size=proposals.own_size,
        class_logits=scores,
        valid=proposals.valid,
        align_corners=proposals.align_corners,
        queries=proposals.queries,
    )


class IndexingInference:
    """A model that keeps what it sees of each image on its way to the usual results: an index at no second pass.

    Args:
        model: in evaluation mode, with its vocabulary set.
        keep: is given what was seen of each image, in the order of the calls.
        truth: gives annotated masks of a record.
    """

    def __init__(
        self, model: OpenVocabSegmentor, keep: Callable[[StoredImage], None], truth: Truth | None = None
    ) -> None:
        self.model, self.keep, self.truth = model, keep, truth

    def __call__(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results as `OpenVocabSegmentor.forward` gives them, of one image at a time as an index keeps them."""
        return [self._result(record) for record in records]

    def _result(self, record: dict[str, Any]) -> dict[str, Any]:
        model = self.model
        images, proposals, stored = look(model, record, model.vocabulary, self.truth)
        self.keep(stored)
        with torch.no_grad():
            named = None if stored.embedded is None else model.named(stored.embedded)
            return model.combine(images, proposals, named, [record])[0]
