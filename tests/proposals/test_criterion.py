import multiprocessing

import pytest
import torch
from matched import matched

from maft.matching import HungarianMatcher
from maft.proposals.criterion import SetCriterion
from maft.structures import Proposals, Targets

FOCAL = {"class_weight": 1.0, "mask_weight": 20.0, "dice_weight": 5.0, "mask_loss": "focal"}
POINTS = {**FOCAL, "mask_loss": "bce", "num_points": 100}
BOTH = pytest.mark.parametrize("options", [FOCAL, POINTS], ids=["focal", "points"])


def criterion(matching, **options):
    return SetCriterion(HungarianMatcher(**matching), **options)


def no_target():
    return Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32, 48, dtype=torch.bool))


def two_targets():
    masks = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[0, :16, :16] = True
    masks[1, 16:, 20:] = True
    return Targets(torch.tensor([2, 0]), masks)


def predictions(batch=2, layers=1):
    made = [
        Proposals(
            torch.randn(batch, 5, 8, 12, requires_grad=True),
            (32, 48),
            class_logits=torch.randn(batch, 5, 4, requires_grad=True),
        )
        for _ in range(layers)
    ]
    made[-1].auxiliary = made[:-1]
    return made[-1]


@BOTH
def test_every_layer_is_supervised_alike(options):
    proposals = predictions(layers=3)
    losses = criterion(options)(proposals, [two_targets(), no_target()])
    names = {f"loss_{kind}{suffix}" for kind in ("ce", "mask", "dice") for suffix in ("", "_0", "_1")}
    assert set(losses) == names
    sum(losses.values()).backward()
    for layer in [proposals, *proposals.auxiliary]:
        assert layer.masks.grad.abs().sum() > 0 and layer.class_logits.grad.abs().sum() > 0


@BOTH
def test_a_batch_without_any_target_trains_void_and_has_zero_mask_loss(options):
    proposals = predictions()
    losses = criterion(options)(proposals, [no_target(), no_target()])
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0
    sum(losses.values()).backward()
    assert proposals.masks.grad is not None and not proposals.masks.grad.any()
    assert (proposals.class_logits.grad[..., -1] < 0).all()


@BOTH
def test_the_truth_costs_almost_nothing_and_the_order_of_proposals_does_not_matter(options):
    # Uniform points only: between two pixels even the true mask is a blend, which uncertain points would dwell on.
    supervise = criterion(options, importance_sample_ratio=0.0)
    target = two_targets()
    proposals = predictions(batch=1)
    random = sum(supervise(proposals, [target]).values())
    masks = torch.full((1, 5, 32, 48), -8.0)
    masks[0, 3][target.masks[0]] = 8.0
    masks[0, 1][target.masks[1]] = 8.0
    classes = torch.zeros(1, 5, 4)
    for query, label in ((3, 2), (1, 0), (0, 3), (2, 3), (4, 3)):
        classes[0, query, label] = 20.0
    proposals.masks, proposals.class_logits = masks, classes
    assert sum(supervise(proposals, [target]).values()) < 0.1 * random
    order = torch.randperm(5)
    proposals.masks, proposals.class_logits = masks[:, order], classes[:, order]
    assert sum(supervise(proposals, [target]).values()) < 0.1 * random


def test_void_weight_scales_only_unmatched_queries():
    proposals = predictions(batch=1)
    lone = Targets(torch.tensor([1]), two_targets().masks[:1])
    heavy = criterion(FOCAL, void_weight=1.0)(proposals, [lone])["loss_ce"]
    light = criterion(FOCAL, void_weight=0.0)(proposals, [lone])["loss_ce"]
    log_probabilities = proposals.class_logits.log_softmax(-1)[0]
    ((query, _),) = matched(HungarianMatcher(**FOCAL), proposals.class_logits, proposals.masks, [lone])
    torch.testing.assert_close(light, -log_probabilities[query[0], 1])
    wanted = torch.full((5,), 3)
    wanted[query] = 1
    torch.testing.assert_close(heavy, torch.nn.functional.cross_entropy(proposals.class_logits[0], wanted))


def test_points_lie_where_the_mask_is_uncertain():
    logits = torch.full((1, 32, 32), 10.0)
    logits[:, :, 16:] = -10.0
    many = criterion({**POINTS, "num_points": 200}, oversample_ratio=10.0, importance_sample_ratio=0.75)
    points = many.uncertain_points(logits[:, None], many._draws(logits[None], [1]))
    assert points.shape == (1, 200, 2)
    # Values fade to zero at the image's border too, which is sampled with zero padding.
    from_edge = torch.stack([points[0], 1 - points[0]]).amin((0, 2))
    assert ((points[0, :150, 0] - 0.5).abs().minimum(from_edge[:150]) < 0.03).all()
    assert points[0, 150:, 0].min() < 0.2 and points[0, 150:, 0].max() > 0.8


def test_half_precision_predictions_give_float32_losses():
    proposals = predictions()
    proposals.masks, proposals.class_logits = proposals.masks.bfloat16(), proposals.class_logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(POINTS)(proposals, [two_targets(), no_target()])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


def dice_of(targets):
    torch.manual_seed(0)
    return criterion(FOCAL)(predictions(3), targets)["loss_dice"].item()


def dice_in_one_process(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    results.put((rank, dice_of([two_targets() if rank == 0 else no_target()] * 3)))
    torch.distributed.destroy_process_group()


def test_the_number_of_masks_is_averaged_over_processes(tmp_path):
    # Forked, not spawned: a fresh interpreter would spend its time on imports.
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=dice_in_one_process, args=(rank, tmp_path / "rendezvous", results)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    found = dict([results.get(), results.get()])
    # Six masks in two processes count as three in each.
    assert found[0] == pytest.approx(2 * dice_of([two_targets()] * 3)) and found[1] == 0
