"""The assembled model: what trains, what stays still, and what comes out."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from maft.building import build_model
from maft.clip import VocabularyEncoder
from maft.config import load_config
from maft.config_keys import default_config
from maft.ensembles import ProposerAlone
from maft.errors import UserError
from maft.interfaces import Proposer
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

TRAINED_OF_IP_CLIP = (".attn.", ".ln_1.", ".ln_2.", ".ln_post.")


@pytest.fixture
def build(tiny_configs):
    return lambda name, *overrides: build_model(load_config(tiny_configs / f"{name}.yaml", list(overrides)))


def item(height=64, width=96, classes=(0, 3), size=None):
    sample = {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8)}
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(classes, dtype=torch.long)
    masks = torch.zeros(len(classes), height, width, dtype=torch.bool)
    for index in range(len(classes)):
        masks[index, 8 * index : 8 * index + 24, 10:50] = True
    instances.gt_masks = masks
    sample["instances"] = instances
    if size:
        sample["height"], sample["width"] = size
    return sample


def gradients(model, batch):
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    return losses, {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_stage_one_trains_the_proposer_and_the_void_embedding_alone(build):
    model = build("freeseg").train()
    losses, moved = gradients(model, [item(), item(32, 64, (1,))])
    assert {"loss_ce", "loss_mask", "loss_dice"} <= losses.keys()
    assert all(torch.isfinite(value) for value in losses.values())
    assert "vocabulary_encoder.void_embedding" in moved
    assert all(name.startswith(("proposer.", "vocabulary_encoder.")) for name in moved)
    assert {"proposer.backbone.stem.conv1.weight", "proposer.interaction.gamma"} <= moved
    assert not model.clip.training


def test_stage_two_trains_attention_and_norms_of_ip_clip_alone(build):
    model = build("maft").train()
    losses, moved = gradients(model, [item(), item(32, 64, (1,))])
    assert losses.keys() == {"loss_mask_aware", "loss_self_distillation"}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tower = [name for name, _ in model.classifier.visual.named_parameters(prefix="classifier.visual")]
    assert trainable == {name for name in tower if any(part in f"{name}." for part in TRAINED_OF_IP_CLIP)}
    assert moved == trainable


def test_the_trunk_of_clip_trains_with_a_classifier_that_tunes_it(tmp_path):
    def trainable(**classifier):
        cfg = default_config()
        cfg.MODEL.DEVICE, cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "cpu", "tiny_convnext", ""
        cfg.MODEL.PROPOSER.NAME = "GroundTruth"
        cfg.MODEL.CLASSIFIER = CfgNode({**cfg.MODEL.CLASSIFIER, **classifier})
        model = build_model(cfg).train()
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert model.clip.training == any(name.startswith("clip.") for name in names)
        return names - {"vocabulary_encoder.void_embedding"}

    tuned = trainable(NAME="MAFTPlus")
    assert {name.partition(".text_transfer.")[0].partition(".trunk.")[0] for name in tuned} == {
        "classifier",
        "clip.model.visual",
    }
    assert not any(".head." in name for name in tuned)
    assert trainable(NAME="MAFTPlus", FROZEN=True) == trainable(NAME="MaskPooling") == set()


class Halves(Proposer):
    """Asks for nothing: what its constructor leaves with a gradient trains."""

    def __init__(self):
        super().__init__()
        self.moving, self.fixed = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False)

    def forward(self, images, text, clip, targets=None, records=None):
        raise AssertionError


@pytest.mark.parametrize("frozen", [False, True])
def test_by_default_what_the_constructor_left_trainable_trains(vit_clip, frozen):
    proposer = Halves()
    OpenVocabSegmentor(
        clip=vit_clip(), vocabulary_encoder=None, proposer=proposer, classifier=None, ensemble=ProposerAlone(),
        losses={}, inference={}, freeze_proposer=frozen,
    )  # fmt: skip
    trained = {name.partition(".")[0] for name, parameter in proposer.named_parameters() if parameter.requires_grad}
    assert trained == (set() if frozen else {"moving"})


@pytest.mark.parametrize("classes", [(), (5,)])
def test_an_image_without_labels_or_with_one_trains(build, classes):
    model = build("maft").train()
    losses, _ = gradients(model, [item(classes=classes)])
    assert all(torch.isfinite(value) for value in losses.values())
    if not classes:
        assert losses["loss_mask_aware"].item() == 0


def test_the_classifier_may_have_texts_of_its_own(build, monkeypatch):
    model = build("maft", "MODEL.VOCABULARY.CLASSIFIER_TEMPLATES", "there is a {}").eval()
    seen = {}
    for part in ("proposer", "classifier"):
        module = getattr(model, part)
        forward = module.forward
        position = {"proposer": 1, "classifier": 2}[part]

        def spy(*given, forward=forward, part=part, position=position, **named):
            seen[part] = given[position]
            return forward(*given, **named)

        monkeypatch.setattr(module, "forward", spy)
    model([item()])
    expected = VocabularyEncoder(model.clip.embed_dim, model.clip.text_width, templates="there is a {}", void=False)(
        model.vocabulary, model.clip
    )
    assert torch.equal(seen["classifier"].embeddings, expected.embeddings) and seen["classifier"].void is None
    assert seen["proposer"].void is not None
    assert not torch.allclose(seen["proposer"].embeddings, seen["classifier"].embeddings)
    assert "classifier_vocabulary_encoder" not in str(model.state_dict().keys())


def test_the_frozen_generator_is_still_unless_the_official_dropout_is_asked_for(build):
    still = build("maft").train()
    assert not still.proposer.training and still.classifier.training
    released = build("maft", "MODEL.PROPOSER.DROPOUT_WHEN_FROZEN", "True").train()
    assert released.proposer.training
    batch = [item()]
    first, second = (still(batch)["loss_mask_aware"] for _ in range(2))
    assert torch.equal(first, second)
    first, second = (released(batch)["loss_mask_aware"] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_training_without_anything_to_train_is_refused(build):
    model = build("maft", "MODEL.CLASSIFIER.FROZEN", "True").train()
    with pytest.raises(UserError, match="Nothing trains"):
        model([item()])


@pytest.mark.parametrize("name", ["freeseg", "maft"])
def test_label_maps_are_the_argmax_of_score_maps_at_the_size_asked_for(build, name):
    model = build(name).eval()
    batch = [item(64, 96, size=(40, 60)), item(50, 33)]
    labels = model(batch)
    model.inference_options["labels_only"] = False
    scores = model(batch)
    for label, score, size in zip(labels, scores, [(40, 60), (50, 33)]):
        assert score["sem_seg"].shape == (len(model.vocabulary), *size)
        best, index = score["sem_seg"].max(dim=0)
        share = best / score["sem_seg"].sum(dim=0).clamp(min=1)
        torch.testing.assert_close(label["sem_seg_confidence"], share)
        assert label["sem_seg_confidence"].min() > 0 and label["sem_seg_confidence"].max() < 1
        assert (label["sem_seg_labels"] == index).float().mean() > 0.999
        assert torch.equal(score["sem_seg_labels"], index)


def test_any_vocabulary_can_be_given_and_the_training_one_comes_back(build):
    model = build("maft").eval()
    model.inference_options["labels_only"] = False
    before = model.vocabulary
    with model.using_vocabulary(Vocabulary(("a dog", "grass", "sky"))):
        assert model([item()])[0]["sem_seg"].shape[0] == 3
    assert model.vocabulary is before


def test_names_of_a_call_are_those_of_that_call_alone(build):
    model = build("maft").eval()
    batch, words = [item(), item(50, 33)], Vocabulary(("a dog", "grass", "sky"))
    with model.using_vocabulary(words, (True, False, False)):
        model.inference_options["panoptic"] = True
        expected = model(batch)
        model.inference_options["panoptic"] = False
    before = model(batch)
    found = model.predict(batch, words, (True, False, False), {**model.inference_options, "panoptic": True})
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["sem_seg_labels"], other["sem_seg_labels"])
        assert torch.equal(one["panoptic_seg"][0], other["panoptic_seg"][0])
        assert one["panoptic_seg"][1] == other["panoptic_seg"][1]
    for one, other in zip(model(batch), before, strict=True):
        assert torch.equal(one["sem_seg_labels"], other["sem_seg_labels"]) and "panoptic_seg" not in one


def test_the_order_of_names_only_permutes_the_scores(build):
    model = build("maft").eval()
    model.inference_options["labels_only"] = False
    batch = [item()]
    model.set_vocabulary(Vocabulary(("dog", "grass", "sky")))
    scores = model(batch)[0]["sem_seg"]
    model.set_vocabulary(Vocabulary(("sky", "dog", "grass")))
    torch.testing.assert_close(model(batch)[0]["sem_seg"], scores[[2, 0, 1]], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [((), "empty"), (("dog", " "), "number 2 .* blank"), (("dog", "cat", "dog "), "'dog' occurs twice")],
)
def test_a_vocabulary_that_cannot_be_told_apart_is_refused(names, sentence):
    with pytest.raises(UserError, match=sentence):
        Vocabulary(names)


def test_no_vocabulary_and_no_things_are_explained(build):
    model = build("freeseg", "DATASETS.TRAIN", "()").eval()
    with pytest.raises(UserError, match="no vocabulary yet"):
        model([item()])
    model.set_vocabulary(Vocabulary(("dog", "sky")))
    model.inference_options["panoptic"] = True
    with pytest.raises(UserError, match="which classes are things"):
        model([item()])
