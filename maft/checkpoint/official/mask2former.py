"""Names of the Mask2Former family's ``sem_seg_head``: Mask2Former, FreeSeg, FC-CLIP and their descendants."""

from __future__ import annotations

from maft.checkpoint.key_map import KeyMap, Rule

PIXEL_DECODER_RULES: tuple[Rule, ...] = (
    (r"input_proj\.(.*)", r"input_projections.\1"),
    (r"transformer\.level_embed", r"level_embedding"),
    (
        r"transformer\.encoder\.layers\.(\d+)\.self_attn\.(sampling_offsets|attention_weights)\.(.*)",
        r"layers.\1.attention.\2.\3",
    ),
    (
        r"transformer\.encoder\.layers\.(\d+)\.self_attn\.(value|output)_proj\.(.*)",
        r"layers.\1.attention.\2_projection.\3",
    ),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.(.*)", r"layers.\1.attention_norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.(.*)", r"layers.\1.ffn_norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.(linear[12])\.(.*)", r"layers.\1.\2.\3"),
    # The releases have one pyramid level, res2.
    (r"adapter_1\.(.*)", r"lateral_convs.res2.\1"),
    (r"layer_1\.(.*)", r"output_convs.res2.\1"),
    (r"(mask_features\..*)", r"\1"),
)

DECODER_RULES: tuple[Rule, ...] = (
    (r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.*)", r"layers.\1.cross_attention.\2"),
    (r"transformer_cross_attention_layers\.(\d+)\.norm\.(.*)", r"layers.\1.cross_attention_norm.\2"),
    (r"transformer_self_attention_layers\.(\d+)\.self_attn\.(.*)", r"layers.\1.self_attention.\2"),
    (r"transformer_self_attention_layers\.(\d+)\.norm\.(.*)", r"layers.\1.self_attention_norm.\2"),
    (r"transformer_ffn_layers\.(\d+)\.norm\.(.*)", r"layers.\1.ffn_norm.\2"),
    (r"transformer_ffn_layers\.(\d+)\.(linear[12])\.(.*)", r"layers.\1.\2.\3"),
    (r"decoder_norm\.(.*)", r"norm.\1"),
    (r"query_feat\.weight", r"query_features.weight"),
    (r"query_embed\.weight", r"query_positions.weight"),
    (r"level_embed\.weight", r"level_embedding.weight"),
    (r"input_proj\.(.*)", r"input_projections.\1"),
    (r"mask_embed\.(.*)", r"mask_head.\1"),
    (r"class_embed\.(layers\..*)", r"class_head.mlp.\1"),
    (r"_mask_pooling_proj\.(.*)", r"class_head.pooled_projection.\1"),
    (r"logit_scale", r"class_head.logit_scale"),
)

INTERACTION_RULES: tuple[Rule, ...] = (
    (r"gamma", r"gamma"),
    (r"layer_norm_q_1\.(.*)", r"token_norm.\1"),
    (r"layer_norm_k_1\.(.*)", r"text_norm.\1"),
    (r"attn\.q_proj\.(.*)", r"query_projection.\1"),
    (r"attn\.k_proj\.(.*)", r"key_projection.\1"),
    (r"attn\.v_proj\.(.*)", r"value_projection.\1"),
    (r"attn\.out_proj\.(.*)", r"output_projection.\1"),
)

# From the names below "sem_seg_head." to those below the proposer.
RULES = KeyMap.nested(
    [
        ("pixel_decoder.", "pixel_decoder.", PIXEL_DECODER_RULES),
        ("predictor.", "decoder.", DECODER_RULES),
        ("interaction.", "interaction.", INTERACTION_RULES),
    ]
).rules
