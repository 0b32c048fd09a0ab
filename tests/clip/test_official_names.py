"""Every CLIP in the released checkpoints fits our model of its architecture, both ways."""

import json

import pytest
import torch

from maft.checkpoint.key_map import differences
from maft.checkpoint.official.released import key_map
from maft.clip import load_clip
from maft.errors import UserError

RELEASED = [
    ("maft", "ViT-B-16.pt", "ViT-B-16", ""),
    ("maft", "ViT-L-14.pt", "ViT-L-14", ""),
    ("maft", "MAFT_Vitl.pt", "ViT-L-14", "clip_adapter.clip_model."),
    ("maskadapter", "fcclip_cocopan.pth", "convnext_large_d_320", "backbone.clip_model."),
    ("maskadapter", "maftp_b.pth", "convnext_base_w_320", "backbone.clip_model."),
    ("maskadapter", "fcclip_cocopan_r50.pth", "RN50", "backbone.clip_model."),
    ("maskadapter", "fcclip_cocopan_r50x64.pth", "RN50x64", "backbone.clip_model."),
    ("ovseg", "open_clip_training ViT-L-14 mask prompt tuning epoch_N.pt", "ViT-L-14", "module."),
]


@pytest.mark.parametrize(("system", "file", "name", "prefix"), RELEASED)
def test_names_and_shapes_agree(golden_dir, system, file, name, prefix):
    listed = json.loads((golden_dir / system / "checkpoint_keys.json").read_text())[file]["keys"]
    # Each entry is the shape followed by the type.
    state = {key: torch.Size(shape[:-1]) for key, shape in listed.items() if key.startswith(prefix)}
    converted = key_map("clip").convert({key[len(prefix) :]: shape for key, shape in state.items()})
    assert len(converted) > 300
    assert differences(load_clip(name, "random", device="meta").state_dict(), converted) == []


def test_a_foreign_name_is_refused():
    with pytest.raises(UserError, match=r"unknown tensors \(visual\.mask_token\)"):
        key_map("clip").convert({"visual.mask_token": torch.zeros(1)})
