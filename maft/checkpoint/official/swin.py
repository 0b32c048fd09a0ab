"""Names of the official Swin backbone (MaskFormer, OVSeg), without the checkpoint's prefix."""

from maft.checkpoint.key_map import Rule

RULES: tuple[Rule, ...] = (
    # A buffer that the window size alone determines.
    (r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_index", None),
    # Attention masks for the pretraining size, in ImageNet checkpoints.
    (r"layers\.\d+\.blocks\.\d+\.attn_mask", None),
    *((rf"norm{index}\.(weight|bias)", rf"norms.res{index + 2}.\1") for index in range(4)),
    (r"(absolute_pos_embed)", r"\1"),
    (r"(patch_embed\.(?:proj|norm)\.(?:weight|bias))", r"\1"),
    (r"(layers\.\d+\.(?:blocks\.\d+|downsample)\..+)", r"\1"),
)
