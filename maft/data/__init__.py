"""Datasets: the catalogue, the vocabularies, the mappers. Importing it registers the catalogue in Detectron2."""

from maft.data.records import register_all

register_all()
