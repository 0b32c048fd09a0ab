"""What a model sees is kept on its way to the usual results, or refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from maft.building import build_model
from maft.config import load_config
from maft.data.photos import PhotoMapper
from maft.errors import UserError
from maft.index.looking import IndexingInference, look, model_fingerprint
from maft.index.making import Collection, looked_for, make_index
from maft.index.reading import StoredIndex
from maft.predictor import Predictor
from maft.structures import Vocabulary, proposals_of_masks

WORDS = Vocabulary(("pear tree", "lake"))


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.mark.parametrize(
    ("classifier", "clip"), [("IPCLIP", "tiny_vit"), ("MAFTPlus", "tiny_convnext"), ("none", "tiny_vit")]
)
def test_results_are_those_of_the_model_and_the_look_is_kept(config, photo, classifier, clip):
    cfg = config("Mask2Former", classifier, clip)
    model = build_model(cfg).eval()
    model.set_vocabulary(WORDS, [True, False])
    record = PhotoMapper(cfg)({"file_name": photo})
    kept = []
    with torch.no_grad():
        (expected,) = model([record])
        (found,) = IndexingInference(model, kept.append)([record])
    assert found.keys() == expected.keys() and torch.equal(found["sem_seg_labels"], expected["sem_seg_labels"])
    assert torch.equal(found["sem_seg_confidence"], expected["sem_seg_confidence"])
    (image,) = kept
    assert image.file == photo and image.output_size == (64, 96) and len(image.digest) == 64
    assert image.proposals.class_logits is None and image.proposals.queries is not None


def test_annotated_masks_are_embedded_beside_those_that_were_proposed(config, photo):
    cfg = config("Mask2Former", "IPCLIP", "tiny_vit")
    model = build_model(cfg).eval()
    record = PhotoMapper(cfg)({"file_name": photo})

    def truth(record, images):
        masks = torch.zeros(2, *images.sizes[0], dtype=torch.bool)
        masks[0, :20], masks[1, 20:] = True, True
        return proposals_of_masks([masks], images), [5, 1]

    images, _, image = look(model, record, WORDS, truth)
    expected = model.classifier.embed(images, truth(record, images)[0], model.clip)
    assert image.true_classes == (5, 1) and torch.equal(image.true_masks.embeddings, expected.embeddings)
    assert look(model, record, WORDS, lambda record, images: None)[2].true_masks is None


def test_weights_config_and_size_make_a_model_another_one_and_its_place_does_not(config):
    cfg = config("Mask2Former", "IPCLIP", "tiny_vit")
    model = build_model(cfg).eval()
    before = model_fingerprint(cfg, model)
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, cfg.MODEL.VOCABULARY.CACHE_DIR = "cuda", "a", "b", "c"
    assert model_fingerprint(cfg, model) == before
    cfg.INPUT.MIN_SIZE_TEST += 1
    changed = model_fingerprint(cfg, model)
    next(model.proposer.parameters()).data.view(-1)[0] += 1
    assert len({before, changed, model_fingerprint(cfg, model)}) == 3


def make(predictor, photo, folder, **options):
    collection = Collection([{"file_name": photo}], PhotoMapper(predictor.cfg))
    return make_index(predictor.cfg, predictor.model, folder, collection, **options)


def test_looks_that_are_averaged_are_refused(tiny_configs, photo, tmp_path):
    changed = ["TEST.AUG.ENABLED", "True", "MODEL.INFERENCE.PANOPTIC", "False", "MODEL.INFERENCE.INSTANCE", "False"]
    predictor = Predictor.from_config(tiny_configs / "maft.yaml", changed)
    with pytest.raises(UserError, match="An index keeps one look at each image, and TEST.AUG and TEST.SLIDING_WINDOW"):
        make(predictor, photo, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_annotated_images_that_are_needed_are_asked_for(tiny_configs, photo, tmp_path):
    predictor = Predictor.from_config(
        tiny_configs / "maft.yaml", ["MODEL.PROPOSER.NAME", "GroundTruth", "MODEL.ENSEMBLE.NAME", "ClassifierAlone"]
    )
    with pytest.raises(UserError, match="The proposer GroundTruth needs annotated images, .*: give --dataset"):
        make(predictor, photo, tmp_path / "index")


def test_a_classifier_in_one_step_is_refused(config, photo, tmp_path, monkeypatch):
    predictor = Predictor(config("Mask2Former", "IPCLIP", "tiny_vit"))
    monkeypatch.delattr(type(predictor.model.classifier), "embed")
    with pytest.raises(
        UserError, match="IPCLIP looks at masks and names them in one step, so that nothing can be kept"
    ):
        make(predictor, photo, tmp_path / "index")


def test_class_scores_without_queries_are_refused(config, photo, tmp_path, monkeypatch):
    predictor = Predictor(config("Mask2Former", "IPCLIP", "tiny_vit"))
    propose = predictor.model.propose

    def scored(*arguments):
        proposals = propose(*arguments)
        proposals.queries = None
        return proposals

    monkeypatch.setattr(predictor.model, "propose", scored)
    with pytest.raises(UserError, match="Mask2Former makes class scores in one step with its masks, which other words"):
        make(predictor, photo, tmp_path / "index")


def test_words_are_given_where_masks_depend_on_them_and_only_there(tiny_configs, config, photo, tmp_path):
    freeseg = Predictor.from_config(tiny_configs / "freeseg.yaml", ["DATALOADER.NUM_WORKERS", "0"])
    with pytest.raises(
        UserError, match="What FreeSeg finds depends on the words .*: say what to look for with --words"
    ):
        make(freeseg, photo, tmp_path / "index")
    contents = make(freeseg, photo, tmp_path / "index", words=WORDS)
    assert StoredIndex(tmp_path / "index").settings.words == WORDS.names and not contents.bound
    plain = Predictor(config("Mask2Former", "IPCLIP", "tiny_vit"))
    with pytest.raises(UserError, match="The masks of Mask2Former do not depend on words, .*: leave --words"):
        make(plain, photo, tmp_path / "other", words=WORDS)
    assert len(looked_for(plain.cfg, plain.model, None)) == 1


def test_scores_that_were_made_with_the_masks_bind_an_index_to_their_words(tiny_sam3, tiny_configs, photo, tmp_path):
    folder = tiny_sam3(tmp_path / "sam3", noise=0.1)
    changed = ["MODEL.PROPOSER.NAME", "SAM3", "MODEL.PROPOSER.SAM3.PRETRAINED", str(folder)]
    changed += ["MODEL.PROPOSER.SAM3.SCORE_THRESHOLD", "0.0", "DATALOADER.NUM_WORKERS", "0"]
    predictor = Predictor(load_config(tiny_configs / "maft.yaml", changed))
    contents = make(predictor, photo, tmp_path / "index", words=WORDS)
    image = StoredIndex(tmp_path / "index").image(0)
    assert contents.bound and image.proposals.class_logits.shape[-1] == 3
    record = PhotoMapper(predictor.cfg)({"file_name": photo})
    with torch.no_grad():
        expected = predictor.model.propose(predictor.model.padded([record]), [record], WORDS)
    assert torch.equal(image.proposals.masks, expected.masks)
    assert torch.equal(image.proposals.class_logits, expected.class_logits)
