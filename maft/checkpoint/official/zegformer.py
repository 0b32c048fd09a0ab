"""Names of ZegFormer: MaskFormer's, a linear class embedding, and CLIP.

They follow the official modules; no released file was at hand to hold them against. Strict loading names whatever a
file has besides.
"""

from __future__ import annotations

from maft.checkpoint.key_map import Rule
from maft.checkpoint.official.clip import RULES as CLIP_RULES
from maft.checkpoint.official.maskformer import RULES as MASKFORMER_RULES
from maft.checkpoint.official.resnet import RULES as RESNET_RULES

_HEAD: tuple[Rule, ...] = (
    (r"predictor\.projection_layer\.(weight|bias)", r"class_embed.layers.0.\1"),
    # Texts that the vocabulary gives again.
    (r"predictor\.(?:train_|test_)?text_features(?:_test)?", None),
    *MASKFORMER_RULES,
)

# (official prefix, our prefix, rules)
PARTS: tuple[tuple[str, str, tuple[Rule, ...]], ...] = (
    ("backbone.", "proposer.backbone.", RESNET_RULES),
    ("sem_seg_head.predictor.clip_model.", "clip.", CLIP_RULES),
    ("sem_seg_head.predictor.", "vocabulary_encoder.", ((r"bg_feature", "void_embedding"),)),
    ("sem_seg_head.", "proposer.head.", _HEAD),
    ("clip_model.", "clip.", CLIP_RULES),
    # The weights of the cross-entropy, which follow from the number of classes.
    ("criterion.", "", ((r"empty_weight", None),)),
)
