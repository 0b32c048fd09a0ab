"""From original downloads to the trees that the catalogue expects; one module a dataset, doors in ``datasets/``."""
