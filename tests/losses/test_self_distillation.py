"""Self-distillation and both losses on a real training step."""

import pytest
import torch

from maft.classifiers.ip_clip import IPCLIP
from maft.clip import VocabularyEncoder
from maft.errors import UserError
from maft.interfaces import MaskClassifier, TrainingStep
from maft.losses.mask_aware import MaskAwareLoss
from maft.losses.self_distillation import SelfDistillationLoss, self_distillation_loss
from maft.registry import LOSSES
from maft.structures import Images, Proposals, Targets, Vocabulary


def test_value_is_smooth_l1_of_probabilities_and_the_teacher_has_no_gradient():
    student, teacher = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    loss = self_distillation_loss(student, teacher)
    expected = (0.5 * (student.softmax(-1) - teacher.softmax(-1)) ** 2).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.fixture
def step(vit_clip, as_trained):
    clip = vit_clip()
    classifier = as_trained(IPCLIP(clip, start_layer=2, input_size=32))
    text = VocabularyEncoder(clip.embed_dim, clip.text_width, templates="single")(Vocabulary(("a", "b", "c")), clip)
    images = Images.from_list([torch.rand(3, 40, 50) * 255], divisor=32)
    proposals = Proposals(torch.randn(1, 4, 16, 16), images.padded_size)
    targets = [Targets(torch.tensor([0, 2]), torch.rand(2, *images.padded_size) > 0.5)]
    return TrainingStep(images, text, proposals, classifier(images, proposals, text, clip), targets, classifier, clip)


def test_losses_are_weighted_and_reach_the_student_alone(step):
    terms = {}
    for name, weight in (("MaskAwareLoss", 1.0), ("SelfDistillationLoss", 0.1)):
        terms |= LOSSES.build(name, {"WEIGHT": weight})(step)
    assert set(terms) == {"loss_mask_aware", "loss_self_distillation"}
    double = MaskAwareLoss(weight=2.0)(step)["loss_mask_aware"]
    torch.testing.assert_close(double, 2 * terms["loss_mask_aware"])
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in step.classifier.trainable_parameters())
    assert all(parameter.grad is None for parameter in step.clip.parameters())


def test_an_untrained_student_is_its_teacher_and_a_changed_one_is_pulled_back(step):
    loss = SelfDistillationLoss(weight=1.0)
    assert loss(step)["loss_self_distillation"] == 0
    optimizer = torch.optim.SGD(step.classifier.trainable_parameters(), lr=0.05)
    with torch.no_grad():
        step.classifier.visual.ln_post.weight += 0.5 * torch.randn(32)
    values = []
    for _ in range(8):
        value = loss(step)["loss_self_distillation"]
        values.append(float(value.detach()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < values[0]


def test_images_that_were_looked_at_beside_the_masks_are_not_looked_at_again(step, monkeypatch):
    expected = SelfDistillationLoss()(step)["loss_self_distillation"]
    classification, images = step.classifier.forward_with_images(step.images, step.proposals, step.text, step.clip)
    torch.testing.assert_close(classification.logits, step.classification.logits)
    step.image_embeddings = 2 * images + 1
    encode, looks = step.classifier.encode_image, []
    monkeypatch.setattr(
        step.classifier, "encode_image", lambda *given, **options: looks.append(options) or encode(*given, **options)
    )
    assert SelfDistillationLoss()(step)["loss_self_distillation"] != expected
    step.image_embeddings = images
    torch.testing.assert_close(SelfDistillationLoss()(step)["loss_self_distillation"], expected)
    assert looks == [{"teacher": True}] * 2


def test_a_classifier_without_a_tower_is_refused(step):
    step.classifier = MaskClassifier()
    with pytest.raises(UserError, match=r"SelfDistillationLoss needs a classifier.*MaskClassifier.*IPCLIP"):
        SelfDistillationLoss()(step)
