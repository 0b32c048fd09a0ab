"""Fixtures for all tests; nothing here reaches the network."""

import os
import sys
from pathlib import Path

import pytest

# Before anything imports huggingface_hub: a test that would download must fail at once, everywhere alike.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random weights and inputs are the same in every run and in any order of tests."""
    # Tests that do not use torch are spared the seconds of its import.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


def _folder_from_environment(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    folder = Path(value)
    assert folder.is_dir(), f"{variable}={value} is not a folder"
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of cases recorded from the official releases (environment variable MAFT_GOLDEN)."""
    return _folder_from_environment("MAFT_GOLDEN")


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Folder of real sample images and annotations (environment variable MAFT_SAMPLES)."""
    return _folder_from_environment("MAFT_SAMPLES")


@pytest.fixture(scope="session")
def vit_clip():
    """Factory of small untrained ViT CLIPs: 4 blocks, 32x32 native pixels, patches of 8."""

    def build(*, layers: int = 4, patch_size: int = 8, quick_gelu: bool = False):
        from maft.clip import clip_from_config

        config = {
            "embed_dim": 16,
            "vision_cfg": {
                "layers": layers,
                "width": 32,
                "head_width": 16,
                "patch_size": patch_size,
                "image_size": 4 * patch_size,
            },
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        }
        return clip_from_config("a small ViT", config, quick_gelu=quick_gelu)

    return build


_TINY_FREESEG = """
VERSION: 2
MODEL:
  DEVICE: cpu
  CLIP: {NAME: tiny_vit, PRETRAINED: ""}
  VOCABULARY: {CLASS_NAMES: plain, TEMPLATES: single}
  BACKBONE: {NAME: build_resnet_deeplab_backbone, FREEZE_AT: 0}
  RESNETS:
    DEPTH: 50
    STEM_TYPE: deeplab
    STEM_OUT_CHANNELS: 8
    RES2_OUT_CHANNELS: 16
    WIDTH_PER_GROUP: 4
    STRIDE_IN_1X1: false
    NORM: FrozenBN
    OUT_FEATURES: [res2, res3, res4, res5]
  PROPOSER:
    NAME: FreeSeg
    FreeSeg:
      NUM_QUERIES: 6
      HIDDEN_DIM: 32
      HEADS: 4
      FEEDFORWARD_DIM: 32
      ENCODER_LAYERS: 1
      ENCODER_FEEDFORWARD_DIM: 32
      DECODER_LAYERS: 2
      EMBEDDING_HIDDEN_DIM: 32
      INTERACTION_DIM: 32
      INTERACTION_HEADS: 4
  ENSEMBLE: {NAME: proposer}
DATASETS: {TRAIN: [miniature_train_seen], TEST: [miniature_val]}
INPUT: {MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}
"""

_TINY_MAFT = """
_BASE_: freeseg.yaml
MODEL:
  WEIGHTS_MAY_LACK: [classifier.]
  VOCABULARY: {TRAIN_VOID: false}
  PROPOSER: {FROZEN: true}
  CLASSIFIER: {NAME: IPCLIP, IPCLIP: {START_LAYER: 2, INPUT_SIZE: 96}}
  ENSEMBLE: {NAME: classifier}
  LOSSES: {MaskAwareLoss: {WEIGHT: 1.0}, SelfDistillationLoss: {WEIGHT: 0.1}}
"""


@pytest.fixture(scope="session")
def tiny_configs(tmp_path_factory) -> Path:
    """Folder with freeseg.yaml and maft.yaml: both stages of MAFT, official in structure and tiny in size."""
    folder = tmp_path_factory.mktemp("tiny_configs")
    (folder / "freeseg.yaml").write_text(_TINY_FREESEG)
    (folder / "maft.yaml").write_text(_TINY_MAFT)
    return folder


@pytest.fixture(scope="session")
def official_state():
    """Function: a model's tensors under the official names of a release, "MAFT" or "FreeSeg".

    The names are those of the released full-size files as far as the model has layers.
    """
    import json

    from maft.checkpoint.official.released import official_name

    recorded = json.loads((Path(__file__).parent / "golden" / "maft" / "checkpoint_keys.json").read_text())
    files = {"MAFT": "MAFT_Vitb.pt", "FreeSeg": "freeseg_model.pt"}

    def rename(model, release: str):
        ours = {name: value.detach().clone() for name, value in model.state_dict().items()}
        pairs = ((name, official_name(name, release)) for name in recorded[files[release]]["keys"])
        state = {theirs: ours.pop(name) for theirs, name in pairs if name in ours}
        assert not ours, f"no official name of {list(ours)[:3]}"
        return state

    return rename
