"""Augmentations: label resize rules, colour, the lists a config asks for, and what a seed determines."""

import random

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from maft.config_keys import add_maft_config
from maft.data.augmentations import (
    LabelledImage,
    RandomCategoryAreaCrop,
    augmentations_from_config,
    large_scale_jitter,
    shortest_edge_augmentations,
    transform_labels,
)


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
    labelled = LabelledImage(np.zeros((4, 4, 3), np.uint8), segments, "pillow", np.array([7, 7, 255]))
    assert np.unique(labelled.sem_seg).tolist() == [7]


def test_single_category_limit_finds_the_only_mixed_window():
    labels = np.zeros((8, 64), dtype=np.int32)
    labels[:, 28:36] = 1
    augmentations = T.AugmentationList(
        shortest_edge_augmentations([8], 64, crop_size=(8, 16), single_category_max_area=0.75)
    )
    limited = 0
    for seed in range(30):
        np.random.seed(seed)
        labelled = LabelledImage(np.zeros((8, 64, 3), np.uint8), labels, "pillow")
        augmentations(labelled)
        limited += 0.25 <= (labelled.labels == 1).mean() <= 0.75
    # A window is drawn up to ten times; one draw hits a mixed one in a quarter of the cases.
    assert limited >= 25


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_colour_is_changed_in_the_format_of_the_config_and_nothing_else(cfg, image_format):
    cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP = True, image_format, "none"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = [20], 64
    steps = T.AugmentationList(augmentations_from_config(cfg, True, ignore_label=255, padding_label=255))
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 5, (20, 30), dtype=np.int32)
    changed = 0
    for seed in range(8):
        found = []
        # The same colours in the other order of channels are changed alike.
        for pixels in (image if image_format == "RGB" else image[..., ::-1], image):
            random.seed(seed)
            labelled = LabelledImage(np.ascontiguousarray(pixels), labels, "pillow")
            (steps if not found else T.AugmentationList([ColorAugSSDTransform("RGB")]))(labelled)
            assert np.array_equal(labelled.labels, labels)
            found.append(labelled.image)
        assert np.array_equal(found[0] if image_format == "RGB" else found[0][..., ::-1], found[1])
        changed += not np.array_equal(found[1], image)
    assert changed >= 6


def test_large_scale_jitter_always_fills_the_square():
    for seed in range(20):
        np.random.seed(seed)
        labelled = LabelledImage(np.full((30, 50, 3), 7, np.uint8), np.zeros((30, 50), np.int32), "pillow")
        T.AugmentationList(large_scale_jitter(32, padding_label=255))(labelled)
        assert labelled.image.shape == (32, 32, 3) and labelled.labels.shape == (32, 32)
        # What is padding in the image is padding in the labels, and nothing else is.
        assert np.array_equal(labelled.labels == 255, (labelled.image == 128).all(axis=2))


def test_config_states_sizes_as_plain_lists(cfg):
    cfg.merge_from_list(
        ["INPUT.MIN_SIZE_TRAIN", [320, 384, 448], "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute"]
    )
    cfg.merge_from_list(["INPUT.CROP.SIZE", [64, 48], "INPUT.COLOR_AUG_SSD", True, "INPUT.RANDOM_FLIP", "horizontal"])
    steps = augmentations_from_config(cfg, True, ignore_label=255, padding_label=255)
    assert [type(step).__name__ for step in steps] == [
        "ResizeShortestEdge",
        "RandomCategoryAreaCrop",
        "ColorAugSSDTransform",
        "RandomFlip",
    ]
    np.random.seed(0)
    labelled = LabelledImage(np.zeros((100, 200, 3), np.uint8), np.zeros((100, 200), np.int32), "torch")
    T.AugmentationList(steps)(labelled)
    assert labelled.labels.shape == (64, 48)


def test_config_at_test_only_resizes(cfg):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.LARGE_SCALE_JITTER.SIZE = 64, 100, 32
    (resize,) = augmentations_from_config(cfg, False, ignore_label=255, padding_label=255)
    transform = resize.get_transform(np.zeros((50, 200, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == (25, 100)


@pytest.mark.parametrize("size", [(3, 4000), (4000, 3), (1, 1)])
@pytest.mark.parametrize("jitter", [True, False])
def test_strips_and_points_survive_every_resize(size, jitter):
    steps = large_scale_jitter(64) if jitter else shortest_edge_augmentations([32], 64, crop_size=(24, 24))
    for seed in range(5):
        np.random.seed(seed)
        labelled = LabelledImage(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), "pillow")
        T.AugmentationList(list(steps))(labelled)
        assert labelled.image.shape[:2] == labelled.labels.shape and min(labelled.labels.shape) >= 1


@pytest.mark.parametrize(
    ("kind", "size"), [("absolute", (6, 5)), ("relative_range", (0.3, 0.4)), ("absolute_range", (3, 8))]
)
def test_crops_of_several_categories_are_those_that_detectron2_draws(kind, size):
    image = np.zeros((12, 14, 3), dtype=np.uint8)
    for seed in range(20):
        labels = np.random.default_rng(seed).choice([0, 1, 255, 300], (12, 14), p=[0.6, 0.1, 0.2, 0.1])
        found = []
        for crop in (RandomCategoryAreaCrop, T.RandomCrop_CategoryAreaConstraint):
            np.random.seed(seed)
            found.append(crop(kind, size, 0.7, 255).get_transform(image, labels).apply_segmentation(labels))
            found.append(np.random.get_state()[2])
        assert np.array_equal(found[0], found[2]) and found[1] == found[3]
