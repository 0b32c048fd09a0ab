"""Mask proposers: one file each, and the decoders and criteria they share."""
