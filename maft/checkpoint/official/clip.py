"""CLIP's parameter names: OpenAI's archives and open_clip's checkpoints spell them alike."""

from __future__ import annotations

from maft.checkpoint.key_map import Rule

_BLOCK = (
    r"(?:attn\.(?:in_proj_(?:weight|bias)|out_proj\.(?:weight|bias))"
    r"|(?:ln_1|ln_2|mlp\.c_fc|mlp\.c_proj)\.(?:weight|bias)|(?:ls_1|ls_2)\.gamma)"
)

# Names inside the image tower, the same on both sides.
TOWER_RULES: tuple[Rule, ...] = (
    # ViT
    (r"(class_embedding|positional_embedding|proj|conv1\.weight|(?:ln_pre|ln_post)\.(?:weight|bias))", r"\1"),
    (rf"(transformer\.resblocks\.\d+\.{_BLOCK})", r"\1"),
    # ConvNeXt
    (r"((?:trunk|head)\..+)", r"\1"),
    # ResNet
    (r"((?:conv|bn)[123]\..+|layer[1234]\..+|attnpool\..+)", r"\1"),
)

_TEXT_RULES: tuple[Rule, ...] = (
    (r"((?:text\.)?(?:positional_embedding|text_projection(?:\.weight|\.bias)?|token_embedding\.weight))", r"\1"),
    (r"((?:text\.)?ln_final\.(?:weight|bias))", r"\1"),
    (rf"((?:text\.)?transformer\.resblocks\.\d+\.{_BLOCK})", r"\1"),
)

# A whole CLIP, relative to `maft.clip.CLIPEncoder`.
RULES: tuple[Rule, ...] = (
    # Sizes that OpenAI's archives repeat as tensors; masks that older versions saved but are rebuilt.
    (r"input_resolution|context_length|vocab_size|(?:text\.)?attn_mask", None),
    # OVSeg's mask prompts live in its classifier; the tower without masks does not use them.
    (r"visual\.mask_embedding", None),
    (r"(logit_scale|logit_bias)", r"model.\1"),
    *((rf"visual\.{pattern}", rf"model.visual.{target}") for pattern, target in TOWER_RULES),
    *((pattern, f"model.{target}") for pattern, target in _TEXT_RULES),
)
