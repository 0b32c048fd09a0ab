"""Look once, ask for ever: what a model saw of a collection of images, kept so that any words can be asked of it."""

from maft.index.index import Index

__all__ = ["Index"]
