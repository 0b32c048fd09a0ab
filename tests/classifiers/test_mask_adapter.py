"""Mask-Adapter against the direct form of its definition, and the masks it is trained on."""

import pytest
import torch
import torch.nn.functional as F

from maft.classifiers.mask_adapter import MaskAdapterHead, pool_through_maps
from maft.clip import clip_from_config
from maft.ensembles import ClassifierAlone
from maft.errors import UserError
from maft.interfaces import BuildContext, Proposer
from maft.losses.mask_consistency import MaskConsistencyLoss
from maft.losses.mask_cross_entropy import MaskCrossEntropyLoss
from maft.proposals.ground_truth import GroundTruth
from maft.registry import CLASSIFIERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Images, Proposals, Targets, TextClassifier, Vocabulary

SMALL = {"CHANNELS": 24, "NUM_MAPS": 4, "NUM_BLOCKS": 2}


@pytest.fixture(scope="module")
def clip():
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
    return clip_from_config("a ConvNeXt", {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}, quick_gelu=False)


def build(clip, **options):
    return CLASSIFIERS.build("MaskAdapter", {**SMALL, **options}, BuildContext(clip, 3, torch.nn.Identity))


def texts():
    rows = F.normalize(torch.randn(4, 12), dim=-1)
    return TextClassifier(rows[:3], torch.arange(3), 3, rows[3:], torch.ones(3, dtype=torch.bool))


def random_head(**options):
    head = MaskAdapterHead(12, channels=24, mask_channels=16, num_maps=4, num_blocks=2, **options)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head


@torch.no_grad()
@pytest.mark.parametrize("soft", [False, True])
def test_shared_image_part_and_chunks_give_the_definition(soft):
    features, masks = torch.randn(2, 12, 3, 4), torch.rand(2, 7, 24, 32)
    masks = masks if soft else masks > 0.5
    head = random_head(chunk_megabytes=0)
    assert head._masks_per_chunk(torch.empty(2, 3, 4, 24)) == 1
    expected = head.by_definition(features, F.interpolate(masks.float(), (12, 16), mode="bilinear"))
    torch.testing.assert_close(head(features, masks), expected, rtol=1e-4, atol=1e-4)
    head.chunk_megabytes = 512
    torch.testing.assert_close(head(features, masks), expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_the_shared_part_are_those_of_the_definition():
    features, masks, head = torch.randn(1, 12, 3, 4), torch.rand(1, 3, 12, 16), random_head()
    gradients = []
    for maps in (head(features, masks), head.by_definition(features, masks)):
        gradients.append(torch.autograd.grad(maps.square().sum(), list(head.parameters())))
    for ours, direct in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, direct, rtol=1e-3, atol=1e-3 * float(direct.abs().max()))


def test_pooling_is_a_mean_weighted_by_the_sigmoid():
    maps, features = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 7, 5, 6)
    weights = maps.sigmoid() / maps.sigmoid().sum((-2, -1), keepdim=True)
    expected = torch.einsum("bnmhw,bchw->bnmc", weights, features)
    torch.testing.assert_close(pool_through_maps(maps, features), expected)
    # All sigmoids underflow here.
    assert pool_through_maps(maps - 1000, features).isfinite().all()


@torch.no_grad()
def test_logits_are_cut_and_values_kept(clip):
    classifier = build(clip, MASK_THRESHOLD=0.4)
    logits = torch.randn(1, 2, 8, 8)
    assert torch.equal(classifier.adapter_masks(Proposals(logits, (32, 32))), logits.sigmoid() > 0.4)
    soft = Proposals(logits.sigmoid(), (32, 32), are_logits=False)
    assert torch.equal(classifier.adapter_masks(soft), soft.masks)


@torch.no_grad()
def test_any_number_of_masks_is_named(clip):
    images = Images.from_list([255 * torch.rand(3, 64, 96)])
    for count in (0, 1, 5):
        masks = torch.zeros(1, count, 16, 24)
        masks[:, :1, 2:9] = 1
        result = build(clip)(images, Proposals(masks, images.padded_size, are_logits=False), texts(), clip)
        assert result.logits.shape == (1, count, 4) and result.logits.isfinite().all()
        assert result.valid.tolist() == [[True, *[False] * (count - 1)] if count else []]


def targets():
    masks = torch.zeros(3, 64, 96, dtype=torch.bool)
    masks[0, :32], masks[1, 32:, :48] = True, True  # the third one is empty
    return [Targets(torch.tensor([2, 0, 1]), masks), Targets(torch.zeros(0, dtype=torch.int64), masks[:0])]


def predictions():
    """Both filled targets of the first image are predicted, the second image has nothing to find."""
    logits = torch.full((2, 4, 16, 24), -4.0)
    logits[0, 1, :8], logits[0, 3, 8:, :12] = 4.0, 4.0
    return Proposals(logits, (64, 96))


