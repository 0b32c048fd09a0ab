"""Fixtures for all tests; nothing here reaches the network."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import browser as browser
from file_server import FileServer
from golden.roots import VARIABLE, Recordings
from hub_server import HubServer
from tiny_sams import random_sam as random_sam
from tiny_sams import tiny_sam as tiny_sam
from tiny_sams import tiny_sam3 as tiny_sam3

# Before anything imports huggingface_hub: a test that would download must fail at once, everywhere alike.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tensors here are tiny, and threads that wait for each other cost more than they gain beside parallel tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered between runs is not that of the user, nor of the tests before."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random weights and inputs are the same in every run and in any order of tests."""
    # Tests that do not use torch are spared the seconds of its import.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server on this machine; for the test, downloads may come from there, though it has no https."""
    with FileServer() as server:
        monkeypatch.setattr("maft.downloads.SCHEMES", ("https://", server.url))
        yield server
        server.shutdown()


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on this machine that this process and its children take for the real one, with an empty cache."""
    from huggingface_hub import constants

    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
        for module in ("hub", "publishing"):
            monkeypatch.setattr(f"maft.zoo.{module}.HUB", server.url)
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def golden_dir() -> Recordings:
    """Folders of cases recorded from the official releases (environment variable MAFT_GOLDEN)."""
    recordings = Recordings()
    if not recordings:
        pytest.skip(f"{VARIABLE} is not set")
    return recordings


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Folder of real sample images and annotations (environment variable MAFT_SAMPLES)."""
    value = os.environ.get("MAFT_SAMPLES")
    if not value:
        pytest.skip("MAFT_SAMPLES is not set")
    assert Path(value).is_dir(), f"MAFT_SAMPLES={value} is not a folder"
    return Path(value)


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


@pytest.fixture(scope="session")
def shrunk_clip():
    """Factory of small random copies of open_clip's CLIPs with image towers of the same classes; do not change them."""
    from functools import cache

    import open_clip
    import torch

    from maft.clip import clip_from_config
    from maft.clip.towers.shrinking import shrunk_image

    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}

    @cache
    def build(name: str):
        with torch.random.fork_rng(), shrunk_image(open_clip.get_model_config(name)["vision_cfg"]) as vision:
            torch.manual_seed(0)
            clip = clip_from_config(name, {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}, quick_gelu=False)
            for parameter in clip.visual.parameters():
                # Untrained biases and position embeddings are too small to show a mistake.
                spread = 0.1 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
                parameter.data.add_(spread * torch.randn_like(parameter))
        return clip

    return build


@pytest.fixture(scope="session")
def as_trained():
    """Function: a classifier of its own in which what it trains has gradients, as the segmentor would decide."""

    def decide(classifier):
        trainable = list(classifier.trainable_parameters())
        classifier.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        return classifier

    return decide


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
  ENSEMBLE: {NAME: ProposerAlone}
DATASETS: {TRAIN: [miniature_train_seen], TEST: [miniature_val]}
INPUT: {MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}
"""

_TINY_MAFT = """
_BASE_: freeseg.yaml
MODEL:
  VOCABULARY: {TRAIN_VOID: false}
  PROPOSER: {FROZEN: true}
  CLASSIFIER: {NAME: IPCLIP, IPCLIP: {START_LAYER: 2, INPUT_SIZE: 96}}
  ENSEMBLE: {NAME: ClassifierAlone}
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

    from golden.case import official_name

    recorded = json.loads((Path(__file__).parent / "golden" / "maft" / "checkpoint_keys.json").read_text())
    files = {"MAFT": "MAFT_Vitb.pt", "FreeSeg": "freeseg_model.pt"}

    def rename(model, release: str):
        ours = {name: value.detach().clone() for name, value in model.state_dict().items()}
        pairs = ((name, official_name(name, release)) for name in recorded[files[release]]["keys"])
        state = {theirs: ours.pop(name) for theirs, name in pairs if name in ours}
        assert not ours, f"no official name of {list(ours)[:3]}"
        return state

    return rename
