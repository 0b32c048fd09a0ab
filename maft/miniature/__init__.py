"""The miniature world: a procedurally drawn segmentation dataset that needs no download, sized for a CPU."""

from maft.miniature.classes import MiniatureClasses, Thing, miniature_classes
from maft.miniature.dataset import DEFAULT_COUNTS, load_items, materialise
from maft.miniature.scene import IMAGE_SIZE, Scene, render_scene

__all__ = [
    "DEFAULT_COUNTS",
    "IMAGE_SIZE",
    "MiniatureClasses",
    "Scene",
    "Thing",
    "load_items",
    "materialise",
    "miniature_classes",
    "render_scene",
]
