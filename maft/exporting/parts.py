"""What can be exported of a model: modules that take and give tensors alone, and the same computed by the model itself.

Shape letters: B images, (H, W) their size, Q proposals, C classes, D width of CLIP's joint space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.ensembles import class_scores
from maft.errors import UserError
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Images, Proposals, Vocabulary

PIXELS = "RGB in 0..255, not normalised"


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: of the tensor.
        shape: numbers, and names of sizes that are open.
        values: what the numbers are.
        dtype: as NumPy calls it.
    """

    name: str
    shape: tuple[int | str, ...]
    values: str
    dtype: str = "float32"


class FilledImages(Images):
    """A batch without padding, whose size torch.export may keep open."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__(pixels, [])

    @property
    def padded_size(self) -> tuple[int, int]:
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def normalized(self, mean: Tensor, std: Tensor) -> Tensor:
        return (self.pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def inside(self) -> Tensor:
        return torch.ones_like(self.pixels[:, :1], dtype=torch.bool)


class Part(nn.Module):
    """A part of a model that can be exported.

    Attributes:
        inputs, outputs: in the order of `forward`.
        multiple_of: what height and width of images are to be multiples of; 0 for a part that sees no images.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    multiple_of: int = 0

    def example(self, batch: int, rows: int, columns: int) -> tuple[Tensor, ...]:
        """Random inputs; images are so many times ``multiple_of`` high and wide."""
        size = (rows * self.multiple_of, columns * self.multiple_of)
        return (torch.rand(batch, 3, *size) * 255,)

    def expected(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs as the model itself computes them."""
        raise NotImplementedError


class _Masks(Part):
    """Masks and their class probabilities."""

    def __init__(self, model: OpenVocabSegmentor, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model, self.vocabulary = model, vocabulary
        self.multiple_of = model.proposer.size_divisibility
        self.text = model.vocabulary_encoder(vocabulary, model.clip)
        self.classifier_text = None if model.classifier is None else model.classifier_text(vocabulary)

    def seen(self, pixels: Tensor) -> tuple[Tensor, Proposals]:
        """Probabilities (B, Q, C [+ 1]), and proposals; no hook of a part is called."""
        model, images, text = self.model, FilledImages(pixels), self.text
        proposals = model.proposer.forward(images, text, model.clip, None, [])
        classification = None
        if model.classifier is not None and self.classifier_text is not None:
            classification = model.classifier.forward(images, proposals, self.classifier_text, model.clip)
        probabilities = model.ensemble(class_scores(proposals, classification, text.seen))
        if proposals.valid is not None:
            probabilities = probabilities * proposals.valid[..., None]
        return probabilities, proposals

    def ports(self, probe: tuple[Tensor, ...], are_logits: bool) -> tuple[Port, Port]:
        probabilities = probe[0]
        queries = int(probabilities.shape[1])
        columns = int(probabilities.shape[2])
        return (
            Port("class_probabilities", ("batch", queries, columns), "0..1"),
            Port(
                "masks",
                ("batch", queries, "mask_height", "mask_width"),
                "logits: resize, then take the sigmoid" if are_logits else "0..1",
            ),
        )


class WholeModel(_Masks):
    """Pixels (B, 3, H, W) -> class probabilities (B, Q, C [+ 1]) of one vocabulary and masks (B, Q, h, w).

    Args:
        semantic: gives the semantic scores (B, C, H, W) as well, the sum over proposals of class probability times
            mask value; they take 4 * B * (C + Q) * H * W bytes.
    """

    def __init__(self, model: OpenVocabSegmentor, vocabulary: Vocabulary, *, semantic: bool = False) -> None:
        super().__init__(model, vocabulary)
        self.semantic = semantic
        self.inputs = (Port("pixels", ("batch", 3, "height", "width"), PIXELS),)
        given = self.example(1, 2, 2)
        proposals = model.propose(_images(*given), [], vocabulary)
        self.outputs = self.ports(self(*given), proposals.are_logits)
        if semantic:
            self.outputs += (Port("semantic_scores", ("batch", len(vocabulary), "height", "width"), "0 or more"),)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        probabilities, proposals = self.seen(pixels)
        scores = (self._scores(probabilities, proposals, pixels),) if self.semantic else ()
        return (probabilities, proposals.masks, *scores)

    def expected(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        images, model, names = _images(*inputs), self.model, self.vocabulary
        proposals = model.propose(images, [], names)
        classification = model.classify(images, proposals, names)
        probabilities = model.class_probabilities(proposals, classification, names)
        if not self.semantic:
            return probabilities, proposals.masks
        options = {**model.inference_options, "semantic": True, "labels_only": False, "panoptic": False}
        options["instance"] = False
        records: list[dict[str, Any]] = [{} for _ in images.sizes]
        results = model.combine(images, proposals, classification, records, names, None, options)
        return probabilities, proposals.masks, torch.stack([result["sem_seg"] for result in results])

    def _scores(self, probabilities: Tensor, proposals: Proposals, pixels: Tensor) -> Tensor:
        shown = proposals.probabilities((pixels.shape[-2], pixels.shape[-1]))
        return torch.einsum("bqc,bqhw->bchw", probabilities[..., : len(self.vocabulary)], shown)


class ImageTower(Part):
    """CLIP's image tower: pixels (B, 3, H, W) -> embeddings (B, D) of whole images, not normalised."""

    def __init__(self, clip: CLIPEncoder) -> None:
        super().__init__()
        self.clip = clip
        # A tower of stride 32 leaves one cell of a small image.
        self.multiple_of = max(clip.tower.stride, 32)
        self.inputs = (Port("pixels", ("batch", 3, "height", "width"), PIXELS),)
        self.outputs = (Port("embeddings", ("batch", clip.embed_dim), "not normalised"),)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.clip.encode_image(self.clip.normalize(FilledImages(pixels))),)

    def expected(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.clip.encode_image(self.clip.normalize(_images(*inputs))),)


class TextTower(Part):
    """CLIP's text tower: token ids (N, L) int64 of its own tokenizer -> embeddings (N, D), not normalised; N >= 2."""

    def __init__(self, clip: CLIPEncoder) -> None:
        super().__init__()
        self.clip = clip
        self.causal = _is_causal(clip)
        self.length = int(clip.tokenize(["a word"]).shape[1])
        self.inputs = (
            Port("tokens", ("texts", self.length), f"ids of the tokenizer of {clip.name}, two texts or more", "int64"),
        )
        self.outputs = (Port("embeddings", ("texts", clip.embed_dim), "not normalised"),)

    def example(self, batch: int, rows: int, columns: int) -> tuple[Tensor, ...]:
        # Of several lengths, and short enough for any context.
        texts = ["cat " * (number % 3) + "dog" for number in range(batch + rows)]
        return (self.clip.tokenize(texts),)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        clip = self.clip
        if self.causal:
            return (clip.encode_embedded_text(clip.token_embedding(tokens), clip.text_ends(tokens)),)
        return (clip.encode_text_by_definition(tokens),)

    def expected(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.clip.encode_text(*inputs),)


def _is_causal(clip: CLIPEncoder) -> bool:
    try:
        clip.require_causal_text("")
    except UserError:
        return False
    return True


def _images(pixels: Tensor) -> Images:
    return Images(pixels, [(int(pixels.shape[-2]), int(pixels.shape[-1]))] * len(pixels))
