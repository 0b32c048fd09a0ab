"""Names of the Mask2Former family's ``sem_seg_head``: Mask2Former, FreeSeg, FC-CLIP and their descendants."""

from __future__ import annotations

from maft.checkpoint.key_map import KeyMap, Rule

PIXEL_DECODER_RULES: tuple[Rule, ...] = (
    (r"((?:input_proj|mask_features)\..*)", r"\1"),
    (r"transformer\.(level_embed)", r"\1"),
    (r"transformer\.encoder\.(layers\.\d+\.(?:self_attn|norm[12]|linear[12])\..*)", r"\1"),
    (r"adapter_1\.(.*)", r"lateral.\1"),
    (r"layer_1\.(.*)", r"output.\1"),
)

DECODER_RULES: tuple[Rule, ...] = (
    (r"transformer_(cross|self)_attention_layers\.(\d+)\.(?:multihead|self)_attn\.(.*)", r"layers.\2.\1_attn.\3"),
    (r"transformer_cross_attention_layers\.(\d+)\.norm\.(.*)", r"layers.\1.cross_norm.\2"),
    (r"transformer_self_attention_layers\.(\d+)\.norm\.(.*)", r"layers.\1.norm1.\2"),
    (r"transformer_ffn_layers\.(\d+)\.norm\.(.*)", r"layers.\1.norm2.\2"),
    (r"transformer_ffn_layers\.(\d+\.linear[12]\..*)", r"layers.\1"),
    (r"((?:decoder_norm|query_feat|query_embed|level_embed|input_proj|mask_embed)\..*)", r"\1"),
    (r"class_embed\.(layers\..*)", r"class_head.mlp.\1"),
    (r"_mask_pooling_proj\.(.*)", r"class_head.pooled_projection.\1"),
    (r"(logit_scale)", r"class_head.\1"),
)

INTERACTION_RULES: tuple[Rule, ...] = (
    (r"(gamma)", r"\1"),
    (r"layer_norm_q_1\.(.*)", r"token_norm.\1"),
    (r"layer_norm_k_1\.(.*)", r"text_norm.\1"),
    (r"attn\.((?:q|k|v|out)_proj\..*)", r"\1"),
)

# From the names below "sem_seg_head." to those below the proposer.
RULES = KeyMap.nested(
    [
        ("pixel_decoder.", "pixel_decoder.", PIXEL_DECODER_RULES),
        ("predictor.", "decoder.", DECODER_RULES),
        ("interaction.", "interaction.", INTERACTION_RULES),
    ]
).rules
