"""Datasets: the catalogue, the vocabularies, the mappers. Importing it registers the catalogue in Detectron2."""

from maft.data.catalog import TABLE, DatasetRow, class_names, dataset, datasets_root, vocabulary
from maft.data.label_sets import LabelSet, label_set
from maft.data.miniature import ensure_miniature
from maft.data.records import load_items, register, register_all

register_all()

__all__ = [
    "TABLE",
    "DatasetRow",
    "LabelSet",
    "class_names",
    "dataset",
    "datasets_root",
    "ensure_miniature",
    "label_set",
    "load_items",
    "register",
    "vocabulary",
]
