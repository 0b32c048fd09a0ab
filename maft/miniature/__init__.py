"""The miniature world: a procedurally drawn segmentation dataset that needs no download, sized for a CPU."""

from maft.miniature.classes import miniature_classes
from maft.miniature.dataset import DEFAULT_COUNTS, materialise
from maft.miniature.scene import IMAGE_SIZE, Scene, render_scene

__all__ = [
    "DEFAULT_COUNTS",
    "IMAGE_SIZE",
    "Scene",
    "materialise",
    "miniature_classes",
    "render_scene",
]
