"""Small untrained models of SAM's family, as fixtures."""

from pathlib import Path

import pytest
from mobile_sam_by_definition import SMALL

from maft.proposals.mobile_sam import mobile_sam
from maft.proposals.transformers_models import Source

SAM3_VISION = {
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "pretrain_image_size": 64,
        "window_size": 2,
        "global_attn_indexes": [1],
    },
    "fpn_hidden_size": 16,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}


@pytest.fixture(scope="session")
def tiny_sam():
    """Factory of small untrained models of SAM's family in transformers, which see 64x64 pixels, by their type."""
    transformers = pytest.importorskip("transformers")
    shared = {
        "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_dim": 16,
            "iou_head_hidden_dim": 16,
            "attention_downsample_rate": 1,
        },
    }
    vision = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
        "mlp_dim": 32,
    }
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }
    pyramid = {
        "backbone_config": hiera,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    }

    repvit = {
        "model_type": "timm_wrapper",
        "num_classes": 2,
        "architecture": "repvit_m1",
        "model_args": {
            "in_chans": 3,
            "features_only": True,
            "out_indices": [0, 1, 2, 3],
            "embed_dim": [8, 16, 32, 64],
            "depth": [1, 1, 1, 1],
        },
    }
    edge = {key: value for key, value in pyramid.items() if key != "backbone_config"} | {"backbone_config": repvit}
    visions = {"sam": vision, "sam_hq": vision, "sam2": pyramid, "edgetam": edge, "sam3_tracker": SAM3_VISION}
    names = {"sam": "Sam", "sam_hq": "SamHQ", "sam2": "Sam2", "edgetam": "EdgeTam", "sam3_tracker": "Sam3Tracker"}

    def build(kind: str):
        if kind == "mobile_sam":
            return mobile_sam(SMALL, Source("mobile_sam.pt", "", "", ""))
        options = {**shared, "vision_config": visions[kind]}
        if kind == "sam_hq":
            options["mask_decoder_config"] = {**shared["mask_decoder_config"], "vit_dim": 16}
        config = getattr(transformers, f"{names[kind]}Config")(**options)
        return getattr(transformers, f"{names[kind]}Model")(config).eval()

    return build


@pytest.fixture(scope="session")
def random_sam(tiny_sam, tmp_path_factory):
    """Writes a model of `tiny_sam` with weights that give it masks of all kinds; returns its folder."""
    import torch

    def write(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("sam")
        torch.manual_seed(0)
        model = tiny_sam(kind)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_sam3():
    """Writes a small untrained SAM 3 that sees 64x64 pixels into a folder, with a tokenizer of letters."""
    import torch

    transformers = pytest.importorskip("transformers")
    attention = {"hidden_size": 16, "num_attention_heads": 2}
    layers = {**attention, "num_layers": 1, "intermediate_size": 16}
    words = {**attention, "vocab_size": 64, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 1}
    of_words = {**words, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}

    def write(folder, noise=0.0, kind="Sam3"):
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(
            vision_config=SAM3_VISION,
            text_config=of_words,
            geometry_encoder_config=layers,
            detr_encoder_config=layers,
            detr_decoder_config={**layers, "num_queries": 5},
            mask_decoder_config={**attention, "num_upsampling_stages": 2},
        )
        model = getattr(transformers, f"{kind}Model")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * noise)
        model.save_pretrained(folder)
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
        vocabulary = {name: place for place, name in enumerate(names)}
        transformers.CLIPTokenizer(vocabulary, []).save_pretrained(folder)
        return folder

    return write
