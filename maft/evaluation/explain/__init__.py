"""Explains a score: where a model loses what it lacks of 100 % mIoU, and what its masks and names look like."""
