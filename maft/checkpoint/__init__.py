"""Checkpoints: safe reading, atomic writing, and the names of the official releases."""
