"""Tiny untrained universal segmenters of the transformers library, one of every family, as folders with processors."""

import json
from pathlib import Path

import torch

LABELS = {0: "cat", 1: "sky-other-merged", 2: "brick, stone"}
_SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64}
_DETR = {"decoder_layers": 2, "encoder_layers": 1, "d_model": 16, "decoder_attention_heads": 2}
_SWIN_FORMER = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16, "encoder_layers": 1,
    "decoder_layers": 3, "num_attention_heads": 2, "dim_feedforward": 16, "num_queries": 5,
}  # fmt: skip
_PLAIN = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    "num_blocks": 2, "num_upscale_blocks": 2, "num_queries": 5, "mlp_ratio": 2,
}  # fmt: skip
FAMILIES = ("maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3", "videomt")
# The sides of the two sizes of processor that resize by the short edge; 32 divides what comes out.
_SIZE = {"shortest_edge": 64, "longest_edge": 128}


def tiny_model(kind):
    """A model with random weights that answers with masks of every sign."""
    import transformers as t

    torch.manual_seed(0)
    if kind == "maskformer":
        decoder = {
            **_DETR,
            "decoder_ffn_dim": 16,
            "encoder_ffn_dim": 16,
            "encoder_attention_heads": 2,
            "num_queries": 5,
        }
        config = t.MaskFormerConfig(
            backbone_config=t.SwinConfig(**_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
            decoder_config=t.DetrConfig(**decoder),
            fpn_feature_size=32,
            mask_feature_size=16,
            use_auxiliary_loss=True,
            id2label=LABELS,
        )
        model = t.MaskFormerForInstanceSegmentation(config)
    elif kind == "mask2former":
        backbone = t.SwinConfig(**_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
        config = t.Mask2FormerConfig(backbone_config=backbone, **_SWIN_FORMER, id2label=LABELS)
        model = t.Mask2FormerForUniversalSegmentation(config)
    elif kind == "oneformer":
        backbone = t.SwinConfig(**_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
        sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16, "encoder_layers": 1}
        config = t.OneFormerConfig(
            backbone_config=backbone, **sizes, decoder_layers=3, num_attention_heads=2, dim_feedforward=16,
            num_queries=5, query_dec_layers=1, task_seq_len=77, text_encoder_width=16, id2label=LABELS,
        )  # fmt: skip
        model = t.OneFormerForUniversalSegmentation(config)
    elif kind == "eomt":
        model = t.EomtForUniversalSegmentation(t.EomtConfig(**_PLAIN, id2label=LABELS))
    elif kind == "eomt_dinov3":
        sizes = {key: value for key, value in _PLAIN.items() if key != "mlp_ratio"}
        model = t.EomtDinov3ForUniversalSegmentation(t.EomtDinov3Config(**sizes, intermediate_size=32, id2label=LABELS))
    else:
        model = t.VideomtForUniversalSegmentation(t.VideomtConfig(**_PLAIN, id2label=LABELS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tiny_processor(kind, **changed):
    """The family's own image processor for pictures of some 64 pixels; OneFormer's without its tokenizer."""
    import transformers as t

    if kind.startswith("eomt"):
        options = {"size": {"shortest_edge": 64, "longest_edge": 64}, "do_pad": True, **changed}
        return t.EomtImageProcessor(**options)
    if kind == "videomt":
        return t.VideomtVideoProcessor(size={"height": 64, "width": 64})
    names = {
        "maskformer": t.MaskFormerImageProcessor,
        "mask2former": t.Mask2FormerImageProcessor,
        "oneformer": t.OneFormerImageProcessor,
    }
    return names[kind](size=_SIZE, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25], **changed)


def save_universal(kind, folder, **processor_options):
    """Writes model, processor and OneFormer's tokenizer as the hub has them."""
    folder = Path(folder)
    tiny_model(kind).save_pretrained(folder)
    tiny_processor(kind, **processor_options).save_pretrained(folder)
    if kind == "oneformer":
        words = ["the</w>", "task</w>", "is</w>", "panoptic</w>", "semantic</w>", "instance</w>"]
        letters = sorted({letter for word in words for letter in word.removesuffix("</w>")})
        merges, known = [], ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{one}</w>" for one in letters)]
        for word in words:
            parts = [*word.removesuffix("</w>")]
            parts[-1] += "</w>"
            while len(parts) > 1:
                merges.append(f"{parts[0]} {parts[1]}")
                parts = [parts[0] + parts[1], *parts[2:]]
                known.append(parts[0])
        vocabulary = {word: index for index, word in enumerate(dict.fromkeys(known))}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return folder
