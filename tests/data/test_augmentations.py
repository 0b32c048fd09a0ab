"""Augmentations: label resize rules, colour, the lists a config asks for, and what a seed determines."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from maft.config import add_maft_config
from maft.data.augmentations import (
    LabelledImage,
    SSDColorAugmentation,
    SSDColorTransform,
    augmentations_from_config,
    large_scale_jitter,
    shortest_edge_augmentations,
    transform_labels,
)
from maft.errors import UserError


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_maft_config(cfg)
    return cfg


def test_torch_rule_takes_the_floor_and_pillow_rule_the_centre():
    labels = np.arange(9, dtype=np.int32)[None].repeat(2, axis=0)
    resize = T.ResizeTransform(2, 9, 2, 4)
    assert transform_labels(resize, labels, "torch")[0].tolist() == [0, 2, 4, 6]
    assert transform_labels(resize, labels, "pillow")[0].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("rule", ["torch", "pillow"])
def test_labels_keep_large_ids_and_negative_marks(rule):
    labels = np.array([[-1, 70003], [65535, 2**24 - 1]], dtype=np.int32)
    resized = transform_labels(T.ResizeTransform(2, 2, 6, 6), labels, rule)
    assert resized.dtype == np.int32
    assert set(np.unique(resized)) == {-1, 70003, 65535, 2**24 - 1}


def test_resize_inside_a_list_of_transforms_follows_the_rule_too():
    labels = np.arange(9, dtype=np.int32)[None]
    both = T.TransformList([T.ResizeTransform(1, 9, 1, 4), T.HFlipTransform(4)])
    assert transform_labels(both, labels, "torch")[0].tolist() == [6, 4, 2, 0]


def test_crop_limit_sees_categories_and_not_segments():
    segments = np.zeros((4, 4), dtype=np.int32)
    segments[:, 2:] = 1
    sample = LabelledImage(np.zeros((4, 4, 3), np.uint8), segments, "pillow", np.array([7, 7, 255]))
    assert np.unique(sample.sem_seg).tolist() == [7]


def test_single_category_limit_finds_the_only_mixed_window():
    labels = np.zeros((8, 64), dtype=np.int32)
    labels[:, 28:36] = 1
    augmentations = T.AugmentationList(
        shortest_edge_augmentations([8], 64, crop_size=(8, 16), single_category_max_area=0.75)
    )
    limited = 0
    for seed in range(30):
        np.random.seed(seed)
        sample = LabelledImage(np.zeros((8, 64, 3), np.uint8), labels, "pillow")
        augmentations(sample)
        limited += 0.25 <= (sample.labels == 1).mean() <= 0.75
    # A window is drawn up to ten times; one draw hits a mixed one in a quarter of the cases.
    assert limited >= 25


@pytest.mark.parametrize("seed", range(8))
def test_color_transform_equals_detectron2s_under_the_same_draws(seed, monkeypatch):
    image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.random.seed(seed)
    ours = SSDColorAugmentation().get_transform(image)
    first = [ours.contrast, ours.saturation, ours.hue]
    steps = first if ours.contrast_first else [*first[1:], first[0]]
    coins = [ours.brightness is not None, ours.contrast_first, *(step is not None for step in steps)]
    values = [step for step in (ours.brightness, *steps) if step is not None]
    coin_draws, uniform_draws = iter(coins), iter([value for value in values if isinstance(value, float)])
    monkeypatch.setattr("random.randrange", lambda _: int(next(coin_draws)))
    monkeypatch.setattr("random.uniform", lambda *_: next(uniform_draws))
    monkeypatch.setattr("random.randint", lambda *_: ours.hue)
    assert np.array_equal(ours.apply_image(image), ColorAugSSDTransform("RGB").apply_image(image))


def test_color_transform_without_steps_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    assert np.array_equal(SSDColorTransform().apply_image(image), image)


def test_color_steps_are_drawn_half_of_the_time():
    np.random.seed(0)
    drawn = [SSDColorAugmentation().get_transform(None) for _ in range(2000)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        share = np.mean([getattr(transform, name) is not None for transform in drawn])
        assert 0.45 < share < 0.55
    hues = [transform.hue for transform in drawn if transform.hue is not None]
    assert (min(hues), max(hues)) == (-18, 18)


def test_large_scale_jitter_always_fills_the_square():
    for seed in range(20):
        np.random.seed(seed)
        sample = LabelledImage(np.full((30, 50, 3), 7, np.uint8), np.zeros((30, 50), np.int32), "pillow")
        T.AugmentationList(large_scale_jitter(32, padding_label=255))(sample)
        assert sample.image.shape == (32, 32, 3) and sample.labels.shape == (32, 32)
        # What is padding in the image is padding in the labels, and nothing else is.
        assert np.array_equal(sample.labels == 255, (sample.image == 128).all(axis=2))


def test_config_states_sizes_as_plain_lists(cfg):
    cfg.merge_from_list(
        ["INPUT.MIN_SIZE_TRAIN", [320, 384, 448], "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute"]
    )
    cfg.merge_from_list(["INPUT.CROP.SIZE", [64, 48], "INPUT.COLOR_AUG_SSD", True, "INPUT.RANDOM_FLIP", "horizontal"])
    steps = augmentations_from_config(cfg, True, ignore_label=255, padding_label=255)
    assert [type(step).__name__ for step in steps] == [
        "ResizeShortestEdge",
        "RandomCrop_CategoryAreaConstraint",
        "SSDColorAugmentation",
        "RandomFlip",
    ]
    np.random.seed(0)
    sample = LabelledImage(np.zeros((100, 200, 3), np.uint8), np.zeros((100, 200), np.int32), "torch")
    T.AugmentationList(steps)(sample)
    assert sample.labels.shape == (64, 48)


def test_config_at_test_only_resizes(cfg):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.LARGE_SCALE_JITTER.SIZE = 64, 100, 32
    (resize,) = augmentations_from_config(cfg, False, ignore_label=255, padding_label=255)
    transform = resize.get_transform(np.zeros((50, 200, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == (25, 100)


@pytest.mark.parametrize(
    ("key", "value"),
    [("INPUT.RANDOM_FLIP", "sideways"), ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "any"), ("INPUT.CROP.TYPE", "square")],
)
def test_misspelt_option_is_named(cfg, key, value):
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=f"{key}.*{value}"):
        augmentations_from_config(cfg, True, ignore_label=255, padding_label=255)
