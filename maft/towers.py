"""Lists every CLIP that open_clip names, or those given: ``maft towers``.

One line a name: kind of the image tower, parameters, native size, context of the texts, and the mask classifiers that
work with it, or why none does. Nothing is downloaded. With names given, each classifier that does not work says why.

``--check`` proves it: of each CLIP a small random copy of the same classes is built, twice, here and by open_clip with
the same weights; embeddings of images and texts must agree, and every classifier that takes the tower is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import maft.classifiers  # noqa: F401
from maft.clip import CLIPEncoder
from maft.clip.listing import described_clip
from maft.clip.shrinking import example_tokens, original_embeddings, small_pair
from maft.errors import UserError, run_tool
from maft.interfaces import BuildContext, MaskClassifier
from maft.registry import CLASSIFIERS
from maft.structures import Images, Proposals, TextClassifier, Vocabulary

# Of unit-length embeddings, in float32.
TOLERANCE = 1e-5
# Classifiers that crop images take any tower; the others need to know its inside.
CROPS = {"MaskedCrops", "RoIAlignCrops"}
_WITH_START_LAYER = {"IPCLIP", "SAN"}
_TEXTS = ("a photo of a cat", "two dogs beside a bus")


@dataclass
class Tower:
    """What is known of a CLIP.

    Attributes:
        name: of open_clip's list.
        facts: kind, sizes and context, as they are printed; empty when it is refused.
        works: mask classifiers that take it.
        reasons: classifier, or "" for all, -> why not.
        faults: what `check` found.
    """

    name: str
    facts: str = ""
    works: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        if not self.works:
            return f"{self.name:<34} {self.facts} refused: {' '.join(dict.fromkeys(self.reasons.values()))}"
        return f"{self.name:<34} {self.facts} {', '.join(self.works)}"


def describe(name: str) -> Tower:
    """What a listed CLIP is and which classifiers take it; it is built without memory, and nothing is fetched."""
    tower = Tower(name)
    try:
        clip, text_is_known = described_clip(name)
    except UserError as error:
        tower.reasons[""] = str(error)
        return tower
    count = sum(p.numel() for p in (clip if text_is_known else clip.visual).parameters()) / 1e6
    height, width = clip.image_size
    tower.facts = (
        f"{clip.tower.kind:<34} {count:7.1f} M{' ' if text_is_known else '*'} {height:>3} x {width:<3} "
        f"{clip.tokenizer.context_length:>2}"
    )
    tower.works = list(_classifiers(clip, tower.reasons))
    return tower


def check(name: str) -> Tower:
    """The same of a small copy, with what is wrong with it; see the module's docstring."""
    tower = Tower(name)
    try:
        clip, reference = small_pair(name)
    except UserError as error:
        tower.reasons[""] = str(error)
        return tower
    tower.facts = f"{clip.tower.kind:<34}"
    # A small copy has fewer layers than the default one to start at.
    start = {"START_LAYER": 1} if clip.tower.masked_blocks else {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        # Coarse patterns: of fine noise every pool sees the same mean.
        pixels = F.interpolate(torch.randn(2, 3, 5, 5), clip.image_size) + torch.randn(2, 3, *clip.image_size)
        tokens, theirs = example_tokens(clip, _TEXTS)
        if not torch.equal(tokens, theirs):
            tower.faults.append("the tokens are not open_clip's")
        encoded = clip.encode_image(pixels), clip.encode_text(tokens)
        ours = [F.normalize(embeddings, dim=-1) for embeddings in encoded]
        for what, mine, other in zip(("image", "text"), ours, original_embeddings(reference, pixels, theirs)):
            difference = float((mine - other).abs().max())
            # Not a number is no agreement either.
            if not difference <= TOLERANCE:
                tower.faults.append(f"{what} embeddings differ by {difference:.1g}")
            if float((other[0] - other[1]).abs().max()) < 100 * TOLERANCE:
                tower.faults.append(f"two {what}s have one embedding, so nothing is proved")
        for key, classifier in _classifiers(clip, tower.reasons, start).items():
            if fault := _run(classifier, clip, ours[1]):
                tower.faults.append(f"{key} {fault}")
            else:
                tower.works.append(key)
    return tower


def _classifiers(
    clip: CLIPEncoder, reasons: dict[str, str], start: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, MaskClassifier]:
    """The classifiers that take a CLIP, by name; the others leave their reason."""
    built = {}
    context = BuildContext(clip, num_classes=2, backbone=torch.nn.Identity)
    for key in CLASSIFIERS:
        try:
            with torch.device(clip.device):
                built[key] = CLASSIFIERS.build(key, dict(start) if key in _WITH_START_LAYER else {}, context)
        except UserError as error:
            reasons[key] = str(error)
    return built


def _run(classifier: MaskClassifier, clip: CLIPEncoder, rows: Tensor) -> str:
    """What is wrong with the logits of two masks of one image; empty when nothing is."""
    images = Images.from_list([255 * torch.rand(3, 96, 128)])
    masks = torch.zeros(1, 2, 96, 128)
    masks[0, 0, :, :64] = masks[0, 1, 32:, 64:] = 1
    seen = torch.ones(2, dtype=torch.bool)
    text = TextClassifier(rows, torch.arange(2), 2, None, seen, vocabulary=Vocabulary(_TEXTS))
    try:
        logits = classifier.eval()(images, Proposals(masks, (96, 128), are_logits=False), text, clip).class_logits
    except UserError as error:
        return f"was built, but refuses images: {error}"
    if logits.shape != (1, 2, 2) or not logits.isfinite().all():
        return f"gives logits of shape {tuple(logits.shape)}, or no numbers"
    return ""


def summary(towers: Sequence[Tower]) -> str:
    """How many are usable, in one line."""
    masked = sum(not CROPS.issuperset(tower.works) for tower in towers)
    usable, faults = sum(bool(tower.works) for tower in towers), sum(bool(tower.faults) for tower in towers)
    found = f", {faults} with faults" if faults else ""
    return f"{len(towers)} names: {usable} usable, {masked} of them by more than crops{found}."


if __name__ == "__main__":
    from maft.cli.towers import main

    run_tool(main)
