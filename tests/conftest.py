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
