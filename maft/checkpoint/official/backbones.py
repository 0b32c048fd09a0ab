"""Names of backbones: Detectron2's ResNet, the official Swin, and their ImageNet weights published alone."""

from __future__ import annotations

from maft.checkpoint.key_map import KeyMap, Rule

# Detectron2's ResNet is ours too; the pattern only refuses tensors of anything else.
RESNET_RULES: tuple[Rule, ...] = ((r"((?:stem|res[2-5])\..*)", r"\1"),)

# The official Swin (MaskFormer, OVSeg), without the checkpoint's prefix.
SWIN_RULES: tuple[Rule, ...] = (
    # A buffer that the window size alone determines.
    (r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_index", None),
    # Attention masks for the pretraining size, in ImageNet checkpoints.
    (r"layers\.\d+\.blocks\.\d+\.attn_mask", None),
    *((rf"norm{index}\.(weight|bias)", rf"norms.res{index + 2}.\1") for index in range(4)),
    (r"(absolute_pos_embed)", r"\1"),
    (r"(patch_embed\.(?:proj|norm)\.(?:weight|bias))", r"\1"),
    (r"(layers\.\d+\.(?:blocks\.\d+|downsample)\..+)", r"\1"),
)

# With or without the prefix of a whole model.
_PREFIX = r"(?:backbone\.)?"
# The ImageNet classifier, Swin's last norm, which its four-scale form replaces, and counters of batch statistics.
_HEADS = r"(?:(?:stem\.)?fc\..*|linear\..*|head\..*|norm\.(?:weight|bias)|.*\.num_batches_tracked)"

# ImageNet weights of a backbone alone, as Detectron2 (``R-103.pkl``) and Swin publish them.
KEY_MAP = KeyMap(
    [(_PREFIX + pattern, target) for pattern, target in ((_HEADS, None), *RESNET_RULES, *SWIN_RULES)],
)
