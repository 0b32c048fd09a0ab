"""Backbones that Detectron2 lacks, in its registry."""
