"""The released checkpoints as wholes: how each is recognised, and its map onto our model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from maft.checkpoint.key_map import KeyMap, Rule, Value
from maft.checkpoint.official.backbones import KEY_MAP as BACKBONE_KEY_MAP
from maft.checkpoint.official.backbones import RESNET_RULES
from maft.checkpoint.official.clip import RULES as CLIP_RULES
from maft.checkpoint.official.clip import TOWER_RULES
from maft.checkpoint.official.mask2former import RULES as MASK2FORMER_RULES
from maft.checkpoint.official.mask_adapter import KEY_MAP as MASK_ADAPTER_KEY_MAP
from maft.checkpoint.official.maskformer import (
    CRITERION,
    OVSEG_PARTS,
    PROMPT_RULES,
    ZEGFORMER_PARTS,
    ZSSEG_LEARNED_PROMPTS,
    ZSSEG_PARTS,
)
from maft.errors import UserError

# FC-CLIP's one CLIP, backbone and classifier in one, and what stands around it.
_CLIP, _HEAD, _ADAPTER, _TRANSFER = r"backbone\.clip_model\.", r"sem_seg_head\.", r"mask_adapter\.", r"cdt\."
_DROP: tuple[Rule, ...] = ((".*", None),)


@dataclass(frozen=True)
class Release:
    """One family of released files.

    Attributes:
        name: how messages call it.
        signs: regular expressions of which each must match the beginning of some parameter name.
        key_map: official names to ours, for the whole model.
        unsupported: (beginning of a name, why a file with it is refused); None when there is no such part.
        absent: like ``signs``, but none may match.
    """

    name: str
    signs: tuple[str, ...]
    key_map: KeyMap
    unsupported: tuple[str, str] | None = None
    absent: tuple[str, ...] = ()

    def fits(self, names: list[str]) -> bool:
        def present(sign: str) -> bool:
            return any(re.match(sign, name) for name in names)

        return all(map(present, self.signs)) and not any(map(present, self.absent))


_CLIP_ADAPTER: tuple[tuple[str, str, tuple[Rule, ...]], ...] = (
    ("clip_adapter.clip_model.", "clip.", CLIP_RULES),
    (
        "clip_adapter.",
        "vocabulary_encoder.",
        ((r"non_object_embedding", "void_embedding"), (r"pixel_(mean|std)", None)),
    ),
)

_FREESEG = (
    ("backbone.", "proposer.backbone.", RESNET_RULES),
    ("sem_seg_head.", "proposer.", MASK2FORMER_RULES),
    CRITERION,
    *_CLIP_ADAPTER,
)

# The first one that fits is it: a system that adds parts to another one stands before that.
RELEASES: tuple[Release, ...] = (
    Release(
        "MAFT",
        (r"IPCLIP\.", r"sem_seg_head\.interaction\."),
        KeyMap.nested(
            [
                *_FREESEG,
                ("IPCLIP.", "classifier.visual.", TOWER_RULES),
                # A third copy of the tower that the official model never uses.
                ("T.", "", _DROP),
            ]
        ),
    ),
    Release("FreeSeg", (r"clip_adapter\.", r"sem_seg_head\.interaction\."), KeyMap.nested(_FREESEG)),
    Release(
        "OVSeg",
        (r"sem_seg_head\.predictor\.transformer\.", r"clip_adapter\.clip_model\.visual\.mask_embedding"),
        KeyMap.nested([*OVSEG_PARTS, *_CLIP_ADAPTER]),
    ),
    Release(
        "ZSSeg",
        (r"sem_seg_head\.predictor\.transformer\.", r"clip_adapter\."),
        KeyMap.nested([*ZSSEG_PARTS, *_CLIP_ADAPTER]),
        ZSSEG_LEARNED_PROMPTS,
    ),
    Release("ZegFormer", (r"sem_seg_head\.predictor\.projection_layer\.",), KeyMap.nested(ZEGFORMER_PARTS)),
    Release("Mask-Adapter on MAFT+", (_CLIP, _HEAD, _ADAPTER, _TRANSFER), MASK_ADAPTER_KEY_MAP),
    Release("Mask-Adapter on FC-CLIP", (_CLIP, _HEAD, _ADAPTER), MASK_ADAPTER_KEY_MAP),
    Release("MAFT+", (_CLIP, _HEAD, _TRANSFER), MASK_ADAPTER_KEY_MAP),
    Release("FC-CLIP", (_CLIP, _HEAD), MASK_ADAPTER_KEY_MAP),
    Release("Mask-Adapter warm-up on MAFT+", (_CLIP, _ADAPTER, _TRANSFER), MASK_ADAPTER_KEY_MAP),
    Release("Mask-Adapter warm-up on FC-CLIP", (_CLIP, _ADAPTER), MASK_ADAPTER_KEY_MAP),
    Release(
        "OVSeg's CLIP",
        (r"visual\.mask_embedding", r"token_embedding\."),
        KeyMap.nested([("visual.", "mask_prompts.", PROMPT_RULES), ("", "clip.", CLIP_RULES)]),
    ),
    # A segmentation model that is no release keeps its names, also those of its backbone.
    Release(
        "ImageNet backbone",
        (r"(?:backbone\.)?(?:stem\.conv1|patch_embed\.proj)\.",),
        BACKBONE_KEY_MAP,
        absent=(_HEAD,),
    ),
)


def recognise(state: Mapping[str, object]) -> str | None:
    """Name of the release a checkpoint belongs to; None when it has our own names."""
    names = list(state)
    return next((release.name for release in RELEASES if release.fits(names)), None)


def convert_released(state: Mapping[str, Value], name: str, source: str) -> dict[str, Value]:
    """A released state dict under our names.

    Raises:
        UserError: the checkpoint holds a tensor the release does not have, or a part that has no counterpart here.
    """
    release = next(release for release in RELEASES if release.name == name)
    if release.unsupported:
        pattern, reason = re.compile(release.unsupported[0]), release.unsupported[1]
        found = next((key for key in state if pattern.match(key)), None)
        if found:
            raise UserError(f"{source} is a {name} checkpoint with {found}: {reason}.")
    return release.key_map.convert({key: value for key, value in state.items() if not _no_prompts(key, value)}, source)


def _no_prompts(name: str, value: object) -> bool:
    """Whether this is the (0, patches, width) parameter of an OVSeg tower that was built without mask prompts."""
    shape = getattr(value, "shape", value)
    return name.endswith("visual.mask_embedding") and isinstance(shape, tuple) and shape[0] == 0
