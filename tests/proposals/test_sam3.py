"""SAM 3 on tiny random models of the transformers library, with a tokenizer of letters."""

import logging

import pytest
import torch

from maft.errors import UserError
from maft.proposals.sam3 import SAM3
from maft.registry import PROPOSERS
from maft.structures import Images, TextClassifier, Vocabulary

transformers = pytest.importorskip("transformers")

VOCABULARY = Vocabulary(("cat, kitten", "dog", "wall"))


@pytest.fixture(scope="module", params=["Sam3", "Sam3LiteText"])
def folder(request, tiny_sam3, tmp_path_factory):
    return tiny_sam3(tmp_path_factory.mktemp(request.param), noise=0.1, kind=request.param)


def built(folder, **options):
    return PROPOSERS.build("SAM3", {"PRETRAINED": str(folder), **options})


@pytest.fixture
def images():
    torch.manual_seed(1)
    return Images.from_list([torch.rand(3, 40, 60) * 255, torch.rand(3, 64, 33) * 255], divisor=32)


def texts(vocabulary=VOCABULARY):
    count = 3 if vocabulary is None else len(vocabulary)
    rows = torch.nn.functional.normalize(torch.randn(count, 8), dim=-1)
    return TextClassifier(rows, torch.arange(count), count, None, torch.ones(count).bool(), vocabulary=vocabulary)


def middle_score(proposer, images):
    """A score that some masks pass and some do not."""
    proposer.score_threshold = 0.0
    scores = proposer(images, texts(), None).class_logits.softmax(-1)[..., :-1].sum(-1)
    return float(scores.median())


@torch.no_grad()
def test_masks_and_scores_are_those_of_the_processor_and_model_of_transformers(folder, images):
    """Of images of two sizes in one batch and words in batches, one word after the other in the library."""
    proposer = built(folder, WORDS_PER_BATCH=3)
    threshold = proposer.score_threshold = middle_score(proposer, images)
    ours = proposer(images, texts(), None)
    scores = ours.class_logits.softmax(-1)
    processor = transformers.Sam3Processor(
        transformers.Sam3ImageProcessor(size={"height": 64, "width": 64}), proposer.tokenizer, target_size=64
    )
    for index, (height, width) in enumerate(images.sizes):
        masks, found, labels = [], [], []
        pixels = images.pixels[index, :, :height, :width] / 255
        for word, label in (("cat", 0), ("kitten", 0), ("dog", 1), ("wall", 2)):
            tokens = proposer.tokenizer(word, padding="max_length", max_length=16, return_tensors="pt")
            inputs = processor(images=pixels, return_tensors="pt", do_rescale=False)
            output = proposer.model(pixel_values=inputs["pixel_values"], **tokens)
            (result,) = processor.post_process_instance_segmentation(output, threshold, target_sizes=[(height, width)])
            masks.append(result["masks"])
            found.append(result["scores"])
            labels += [label] * len(result["scores"])
        expected = torch.cat(masks).bool()
        assert 0 < len(expected) < 20 and ours.valid[index].sum() == len(expected)
        shown = ours.masks[index, : len(expected), :height, :width].bool()
        assert (shown != expected).flatten(1).float().mean(1).max() < 1e-3
        probabilities = scores[index, torch.arange(len(expected)), labels]
        torch.testing.assert_close(probabilities, torch.cat(found), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores[index, : len(expected), -1], 1 - probabilities, atol=1e-5, rtol=1e-5)


def test_words_go_through_in_any_batches(folder, images):
    one, all_of_them = built(folder, WORDS_PER_BATCH=1, SCORE_THRESHOLD=0.0), built(folder, SCORE_THRESHOLD=0.0)
    first, second = one(images, texts(), None), all_of_them(images, texts(), None)
    torch.testing.assert_close(first.class_logits, second.class_logits, atol=1e-4, rtol=1e-4)
    assert (first.masks != second.masks).float().mean() < 1e-3


def test_words_of_its_own_have_no_class_scores(folder, images):
    proposals = built(folder, WORDS=["thing", "stuff"], SCORE_THRESHOLD=0.0)(images, texts(None), None)
    assert proposals.masks.shape[:2] == (2, 2 * 5) and proposals.class_logits is None


def test_the_image_is_encoded_once_and_the_log_says_what_words_cost(folder, images, caplog, monkeypatch):
    proposer = built(folder, WORDS_PER_BATCH=1)
    seen = []
    encode = proposer.model.get_vision_features
    monkeypatch.setattr(proposer.model, "get_vision_features", lambda pixels: seen.append(pixels) or encode(pixels))
    monkeypatch.setattr("detectron2.utils.logger._LOG_TIMER", {})
    with caplog.at_level(logging.INFO):
        proposer(images, texts(), None)
    assert len(seen) == 1
    assert "one pass for each word: 4 for each of 2 images took" in caplog.text


def test_nothing_found_leaves_a_slot_that_is_not_valid(folder, images):
    proposals = built(folder, SCORE_THRESHOLD=1.0)(images, texts(), None)
    assert proposals.masks.shape[1] == 1 and not proposals.valid.any()
    torch.testing.assert_close(proposals.class_logits.softmax(-1)[0, 0], torch.tensor([0.0, 0, 0, 1]))


def test_nothing_in_it_trains(folder):
    proposer = built(folder).train()
    assert not proposer.model.training and not list(proposer.trainable_parameters())


def test_of_the_video_model_the_detector_is_read(tiny_sam3, images, tmp_path):
    tiny_sam3(tmp_path / "images", noise=0.1)
    model = transformers.Sam3Model.from_pretrained(tmp_path / "images")
    tracker = transformers.Sam3TrackerVideoConfig(vision_config=model.config.vision_config.to_dict(), image_size=64)
    config = transformers.Sam3VideoConfig(detector_config=model.config.to_dict(), tracker_config=tracker.to_dict())
    video = transformers.Sam3VideoModel(config)
    video.detector_model.load_state_dict(model.state_dict())
    video.save_pretrained(tmp_path / "video")
    built(tmp_path / "images").tokenizer.save_pretrained(tmp_path / "video")
    options = {"SCORE_THRESHOLD": 0.0}
    first, second = built(tmp_path / "images", **options), built(tmp_path / "video", **options)
    assert torch.equal(first(images, texts(), None).masks, second(images, texts(), None).masks)


def test_mistakes_are_named(folder, images, tmp_path):
    with pytest.raises(UserError, match="SAM3 looks for words, and there are none here: set MODEL.PROPOSER.SAM3.WORDS"):
        built(folder)(images, texts(None), None)
    with pytest.raises(UserError, match=r"SAM3.WORDS is \[\], but it must be a list .* length of at least 1"):
        built(folder, WORDS=[])
    with pytest.raises(UserError, match="SAM3 takes 16 tokens a word, and 'abcdefghijklmnopqrst' has 22: shorten it"):
        built(folder)(images, texts(Vocabulary(("abcdefghijklmnopqrst",))), None)
    built(folder).model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks a readable tokenizer: download tokenizer.json"):
        built(tmp_path)
    with pytest.raises(UserError, match="is neither a folder nor in the Hugging Face cache"):
        built("facebook/sam3-that-is-not-cached")
    with pytest.raises(UserError, match="holds a model of the type 'sam_model': give a SAM 3 model"):
        (tmp_path / "config.json").write_text('{"model_type": "sam_model"}')
        built(tmp_path)
    assert SAM3.takes_prompts is False
