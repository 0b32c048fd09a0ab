"""Names of backbones: Detectron2's ResNet, the official Swin, and their ImageNet weights published alone."""

from __future__ import annotations

from maft.checkpoint.key_map import KeyMap, Rule

# Detectron2's ResNet is ours too; the patterns only refuse tensors of anything else.
RESNET_RULES: tuple[Rule, ...] = ((r"((?:stem|res[2-5])\..*)", r"\1"),)

# Detectron2's Swin keeps the official names (MaskFormer, OVSeg).
SWIN_RULES: tuple[Rule, ...] = (
    # Attention masks for the pretraining size, in ImageNet checkpoints.
    (r"layers\.\d+\.blocks\.\d+\.attn_mask", None),
    (r"((?:patch_embed\.(?:proj|norm)|layers\.\d+|norm[0-3])\..+|absolute_pos_embed)", r"\1"),
)

# With or without the prefix of a whole model.
_PREFIX = r"(?:backbone\.)?"
# The ImageNet classifier, Swin's last norm, which its four-scale form replaces, and counters of batch statistics.
_HEADS = r"(?:(?:stem\.)?fc\..*|linear\..*|head\..*|norm\.(?:weight|bias)|.*\.num_batches_tracked)"

# ImageNet weights of a backbone alone, as Detectron2 (``R-103.pkl``) and Swin publish them.
KEY_MAP = KeyMap(
    [(_PREFIX + pattern, target) for pattern, target in ((_HEADS, None), *RESNET_RULES, *SWIN_RULES)],
)
