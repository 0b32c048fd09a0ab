"""SAM 3 (Carion et al., "SAM 3: Segment Anything with Concepts", 2025) as proposer: what it finds for words."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from detectron2.utils.logger import log_every_n_seconds
from pydantic import Field
from torch import Tensor

from maft.clip import CLIPEncoder
from maft.errors import UserError, shown
from maft.interfaces import BuildContext
from maft.options import Fraction, Positive
from maft.proposals.sam_model import HALF, NeverTrained, SAMFamily, SAMGeometry
from maft.proposals.transformers_models import Source, load_model, quietly
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier, Vocabulary, proposals_of_masks

_SAM3 = SAMFamily("Sam3Model", "5.0", normalisation=HALF)
FAMILIES = {
    "sam3": _SAM3,
    "sam3_video": _SAM3,
    "sam3_lite_text": SAMFamily("Sam3LiteTextModel", "5.6", normalisation=HALF),
}
# So many tokens, beginning and end included, its released processor makes of a word.
_MOST_TOKENS = 32


@PROPOSERS.register()
class SAM3(NeverTrained):
    """Proposer: every instance that SAM 3 finds for each word, with its own scores.

    It is given one word at a time: the image is encoded once, and all that follows the image encoder (fusion encoder,
    decoder and mask head) runs once **for each word**, a synonym being a word of its own. For the 150 names of ADE20K
    that is 150 passes an image; the log says what they took.

    Where the words are the names of the vocabulary, a mask that it found for a word of class c with the score s (that
    of the mask times that of the word's presence) has the class scores s for c and 1 - s for void, which an ensemble
    may join with those of the mask classifier. With other words it has none.

    Args:
        model: ``transformers.Sam3Model`` or ``Sam3LiteTextModel``.
        tokenizer: the model's.
        pretrained: a folder with ``config.json``, ``model.safetensors`` and the files of the tokenizer, or a Hugging
            Face hub id.
        words: what to look for; None: the names of the vocabulary in use and their synonyms.
        words_per_batch: words looked for at once, a bound on memory.
        score_threshold: masks of lower scores are dropped, by default as in transformers.

    Raises:
        UserError: there are no words, or one is too long.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        words: Annotated[tuple[str, ...], Field(min_length=1)] | None = None,
        words_per_batch: Positive = 8,
        score_threshold: Fraction = 0.3,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.geometry = SAMGeometry(_SAM3, model.config.image_size)
        self.words = None if words is None else Vocabulary(words)
        self.reads_words = words is None
        self.words_per_batch, self.score_threshold = words_per_batch, score_threshold
        self.eval()

    @classmethod
    def from_options(cls, context: BuildContext, *, pretrained: str = "facebook/sam3", **options: Any) -> Any:
        source = Source(pretrained, "MODEL.PROPOSER.SAM3.PRETRAINED", "a SAM 3 model", "facebook/sam3")
        return cls(load_model(source, FAMILIES), _tokenizer(source), **options)

    @torch.no_grad()
    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Binary masks (B, Q, H, W) as floats, in images of few masks followed by slots that are not ``valid``."""
        vocabulary = self.words or text.vocabulary
        if vocabulary is None:
            raise UserError(
                "SAM3 looks for words, and there are none here: set MODEL.PROPOSER.SAM3.WORDS, or take a proposer that "
                "needs none."
            )
        words = [(word, label) for label in range(len(vocabulary)) for word in vocabulary.synonyms(label)]
        started = time.perf_counter()
        seen = self.model.get_vision_features(self.geometry.prepared(images))
        found = [self._found(seen, index, size, words) for index, size in enumerate(images.sizes)]
        proposals = proposals_of_masks([masks for masks, _, _ in found], images)
        log_every_n_seconds(
            logging.INFO,
            f"SAM3 makes one pass for each word: {len(words)} for each of {len(images.sizes)} images took "
            f"{time.perf_counter() - started:.1f} s.",
            n=60,
        )
        if self.words is None:
            proposals.class_logits = _class_logits(found, proposals.masks.shape[1], len(vocabulary))
        return proposals

    def _found(
        self, seen: Any, index: int, size: tuple[int, int], words: list[tuple[str, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one image masks (n, h, w) bool, scores (n,) and labels (n,)."""
        parts = []
        for start in range(0, len(words), self.words_per_batch):
            chunk = words[start : start + self.words_per_batch]
            logits, scores = self._of_words(seen, index, [word for word, _ in chunk])
            kept = scores > self.score_threshold
            labels = torch.tensor([label for _, label in chunk], device=scores.device)[:, None].expand_as(scores)
            parts.append((self._full_size(logits[kept], size) > 0.5, scores[kept], labels[kept]))
        masks, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return masks, scores, labels

    def _of_words(self, seen: Any, index: int, words: list[str]) -> tuple[Tensor, Tensor]:
        """Mask logits (words, queries, h', w') and scores (words, queries) of one image."""
        tokens = self._tokens(words)
        several = {
            name: tuple(maps[index : index + 1].expand(len(words), *maps.shape[1:]) for maps in seen[name])
            for name in ("fpn_hidden_states", "fpn_position_encoding")
        }
        output = self.model(
            vision_embeds=type(seen)(**several),
            text_embeds=self.model.get_text_features(**tokens),
            attention_mask=tokens["attention_mask"],
        )
        scores = output.pred_logits.float().sigmoid() * output.presence_logits.float().sigmoid()
        return output.pred_masks.float(), scores

    def _tokens(self, words: list[str]) -> dict[str, Tensor]:
        """Ids and attention mask (words, tokens); raises `UserError` for a word that is too long."""
        most = min(_MOST_TOKENS, self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(words, padding="max_length", max_length=most, return_tensors=None)
        for word, ids in zip(words, tokens["input_ids"], strict=True):
            if len(ids) > most:
                raise UserError(f"SAM3 takes {most} tokens a word, and {shown(word)} has {len(ids)}: shorten it.")
        names = ("input_ids", "attention_mask")
        return {name: torch.tensor(tokens[name], device=self.model.device) for name in names}

    def _full_size(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if not len(logits):
            return logits.new_zeros(0, *size)
        return F.interpolate(logits.sigmoid()[None], size, mode="bilinear", align_corners=False)[0]


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(source.weights)
        # Without its files the library makes one that knows no word.
        if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
            raise OSError("no vocabulary")
        return tokenizer
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source.node} {source.weights} lacks a readable tokenizer: download tokenizer.json and "
            f"tokenizer_config.json from https://huggingface.co/{source.example}, too."
        ) from error


def _class_logits(found: list[tuple[Tensor, Tensor, Tensor]], slots: int, classes: int) -> Tensor:
    """(B, slots, classes + 1), whose softmax is the score of the class looked for, and the rest void."""
    probabilities = found[0][1].new_zeros(len(found), slots, classes + 1)
    probabilities[..., -1] = 1
    for image, (_, scores, labels) in zip(probabilities, found, strict=True):
        rows = torch.arange(len(scores), device=scores.device)
        image[rows, labels] = scores
        image[rows, -1] = 1 - scores
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