def test_mixed_masks_tell_what_each_slot_holds(clip):
    mixed = build(clip, NUM_GROUND_TRUTH=3, NUM_MATCHED=2).training_proposals(predictions(), targets())
    assert mixed.masks.shape == (2, 7, 8, 12) and not mixed.are_logits
    assert mixed.labels[0].tolist() == [2, 0, -1, 2, 0, 2, 0]
    assert mixed.labels[1].tolist() == [-1] * 7 and torch.equal(mixed.valid, mixed.labels >= 0)
    assert mixed.pairs.tolist() == [[3, 5], [4, 6]]
    first = mixed.masks[0]
    for predicted, wanted in mixed.pairs.tolist():
        torch.testing.assert_close(first[predicted], first[wanted])
    for slot, target in ((0, 0), (1, 1)):
        full = targets()[0].masks[target].float()[None, None]
        torch.testing.assert_close(first[slot], F.interpolate(full, (8, 12), mode="bilinear")[0, 0])
    assert not mixed.masks[1].any()


def test_official_free_slots_cover_the_image_below_one_half(clip):
    slots = {"NUM_GROUND_TRUTH": 1, "NUM_MATCHED": 2, "THRESHOLD_FREE_SLOTS": True}
    for threshold, filled in ((0.4, True), (0.5, False)):
        classifier = build(clip, **slots, MASK_THRESHOLD=threshold)
        assert classifier.mixed_masks(predictions(), targets()).masks[1, 1:3].eq(filled).all()


def test_ground_truth_is_trained_on_as_it_comes(clip):
    known = Proposals(torch.rand(1, 2, 64, 96), (64, 96), are_logits=False, labels=torch.tensor([[1, -1]]))
    assert build(clip).training_proposals(known, targets()) is known


def segmentor(clip, losses, proposer):
    class Texts(torch.nn.Module):
        def forward(self, vocabulary, encoder):
            return texts()

    options = {"semantic": True, "panoptic": True, "instance": False, "resize_before": False, "labels_only": False,
               "seen_penalty": 0.0, "best_masks_above": 0.0, "object_mask_threshold": 0.0,
               "overlap_threshold": 0.8}  # fmt: skip
    return OpenVocabSegmentor(
        clip=clip, vocabulary_encoder=Texts(), proposer=proposer, classifier=build(clip, NUM_GROUND_TRUTH=3),
        ensemble=ClassifierAlone(), losses=losses, freeze_proposer=True, inference=options,
        vocabulary=Vocabulary(("a", "b", "c")), things=[True, True, False],
    )  # fmt: skip


class Predicted(Proposer):
    def forward(self, images, text, clip, targets=None, records=None):
        return predictions()


def items():
    from detectron2.structures import Instances

    result = []
    for target in targets():
        instances = Instances((64, 96))
        instances.gt_classes, instances.gt_masks = target.labels, target.masks
        result.append({"image": 255 * torch.rand(3, 64, 96), "instances": instances})
    return result


@pytest.mark.parametrize("stage", ["warm-up", "mixed"])
def test_both_stages_train_the_head_alone(clip, stage):
    losses = {"a": MaskCrossEntropyLoss()}
    if stage == "mixed":
        losses["b"] = MaskConsistencyLoss()
    proposer = GroundTruth(num_masks=4) if stage == "warm-up" else Predicted()
    model = segmentor(clip, losses, proposer).train()
    values = model(items())
    assert set(values) == {"loss_mask_cross_entropy", "loss_mask_consistency"} - (
        set() if stage == "mixed" else {"loss_mask_consistency"}
    )
    torch.stack(list(values.values())).sum().backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"classifier"}
    head = model.classifier.head
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_an_image_without_any_mask_is_void(clip):
    model = segmentor(clip, {}, GroundTruth()).eval()
    result = model([items()[1]])[0]
    assert not result["sem_seg"].any()
    segmentation, segments = result["panoptic_seg"]
    assert not segmentation.any() and segments == []
    for labels_only in (False, True):
        model.inference_options["labels_only"] = labels_only
        result = model([items()[1]])[0]
        assert ("sem_seg" in result) is not labels_only
        assert result["sem_seg_labels"].eq(-1).all() and not result["sem_seg_confidence"].any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"MASK_THRESHOLD": 1.5}, "MASK_THRESHOLD is 1.5, but it must be a number of at least 0 and at most 1"),
        (
            {"MASK_CHANNELS": 6},
            "MASK_CHANNELS is 6, but it must be a whole number of at least 4 and at most 65536 and a multiple of 4",
        ),
        ({"NUM_MATCHED": -1}, "NUM_MATCHED is -1, but it must be a whole number of at least 0"),
        ({"NUM_GROUND_TRUTH": 0, "NUM_MATCHED": 0}, "NUM_GROUND_TRUTH and NUM_MATCHED are both 0"),
        ({"TEXT_TRANSFER": "semantic"}, "choose one of: none, post_norm, res_post_norm"),
        ({"TEXT_TRANSFER": "post_norm", "TRANSFER_HEADS": 5}, "5 attention heads do not divide the 12 channels"),
    ],
)
def test_says_what_is_wrong(clip, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(clip, **options)
