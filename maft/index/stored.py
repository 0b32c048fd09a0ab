"""One image as an index keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from maft.structures import EmbeddedMasks, Proposals


@dataclass(frozen=True, eq=False)
class StoredImage:
    """What a model saw of an image: with words it gives what the model would have said of it.

    Attributes:
        file: path of the image, as it was indexed.
        digest: SHA-256 of the file, in hexadecimal.
        output_size: (height, width) of the image, which results have.
        size: (height, width) at which the model saw it, without padding.
        proposals: a batch of one. Its ``class_logits`` are None unless the index is bound to the words of its
            making (``maft.interfaces.Proposer.reads_words``); `OpenVocabSegmentor.scored` makes them of ``queries``.
        embedded: the same masks as the classifier saw them; None without a classifier.
        true_masks: annotated masks of the image as the classifier saw them, where the index was made of a dataset.
        true_classes: class of each of them in the dataset.
    """

    file: str
    digest: str
    output_size: tuple[int, int]
    size: tuple[int, int]
    proposals: Proposals
    embedded: EmbeddedMasks | None
    true_masks: EmbeddedMasks | None = None
    true_classes: tuple[int, ...] = ()
