"""What a model says of all masks of a shard at once, without decoding one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from maft.index.questions import Question
from maft.index.ranking import any_of
from maft.index.rows import MaskRows
from maft.index.shard import Shard
from maft.index.stored import StoredImage
from maft.segmentor import OpenVocabSegmentor
from maft.structures import EmbeddedMasks, Proposals, Vocabulary

# Of the scores of one chunk; a few tensors of this size exist at a time.
_CHUNK_BYTES = 2**26


def question_scores(
    model: OpenVocabSegmentor, rows: MaskRows, question: Question, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How likely each of the M masks of an index shows what is asked for.

    Args:
        model: see `maft.index.words.asking_model`.
        wanted: (n,) int64, the masks that are compared, ascending; None: all.

    Returns:
        scores (M,), minus infinity of masks that are ruled out, show nothing or are not compared; and which of the
        words that are asked for is the likeliest, (M,) int64.
    """
    scores = torch.full((len(rows),), -torch.inf)
    best = torch.zeros(len(rows), dtype=torch.int64)
    asked, against = (torch.tensor(columns, dtype=torch.int64) for columns in (question.asked, question.against))
    for shard, start, local in rows.by_shard(wanted):
        for chosen, probabilities in mask_probabilities(model, shard, question.vocabulary, local):
            scores[start + chosen], best[start + chosen] = any_of(probabilities, asked, against)
    return scores.masked_fill(~rows.visible, -torch.inf), best


@torch.no_grad()
def mask_probabilities(
    model: OpenVocabSegmentor, shard: Shard, vocabulary: Vocabulary, wanted: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Joint class probabilities of the masks of a shard, chunk by chunk, those of the ensemble.

    Masks of all images go through the comparison together where each is compared for itself; where texts adapt to
    the image, image by image.

    Args:
        model: see `maft.index.words.asking_model`.
        vocabulary: C words.
        wanted: (n,) int64 rows of the shard, ascending; None: all.

    Yields:
        rows of the shard (n,), and their probabilities (n, C) or (n, C + 1), void last, on the CPU.
    """
    rows = torch.arange(shard.masks) if wanted is None else wanted
    if shard.has_context:
        image_of = shard.image_of[rows]
        chunks = [(image, rows[image_of == image]) for image in image_of.unique().tolist()]
    else:
        most = max(1, _CHUNK_BYTES // (4 * (len(vocabulary) + 1)))
        chunks = [(None, chunk) for chunk in rows.split(most) if len(chunk)]
    for image, chunk in chunks:
        proposals, embedded = _looked_at(shard, chunk, image, model.device)
        named = None if embedded is None else model.named(embedded, vocabulary)
        yield chunk, model.class_probabilities(model.scored(proposals, vocabulary), named, vocabulary)[0].float().cpu()


def _looked_at(
    shard: Shard, rows: Tensor, image: int | None, device: torch.device
) -> tuple[Proposals, EmbeddedMasks | None]:
    """Masks as a batch of one, without their pixels; of one image with what its texts adapt to."""

    def chosen(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[rows][None]

    proposals = Proposals(
        torch.zeros(1, len(rows), 0, 0),
        (0, 0),
        class_logits=chosen(shard.class_logits),
        valid=chosen(shard.proposed_valid),
        queries=chosen(shard.queries),
    )
    embeddings, embedded = chosen(shard.embeddings), None
    if embeddings is not None:
        context = {} if image is None else shard.context(image)
        embedded = EmbeddedMasks(embeddings, chosen(shard.embedded_valid), context)
    return _on_device(proposals, embedded, device)


def on_device(image: StoredImage, device: torch.device) -> StoredImage:
    """An image whose proposals and embeddings lie on a device."""
    proposals, embedded = _on_device(image.proposals, image.embedded, device)
    return replace(image, proposals=proposals, embedded=embedded)


def _on_device(
    proposals: Proposals, embedded: EmbeddedMasks | None, device: torch.device
) -> tuple[Proposals, EmbeddedMasks | None]:
    def moved(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.to(device)

    proposals = replace(
        proposals,
        masks=proposals.masks.to(device),
        class_logits=moved(proposals.class_logits),
        valid=moved(proposals.valid),
        queries=moved(proposals.queries),
    )
    if embedded is not None:
        context = {name: [one.to(device) for one in values] for name, values in embedded.context.items()}
        embedded = EmbeddedMasks(embedded.embeddings.to(device), moved(embedded.valid), context)
    return proposals, embedded
