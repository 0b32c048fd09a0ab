"""Drawn scenes, and an index of them by the shipped model."""

import pytest


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Paths of ten drawn scenes."""
    from maft.miniature.dataset import materialise

    folder = materialise(tmp_path_factory.mktemp("world"), "val", 10)
    return sorted(map(str, folder.rglob("images/*.*g")))


@pytest.fixture(scope="session")
def predictor():
    from maft.predictor import Predictor

    return Predictor.from_pretrained("miniature")


@pytest.fixture(scope="session")
def made():
    """Function: an index of image files by a predictor's model."""
    from maft.data.photos import PhotoMapper
    from maft.index.making import Collection, make_index

    def make(predictor, files, folder, **options):
        records = [{"file_name": file} for file in files]
        make_index(predictor.cfg, predictor.model, folder, Collection(records, PhotoMapper(predictor.cfg)), **options)
        return folder

    return make


@pytest.fixture(scope="session")
def index_folder(made, predictor, scenes, tmp_path_factory):
    """An index of the scenes."""
    return made(predictor, scenes, tmp_path_factory.mktemp("index") / "scenes")
