"""Names of the systems on MaskFormer outside CLIP's first copy: ZSSeg, ZegFormer and OVSeg."""

from __future__ import annotations

from maft.checkpoint.key_map import Rule
from maft.checkpoint.official.backbones import RESNET_RULES, SWIN_RULES
from maft.checkpoint.official.clip import RULES as CLIP_RULES

# (official prefix, our prefix, rules)
Parts = tuple[tuple[str, str, tuple[Rule, ...]], ...]

# The weights of the cross-entropy, which follow from the number of classes.
CRITERION = ("criterion.", "", ((r"empty_weight", None),))

# The head (``sem_seg_head.``), without that prefix.
HEAD_RULES: tuple[Rule, ...] = (
    # The official pyramid counts its levels from the highest resolution: 1 is res2.
    *((rf"pixel_decoder\.adapter_{n}\.(.+)", rf"pixel_decoder.lateral.res{n + 1}.\1") for n in range(1, 4)),
    *((rf"pixel_decoder\.layer_{n}\.(.+)", rf"pixel_decoder.output.res{n + 1}.\1") for n in range(1, 5)),
    (r"(pixel_decoder\.mask_features\.(?:weight|bias))", r"\1"),
    (r"predictor\.transformer\.(encoder|decoder)\.layers\.(\d+\..+)", r"transformer.\1.\2"),
    (r"predictor\.transformer\.(encoder|decoder)\.norm\.(weight|bias)", r"transformer.\1_norm.\2"),
    (r"predictor\.((?:query_embed|input_proj|class_embed|mask_embed)\..+)", r"\1"),
)

# Mask prompts, relative to the image tower there and to `maft.clip.mask_prompts.MaskPrompts` here.
PROMPT_RULES: tuple[Rule, ...] = ((r"mask_embedding", "tokens"),)

# ZSSeg and OVSeg without CLIP; a model has one of the two backbones.
PROPOSER_PARTS: Parts = (
    ("backbone.", "proposer.backbone.", (*RESNET_RULES, *SWIN_RULES)),
    ("sem_seg_head.", "proposer.", HEAD_RULES),
    CRITERION,
)

OVSEG_PARTS: Parts = (
    *PROPOSER_PARTS,
    ("clip_adapter.clip_model.visual.", "classifier.mask_prompts.", PROMPT_RULES),
)

ZSSEG_PARTS: Parts = (
    *PROPOSER_PARTS,
    # The crop branch's own copy of the same frozen CLIP, where a configuration separates the two.
    ("region_clip_adapter.", "", ((r"clip_model\..*|non_object_embedding|pixel_(?:mean|std)", None),)),
)

# Texts with learned prompts are not those of any template, so leaving the prompts out would change every score.
ZSSEG_LEARNED_PROMPTS = (
    r"(?:region_)?clip_adapter\.prompt_learner\.",
    "its learned prompts have no counterpart here; only ZSSeg trained with hand-written templates can be loaded",
)

_ZEGFORMER_HEAD: tuple[Rule, ...] = (
    (r"predictor\.projection_layer\.(weight|bias)", r"class_embed.layers.0.\1"),
    # Texts that the vocabulary gives again.
    (r"predictor\.(?:train_|test_)?text_features(?:_test)?", None),
    *HEAD_RULES,
)

# They follow the official modules; no released file was at hand to hold them against. Strict loading names whatever a
# file has besides.
ZEGFORMER_PARTS: Parts = (
    ("backbone.", "proposer.backbone.", RESNET_RULES),
    ("sem_seg_head.predictor.clip_model.", "clip.", CLIP_RULES),
    ("sem_seg_head.predictor.", "vocabulary_encoder.", ((r"bg_feature", "void_embedding"),)),
    ("sem_seg_head.", "proposer.", _ZEGFORMER_HEAD),
    ("clip_model.", "clip.", CLIP_RULES),
    CRITERION,
)
