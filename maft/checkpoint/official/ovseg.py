"""Names of the official OVSeg model outside CLIP: backbone, MaskFormer head and mask prompts."""

from maft.checkpoint.key_map import Rule
from maft.checkpoint.official.maskformer import RULES as MASKFORMER_RULES
from maft.checkpoint.official.resnet import RULES as RESNET_RULES
from maft.checkpoint.official.swin import RULES as SWIN_RULES

# Relative to the image tower there and to `maft.clip.mask_prompts.MaskPrompts` here.
PROMPT_RULES: tuple[Rule, ...] = ((r"mask_embedding", "tokens"),)

# (official prefix, our prefix, rules) of ZSSeg and OVSeg without CLIP; a model has one of the two backbones.
PROPOSER_PARTS: tuple[tuple[str, str, tuple[Rule, ...]], ...] = (
    ("backbone.", "proposer.backbone.", (*RESNET_RULES, *SWIN_RULES)),
    ("sem_seg_head.", "proposer.head.", MASKFORMER_RULES),
    # The weights of the cross-entropy, which follow from the number of classes.
    ("criterion.", "", ((r"empty_weight", None),)),
)

PROMPT_PARTS: tuple[tuple[str, str, tuple[Rule, ...]], ...] = (
    ("clip_adapter.clip_model.visual.", "classifier.mask_prompts.", PROMPT_RULES),
)
