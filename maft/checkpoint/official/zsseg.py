"""Names of ZSSeg outside CLIP's first copy: MaskFormer's, and a second CLIP for its crops."""

from __future__ import annotations

from maft.checkpoint.key_map import Rule
from maft.checkpoint.official.ovseg import PROPOSER_PARTS

# (official prefix, our prefix, rules)
PARTS: tuple[tuple[str, str, tuple[Rule, ...]], ...] = (
    *PROPOSER_PARTS,
    # The crop branch's own copy of the same frozen CLIP, where a configuration separates the two.
    ("region_clip_adapter.", "", ((r"clip_model\..*|non_object_embedding|pixel_(?:mean|std)", None),)),
)

# Texts with learned prompts are not those of any template, so leaving the prompts out would change every score.
LEARNED_PROMPTS = (
    r"(?:region_)?clip_adapter\.prompt_learner\.",
    "its learned prompts have no counterpart here; only ZSSeg trained with hand-written templates can be loaded",
)
