"""Whatever model looked, an index says of its images what the model says."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from maft.errors import UserError
from maft.index.index import Index
from maft.predictor import Predictor

WORDS = ["pear tree", "a red, crimson kite", "lake"]
MODELS = [
    ("Mask2Former", "MaskPooling", "tiny_convnext"),
    ("Mask2Former", "MaskAdapter", "tiny_convnext"),
    ("Mask2Former on CLIP", "MAFTPlus", "tiny_convnext"),
    ("Mask2Former", "MaskedCrops", "tiny_vit"),
    ("MaskFormer", "RoIAlignCrops", "tiny_vit"),
    ("EoMT", "IPCLIP", "tiny_vit"),
    ("SAN", "SAN", "tiny_vit"),
    ("Mask2Former", "TextRegion", "tiny_vit"),
    ("Mask2Former", "MaskCLIPpp", "tiny_vit"),
    ("MaskFormer", "none", "tiny_vit"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of three sizes."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    files = []
    for place, size in enumerate([(96, 96), (60, 90), (130, 80)]):
        smooth = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize(size[::-1], Image.BICUBIC)
        smooth.save(file := folder / f"{place}.png")
        files.append(str(file))
    return files


@pytest.mark.parametrize(("proposer", "classifier", "clip"), MODELS)
def test_labels_and_scores_are_those_of_the_model(config, made, photos, tmp_path, proposer, classifier, clip):
    torch.manual_seed(1)
    predictor = Predictor(config(proposer, classifier, clip))
    index = Index(made(predictor, photos, tmp_path / "index"))
    words = index.vocabulary(WORDS)
    assert words == predictor.vocabulary(WORDS)
    for image, file in enumerate(photos):
        expected = predictor(file, WORDS)
        found = index.result(image, WORDS)
        assert np.array_equal(found["sem_seg_labels"].numpy(), expected.labels)
        assert np.abs(found["sem_seg_confidence"].numpy() - expected.confidence).max() < 1e-5
    # All at once, masks have the scores that they have one image after the other.
    for one in index.ask(WORDS[:2], WORDS[2:], beside=[], top=4):
        _, proposals, named, _ = index.said(one.image, words)
        probabilities = index.model.class_probabilities(proposals, named, words)[0, one.mask]
        assert one.score == pytest.approx(float(probabilities[:2].sum()), abs=1e-5)


def test_masks_without_embeddings_are_asked_for_with_words_alone(config, made, photos, tmp_path):
    index = Index(made(Predictor(config("MaskFormer", "none", "tiny_vit")), photos, tmp_path / "index"))
    assert index.ask(WORDS, top=1)
    with pytest.raises(UserError, match="no embeddings of masks: its model has no mask classifier"):
        index.nearest((0, 0))
    with pytest.raises(UserError, match="no embeddings of masks"):
        index.ask(WORDS, engine="faiss")


def test_masks_that_were_found_with_words_can_be_asked_with_others_which_is_said(
    tiny_configs, made, photos, tmp_path, caplog
):
    predictor = Predictor.from_config(tiny_configs / "freeseg.yaml", ["DATALOADER.NUM_WORKERS", "0"])
    index = Index(made(predictor, photos, tmp_path / "index", words=predictor.vocabulary(WORDS)))
    assert np.array_equal(index.labels(1, WORDS).numpy(), predictor(photos[1], WORDS).labels)
    assert "were found with" not in caplog.text
    index.ask(["lake", "sky"])
    assert "The masks of the index were found with pear tree, a red, crimson kite, lake" in caplog.text


def test_scores_that_were_made_with_words_are_asked_for_with_these_alone(config, made, photos, tiny_sam3, tmp_path):
    tiny_sam3(tmp_path / "sam3", noise=0.1)
    predictor = Predictor(config("SAM3", "IPCLIP", "tiny_vit", options={"PRETRAINED": str(tmp_path / "sam3")}))
    index = Index(made(predictor, photos, tmp_path / "index", words=predictor.vocabulary(WORDS)))
    assert np.array_equal(index.labels(1, WORDS).numpy(), predictor(photos[1], WORDS).labels)
    assert {one.word for one in index.ask([WORDS[2]], top=3)} <= {"lake"}
    with pytest.raises(UserError, match="depend on the words that it was made with: ask it with pear tree, a red"):
        index.labels(1, ["lake"])
    with pytest.raises(UserError, match="depend on the words .* and 'lakes' is none of them. Did you mean lake"):
        index.ask(["lakes"])


def test_a_shard_that_is_missing_is_said(config, made, photos, tmp_path):
    folder = made(Predictor(config("Mask2Former", "MaskPooling", "tiny_convnext")), photos, tmp_path / "index")
    next((folder / "shards").iterdir()).unlink()
    with pytest.raises(UserError, match="Shard .* is missing: run the same maft index command again"):
        Index(folder).ask(WORDS)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model/text.safetensors", b"", "text.safetensors"),
        ("model/text.safetensors", None, "text.safetensors"),
        ("model/config.yaml", None, "config.yaml"),
        ("model/config.yaml", b"MODEL: [", "config.yaml"),
        ("index.json", b'{"version": 7}', "of version 1, which is read here, but of 7"),
    ],
)
def test_files_that_are_damaged_or_missing_are_said(index_folder, tmp_path, file, content, said):
    folder = shutil.copytree(index_folder, tmp_path / "index")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=said):
        Index(folder)
