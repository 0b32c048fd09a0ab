"""Mask classifiers: one file a paper."""
