"""Datasets: the catalogue, the vocabularies, the mappers. Importing it registers the catalogue in Detectron2."""

from maft.data.catalog import TABLE, DatasetRow, class_names, dataset, datasets_root, vocabulary
from maft.data.label_sets import LabelSet, label_set
from maft.data.miniature import ensure_miniature
from maft.data.reading import Record
from maft.data.records import dataset_records, load_records, register, register_all

register_all()

__all__ = [
    "TABLE",
    "DatasetRow",
    "LabelSet",
    "Record",
    "class_names",
    "dataset",
    "dataset_records",
    "datasets_root",
    "ensure_miniature",
    "label_set",
    "load_records",
    "register",
    "vocabulary",
]
