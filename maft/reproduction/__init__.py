"""Experiments that can be repeated with one command: runs, tables and pictures."""
