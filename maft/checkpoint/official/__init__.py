"""Renaming rules from the parameter names of the official releases to ours, one table: ``names.json``."""
