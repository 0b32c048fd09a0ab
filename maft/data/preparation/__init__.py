"""From original downloads to the trees that the catalogue expects; modules by family, doors in ``datasets/``."""
