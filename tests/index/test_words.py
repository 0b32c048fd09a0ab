"""The part of a model that asking needs: what any model says of what it saw, said without an image tower."""

import pytest
import torch

from maft.building import build_model
from maft.errors import UserError
from maft.index.stored import StoredImage
from maft.index.words import asked_tensors, asking_model
from maft.structures import Images, Vocabulary

WORDS = Vocabulary(("pear tree", "a red, crimson kite", "lake"), seen=(True, False, False))
CLASSIFIERS = (
    "IPCLIP", "MaskPooling", "MaskedCrops", "RoIAlignCrops", "MaskAdapter", "MAFTPlus", "SAN", "TextRegion",
    "MaskCLIPpp",
)  # fmt: skip
PAIRS = [("Mask2Former", classifier, "tiny_vit") for classifier in CLASSIFIERS]
PAIRS += [(proposer, "IPCLIP", "tiny_vit") for proposer in ("MaskFormer", "EoMT", "SAN")]
PAIRS += [("Mask2Former on CLIP", classifier, "tiny_convnext") for classifier in ("MaskPooling", "MAFTPlus")]
PAIRS += [("Mask2Former", "RoIAlignCrops", "tiny_siglip"), ("MaskFormer", "none", "tiny_vit")]


@torch.no_grad()
def seen_by(model, size=(90, 70)):
    """A random picture and what the model saw of it."""
    record = {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8)}
    images = model.padded([record])
    proposals = model.propose(images, [record], Vocabulary(("anything",)))
    embedded = None if model.classifier is None else model.classifier.embed(images, proposals, model.clip)
    return record, StoredImage("one.png", "", size, size, proposals, embedded)


@torch.no_grad()
def answer(model, record, image):
    """Labels and class scores of a stored image."""
    images = Images(torch.empty(1, 3, *image.proposals.padded_size, device="meta"), [image.size])
    named = None if image.embedded is None else model.named(image.embedded, WORDS)
    scored = model.scored(image.proposals, WORDS)
    result = model.combine(images, scored, named, [record], WORDS, [True] * 3)[0]
    return result["sem_seg_labels"], model.class_probabilities(scored, named, WORDS)


@pytest.mark.parametrize(("proposer", "classifier", "clip"), PAIRS)
def test_without_an_image_tower_a_model_says_what_it_said_with_one(config, proposer, classifier, clip):
    cfg = config(proposer, classifier, clip)
    model = build_model(cfg).eval()
    record, image = seen_by(model)
    asking = asking_model(cfg, asked_tensors(model, image, Vocabulary(("anything",))), "the index")
    with torch.no_grad():
        expected = model.predict([record], WORDS)[0]["sem_seg_labels"]
    labels, probabilities = answer(asking, record, image)
    assert torch.equal(labels, expected)
    assert torch.equal(probabilities, answer(model, record, image)[1])
    assert all(parameter.is_meta for parameter in asking.clip.visual.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        asking.clip.encode_image(torch.zeros(1, 3, 32, 32))


def test_learned_prompts_are_kept(config):
    cfg = config("Mask2Former", "IPCLIP", "tiny_vit", TEMPLATES="learned", PROMPTS={"PREFIX": 4})
    model = build_model(cfg).eval()
    record, image = seen_by(model)
    asking = asking_model(cfg, asked_tensors(model, image, WORDS), "the index")
    assert torch.equal(answer(asking, record, image)[1], answer(model, record, image)[1])


def test_a_proposer_without_class_scores_is_not_built(config):
    cfg = config("Mask2Former", "IPCLIP", "tiny_vit")
    model = build_model(cfg).eval()
    _, image = seen_by(model)
    tensors = asked_tensors(model, image, WORDS)
    asking = asking_model(cfg, tensors, "the index", proposer=False)
    assert not list(asking.proposer.parameters())
    assert torch.equal(asking.named(image.embedded, WORDS).logits, model.named(image.embedded, WORDS).logits)


def test_tensors_of_another_model_are_refused(config):
    cfg = config("Mask2Former", "IPCLIP", "tiny_vit")
    model = build_model(cfg).eval()
    tensors = asked_tensors(model, seen_by(model)[1], WORDS)
    with pytest.raises(UserError, match="index/model holds 'stranger'"):
        asking_model(cfg, {**tensors, "stranger": torch.zeros(1)}, "index/model")
    name = next(name for name in tensors if name.startswith("clip.model."))
    lacking = {key: value for key, value in tensors.items() if key != name}
    with pytest.raises(UserError, match=f"index/model lacks {name}"):
        asking_model(cfg, lacking, "index/model")
