"""The miniature world: a procedurally drawn segmentation dataset that needs no download, sized for a CPU."""

from maft.data.miniature.classes import MiniatureClasses, Thing, miniature_classes
from maft.data.miniature.scene import IMAGE_SIZE, Scene, render_scene

__all__ = ["IMAGE_SIZE", "MiniatureClasses", "Scene", "Thing", "miniature_classes", "render_scene"]
