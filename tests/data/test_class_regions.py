"""Samples of prompt learning: which, and how they are cut."""

import numpy as np
import pytest
import torch
from PIL import Image

from maft.data.class_regions import ClassRegionMapper, centre_crop, class_records, mask_box, resized_crop
from maft.errors import UserError


@pytest.fixture
def records(tmp_path):
    """Nine images: class 0 in all, class 1 in three, class 2 in one, class 3 in none."""
    made = []
    for index in range(9):
        labels = np.full((20, 30), 255, dtype=np.uint8)
        labels[:5, :8] = 0
        labels[10:15, 5:25] = 1 if index < 3 else 255
        labels[19, 29] = 2 if index == 4 else 255
        Image.fromarray(labels).save(tmp_path / f"{index}.png")
        Image.fromarray(np.full((20, 30, 3), 10 * index, dtype=np.uint8)).save(tmp_path / f"{index}.jpg")
        made.append({"file_name": str(tmp_path / f"{index}.jpg"), "sem_seg_file_name": str(tmp_path / f"{index}.png")})
    return made


def count(samples):
    return [sum(sample["category"] == category for sample in samples) for category in range(4)]


def test_there_is_a_sample_for_each_class_of_each_image(records):
    samples = class_records(records, 4, 255)
    assert count(samples) == [9, 3, 1, 0]
    assert [sample["category"] for sample in samples] == sorted(sample["category"] for sample in samples)
    assert [s["file_name"] for s in samples if s["category"] == 1] == [record["file_name"] for record in records[:3]]


def test_of_a_class_with_enough_images_samples_are_drawn_with_replacement_and_always_the_same(records):
    samples = class_records(records, 4, 255, per_class=5)
    assert count(samples) == [5, 3, 1, 0], "classes with fewer keep all"
    drawn = np.random.default_rng(0).choice(9, 5)
    assert len(set(drawn.tolist())) < 5, "this seed shows the replacement"
    assert [s["file_name"] for s in samples if s["category"] == 0] == [records[index]["file_name"] for index in drawn]
    assert samples == class_records(records, 4, 255, per_class=5)


def test_an_unknown_label_and_missing_labels_are_named(records):
    with pytest.raises(UserError, match=r"4\.png holds id 2"):
        class_records(records, 2, 255)
    del records[2]["sem_seg_file_name"]
    with pytest.raises(UserError, match=r"2\.jpg has no semantic labels"):
        class_records(records, 4, 255)


def test_the_official_box_loses_the_last_row_and_column_of_the_image():
    mask = np.zeros((20, 30), dtype=bool)
    mask[12:20, 3:30] = True
    assert mask_box(mask) == (12, 3, 8, 27)
    assert mask_box(mask, keep_border=False) == (12, 3, 7, 26)
    mask[:] = False
    mask[19, 29] = True
    assert mask_box(mask) == mask_box(mask, keep_border=False) == (19, 29, 1, 1)


def test_a_crop_is_resized_to_height_and_width_and_mirrored():
    image, mask = np.zeros((20, 30, 3), dtype=np.uint8), np.zeros((20, 30), dtype=bool)
    image[5:15, 10:15] = 200
    mask[5:15, 10:15] = True
    pixels, shown = resized_crop(image, mask, (5, 10, 10, 10), (40, 20), flip=False)
    assert pixels.shape == (3, 40, 20) and shown.shape == (1, 40, 20)
    assert shown[0, :, :10].all() and not shown[0, :, 10:].any()
    assert (pixels[:, :, :9] == 200).all() and (pixels[:, :, 11:] == 0).all()
    mirrored = resized_crop(image, mask, (5, 10, 10, 10), (40, 20), flip=True)
    assert torch.equal(mirrored[0], pixels.flip(-1)) and torch.equal(mirrored[1], shown.flip(-1))


def test_at_test_the_middle_is_taken_as_it_is_and_surrounded_by_black():
    image, mask = np.full((20, 30, 3), 9, dtype=np.uint8), np.ones((20, 30), dtype=bool)
    pixels, shown = centre_crop(image, mask, (4, 0, 8, 30), 16)
    assert pixels.shape == (3, 16, 16)
    assert (pixels[:, 4:12] == 9).all() and shown[0, 4:12].all()
    assert not pixels[:, :4].any() and not pixels[:, 12:].any() and int(shown.sum()) == 8 * 16


def test_a_mapped_sample_and_one_whose_crop_lost_the_class(records):
    torch.manual_seed(0)
    mapper = ClassRegionMapper((24, 16), is_train=True)
    sample = mapper(class_records(records, 4, 255)[9])
    assert sample["region"].shape == (3, 24, 16) and sample["region"].dtype == torch.uint8
    assert sample["mask"].all() and sample["category"] == 1
    # The one pixel of class 2 lies in the corner, which the official box does not hold.
    assert ClassRegionMapper((24, 16), is_train=True)(class_records(records, 4, 255)[-1])["mask"].all()
    corner = {**class_records(records, 4, 255)[-1]}
    labels = np.array(Image.open(corner["sem_seg_file_name"]))
    labels[0, 0] = 2
    Image.fromarray(labels).save(corner["sem_seg_file_name"])
    assert ClassRegionMapper((8, 8), is_train=False)(corner) is None


def test_a_label_map_of_another_size_is_named(records, tmp_path):
    sample = class_records(records, 4, 255)[0]
    Image.fromarray(np.zeros((20, 31), dtype=np.uint8)).save(sample["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"0\.png is 31x20, but its image .*0\.jpg is 30x20"):
        ClassRegionMapper((8, 8), is_train=True)(sample)
