"""Mask-based open-vocabulary segmentation on Detectron2: MAFT, OVSeg, Mask-Adapter and their relatives."""

__version__ = "0.1.0.dev0"
