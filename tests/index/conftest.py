"""Drawn scenes, and an index of them by the shipped model."""

import pytest
import yaml

DECODER = {"NUM_QUERIES": 6, "HIDDEN_DIM": 32, "HEADS": 2, "FEEDFORWARD_DIM": 32, "DECODER_LAYERS": 2}
MASK2FORMER = {
    **DECODER, "ENCODER_LAYERS": 1, "ENCODER_FEEDFORWARD_DIM": 32, "EMBEDDING_HIDDEN_DIM": 16, "CONV_DIM": 32,
    "MASK_DIM": 32,
}  # fmt: skip
SIDE_ADAPTER = {
    "NUM_QUERIES": 6, "WIDTH": 24, "HEADS": 2, "DEPTH": 2, "IMAGE_SIZE": 96, "EMBED_DIM": 16, "HIDDEN_DIM": 16,
    "START_LAYER": 2, "FUSION": [[0, 0], [2, 1]], "SUPERVISED_BLOCKS": [1, 2], "CLIP_SCALE": 0.75,
}  # fmt: skip
PROPOSERS = {
    "Mask2Former": ("Mask2Former", MASK2FORMER),
    "Mask2Former on CLIP": ("Mask2Former", {**MASK2FORMER, "BACKBONE": "clip", "CLASS_HEAD": "pooled"}),
    "MaskFormer": ("MaskFormer", {**DECODER, "EMBEDDING_HIDDEN_DIM": 16, "CONV_DIM": 32, "MASK_DIM": 32}),
    "EoMT": ("EoMT", {"NUM_QUERIES": 6, "BLOCKS": 2, "TRAINED_BLOCKS": 2, "EMBEDDING_HIDDEN_DIM": 16}),
    "SAN": ("SAN", SIDE_ADAPTER),
    "SAM3": ("SAM3", {"SCORE_THRESHOLD": 0.0}),
}
ADAPTER = {"CHANNELS": 16, "NUM_MAPS": 2, "NUM_BLOCKS": 1}
CLASSIFIERS = {
    "IPCLIP": {"START_LAYER": 2, "INPUT_SIZE": 96},
    "MaskPooling": {},
    "MaskedCrops": {"MASK_PROMPT_DEPTH": 2},
    "RoIAlignCrops": {},
    "MaskAdapter": {**ADAPTER, "TEXT_TRANSFER": "post_norm"},
    "MAFTPlus": {},
    "SAN": {"START_LAYER": 2, "CLIP_SCALE": 0.75},
    "TextRegion": {"CROP_SIZE": 32, "DENSE_ELSEWHERE": True},
    "MaskCLIPpp": {"SIMILARITY_WIDTH": 16, "TEMPLATES": "single", "OWN_CLIP": "tiny_vit"},
}


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


@pytest.fixture
def config(tmp_path):
    """Function: the config of a small untrained model of any pair."""
    from maft.config import load_config
    from maft.packaged import packaged_config

    def write(proposer, classifier, clip, *, options=None, **vocabulary):
        name, own = PROPOSERS[proposer]
        model = {
            "DEVICE": "cpu",
            "CLIP": {"NAME": clip},
            "VOCABULARY": vocabulary,
            "RESNETS": {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "NORM": "FrozenBN"},
            "PROPOSER": {"NAME": name, name: {**own, **(options or {})}},
            "CLASSIFIER": {
                "NAME": classifier,
                **({classifier: CLASSIFIERS[classifier]} if classifier != "none" else {}),
            },
            "ENSEMBLE": {"NAME": "FCCLIPEnsemble" if classifier != "none" else "ProposerAlone"},
        }
        file = tmp_path / "model.yaml"
        file.write_text(yaml.safe_dump({"_BASE_": str(packaged_config("_base_/miniature")), "MODEL": model}))
        return load_config(file)

    return write
