"""Backbones for Detectron2's registry. Importing the package registers them."""

from maft.backbones import resnet, swin  # noqa: F401
