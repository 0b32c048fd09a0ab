"""Small untrained DINOs in folders."""

import pytest

KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit")
_SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
}
_CLASSES = {
    "dinov2": ("Dinov2", {"mlp_ratio": 2}),
    "dinov2_with_registers": ("Dinov2WithRegisters", {"mlp_ratio": 2, "num_register_tokens": 2}),
    "dinov3_vit": ("DINOv3ViT", {"intermediate_size": 32, "num_register_tokens": 2}),
}


def save_dino(kind, folder, blocks=4):
    """Writes one of a type, which sees patches of 8 pixels, and returns its folder."""
    import torch

    transformers = pytest.importorskip("transformers")
    name, options = _CLASSES[kind]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(
        getattr(transformers, f"{name}Config")(num_hidden_layers=blocks, **_SIZES, **options)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder
