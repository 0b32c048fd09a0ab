"""What a loaded model sees of the examples of a vocabulary, before it names masks with them."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from maft.errors import UserError
from maft.examples import Example, ExampleEmbeddings
from maft.index.looking import model_fingerprint
from maft.predictor.loaded import LoadedModel
from maft.structures import EmbeddedMasks, Images, Proposals, Vocabulary, proposals_of_masks

# Examples whose looks are kept ready, those used last.
_MOST_KEPT = 256
# Held for moments, while a look is found or put away.
_LOCK = threading.Lock()


class ExampleLooks(LoadedModel):
    """A loaded model that looks at examples, each once."""

    @cached_property
    def fingerprint(self) -> str:
        """What it sees is kept under this, see `maft.index.looking.model_fingerprint`."""
        return model_fingerprint(self.cfg, self.model)

    @cached_property
    def _kept(self) -> dict[str, ExampleEmbeddings]:
        return {}

    def with_looks(self, vocabulary: Vocabulary) -> Vocabulary:
        """The same vocabulary, whose examples also have what this model sees of them.

        Raises:
            UserError: the model has no mask classifier, its classifier looks and names in one step, or a mask is too
                small for it or leaves nothing else to see.
        """
        if not vocabulary.examples:
            return vocabulary
        looked = [[self._with_look(example, name) for example in vocabulary.of(index)]
                  for index, name in enumerate(vocabulary.names)]  # fmt: skip
        return replace(vocabulary, examples=tuple(map(tuple, looked)))

    def _with_look(self, example: Example, name: str) -> Example:
        if example.look(self.fingerprint) is not None:
            return example
        with _LOCK:
            look = self._kept.get(example.digest)
        if look is None:
            # Others may find the same meanwhile.
            look = self._look(example, name)
            with _LOCK:
                self._kept[example.digest] = look
                for digest in list(self._kept)[: max(0, len(self._kept) - _MOST_KEPT)]:
                    del self._kept[digest]
        return example.with_look(self.fingerprint, look)

    @torch.no_grad()
    def _look(self, example: Example, name: str) -> ExampleEmbeddings:
        model = self.model
        if model.classifier is None:
            raise UserError(
                f"The class {name!r} has examples, and this model has no mask classifier to compare masks with them: "
                "set MODEL.CLASSIFIER.NAME, or remove the examples."
            )
        record = self._record(None, example.image)
        with self._autocast():
            images = model.padded([record])
            mask = _resized(torch.from_numpy(example.mask.copy()), images)
            own = model.classifier.embed(images, proposals_of_masks([mask[None]], images), model.clip)
            if not mask.any() or (own.valid is not None and not own.valid.any()):
                raise UserError(
                    f"An example mask of {name!r} is too small for the model to see at the size at which it looks at "
                    "images: mark a larger region, or cut the image around it."
                )
            others = [proposals_of_masks([~mask[None]], images)]
            if model.proposer.sees_pixels:
                others.append(model.propose(images, [record], self._known_words))
            seen = [model.classifier.embed(images, one, model.clip) for one in others]
        shown = [_visible(one, found) for one, found in zip(others, seen, strict=True)]
        shares = [_shares(one, mask, images)[visible] for one, visible in zip(others, shown, strict=True)]
        embeddings = [found.embeddings[0][visible] for found, visible in zip(seen, shown, strict=True)]
        look = ExampleEmbeddings(
            torch.cat([own.embeddings[0], *embeddings]).float().cpu(),
            torch.cat([mask.new_ones(1).float(), *shares]).cpu(),
            {key: values[0].float().cpu() for key, values in own.context.items()},
        )
        if not look.elsewhere.any():
            raise UserError(
                f"The model sees nothing but the example in an image that shows {name!r}: give an image with more "
                "around it."
            )
        return look


def _resized(mask: Tensor, images: Images) -> Tensor:
    """(h, w) bool, a mask of an image at the size at which the model sees it."""
    values = torch.nn.functional.interpolate(
        mask[None, None].float(), images.sizes[0], mode="bilinear", align_corners=False, antialias=True
    )
    return values[0, 0].to(images.pixels.device) >= 0.5


def _visible(proposals: Proposals, embedded: EmbeddedMasks) -> Tensor:
    """(Q,) bool of the one image."""
    visible = proposals.masks.new_ones(proposals.masks.shape[1], dtype=torch.bool)
    for valid in (proposals.valid, embedded.valid):
        visible = visible if valid is None else visible & valid[0]
    return visible


def _shares(proposals: Proposals, mask: Tensor, images: Images) -> Tensor:
    """(Q,) float32, which share of each proposal of an image lies on a mask (h, w) bool; 1 of those without any."""
    spanned = mask.shape if proposals.own_size else images.padded_size
    inside = proposals.resized((int(spanned[0]), int(spanned[1])))[0, :, : mask.shape[0], : mask.shape[1]]
    inside = inside > (0 if proposals.are_logits else 0.5)
    pixels = inside.flatten(1).sum(1)
    return torch.where(pixels > 0, (inside & mask).flatten(1).sum(1) / pixels.clamp(min=1), 1.0)
