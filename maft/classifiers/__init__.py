"""Mask classifiers: one file a paper."""

from maft.classifiers import ip_clip

__all__ = ["ip_clip"]
