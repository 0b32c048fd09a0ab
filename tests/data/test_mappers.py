"""The mapper: targets, padding, determinism, recorded cases, and files that cannot be used."""

import json
import pickle
import random

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from golden.runner import run_case
from PIL import Image

from maft.config_keys import add_maft_config
from maft.data.augmentations import large_scale_jitter, shortest_edge_augmentations
from maft.data.mappers import NO_SEGMENT, SegmentationMapper
from maft.errors import UserError


@pytest.fixture
def record(tmp_path):
    """A 20x30 image with three classes and an ignored stripe."""
    draws = np.random.default_rng(0)
    Image.fromarray(draws.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    labels = np.full((20, 30), 255, dtype=np.uint8)
    labels[:10], labels[10:18, :15], labels[10:18, 15:] = 4, 0, 2
    Image.fromarray(labels).save(tmp_path / "labels.png")
    return {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "labels.png"), "image_id": 3}


@pytest.fixture
def panoptic_record(record, tmp_path):
    ids = np.zeros((20, 30), dtype=np.int64)
    ids[:5], ids[5:10], ids[10:15], ids[15:, :20] = 70003, 9, 300, 1000
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "panoptic.png")
    segments = [
        {"id": 1000, "category_id": 1, "iscrowd": 0},
        {"id": 70003, "category_id": 4, "iscrowd": 0},
        {"id": 300, "category_id": 2, "iscrowd": 1},
        {"id": 9, "category_id": 4, "iscrowd": 0},
        {"id": 12, "category_id": 0, "iscrowd": 0},
    ]
    return {**record, "pan_seg_file_name": str(tmp_path / "panoptic.png"), "segments_info": segments}


def plain(targets, **options):
    return SegmentationMapper([], targets=targets, num_classes=5, **options)


def test_semantic_targets_are_one_mask_per_label_present(record):
    mapped = plain("semantic")(record)
    assert mapped["image"].dtype == torch.uint8 and mapped["image"].shape == (3, 20, 30)
    assert (mapped["height"], mapped["width"]) == (20, 30)
    assert mapped["instances"].gt_classes.tolist() == [0, 2, 4]
    masks = mapped["instances"].gt_masks
    assert masks.dtype == torch.bool and masks.sum(dim=(1, 2)).tolist() == [120, 120, 300]
    assert torch.equal(masks.any(dim=0), mapped["sem_seg"] != 255)
    assert mapped["sem_seg"].dtype == torch.int64


def test_panoptic_targets_are_one_mask_per_segment_without_crowds(panoptic_record):
    mapped = plain("panoptic")(panoptic_record)
    assert mapped["instances"].gt_classes.tolist() == [1, 4, 4, 0]
    assert mapped["instances"].gt_masks.sum(dim=(1, 2)).tolist() == [100, 150, 150, 0]
    values, counts = mapped["sem_seg"].unique(return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {1: 100, 4: 300, 255: 200}


@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_any_number_of_segments_is_told_apart_also_where_they_are_resized_and_padded(record, tmp_path, count):
    ids = np.random.default_rng(0).integers(0, count + 1, (20, 30))
    Image.fromarray(np.stack([ids % 256, ids // 256, 0 * ids], axis=-1).astype(np.uint8)).save(tmp_path / "many.png")
    segments = [{"id": number, "category_id": number % 5} for number in range(1, count + 1)]
    resize = T.ResizeTransform(20, 30, 15, 40)
    mapper = SegmentationMapper([resize], targets="panoptic", num_classes=5, padded_size=48)
    mapped = mapper({**record, "pan_seg_file_name": str(tmp_path / "many.png"), "segments_info": segments})
    expected = np.zeros((48, 48), dtype=np.int64)
    expected[:15, :40] = np.asarray(Image.fromarray(ids.astype(np.int32)).resize((40, 15), Image.Resampling.NEAREST))
    found = mapped["instances"].gt_masks.numpy()
    assert np.array_equal(found, expected == np.arange(1, count + 1)[:, None, None])
    assert np.array_equal(mapped["sem_seg"].numpy(), np.where(expected > 0, expected % 5, 255))


def test_padding_is_grey_in_the_image_and_ignored_in_the_labels(record):
    mapped = plain("semantic", padded_size=32)(record)
    assert mapped["image"].shape == (3, 32, 32)
    assert (mapped["image"][:, 20:] == 128).all() and (mapped["image"][:, :, 30:] == 128).all()
    assert (mapped["sem_seg"][20:] == 255).all() and not mapped["instances"].gt_masks[:, 20:].any()
    assert mapped["instances"].image_size == (32, 32)


def test_an_image_larger_than_the_square_is_refused_instead_of_cut(record):
    with pytest.raises(UserError, match="INPUT.PADDED_SIZE 24"):
        plain("semantic", padded_size=24)(record)


def test_without_targets_nothing_but_the_image_is_read(record):
    mapped = plain(None)({"file_name": record["file_name"]})
    assert set(mapped) == {"file_name", "height", "width", "image"}


def test_the_record_is_left_alone(record):
    before = dict(record)
    plain("semantic")(record)
    assert record == before


@pytest.mark.parametrize("targets", ["semantic", "panoptic"])
def test_a_seed_determines_the_sample(panoptic_record, targets):
    options = {"crop_size": (16, 16), "color": "RGB", "flip": "horizontal"}
    mapper = SegmentationMapper(
        shortest_edge_augmentations([18, 24, 30], 60, **options), targets=targets, num_classes=5, padded_size=16
    )

    def mapped(seed):
        random.seed(seed)
        np.random.seed(seed)
        found = mapper(panoptic_record)
        return torch.cat([found["image"].flatten(), found["instances"].gt_masks.flatten()])

    assert torch.equal(mapped(1), mapped(1))
    assert not torch.equal(mapped(1), mapped(2))


def test_image_and_labels_move_together(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (6, 9)).repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)
    Image.fromarray((labels * 50)[..., None].repeat(3, axis=2)).save(tmp_path / "i.png")
    Image.fromarray(labels).save(tmp_path / "l.png")
    record = {"file_name": str(tmp_path / "i.png"), "sem_seg_file_name": str(tmp_path / "l.png")}
    for seed in range(5):
        np.random.seed(seed)
        mapper = SegmentationMapper(large_scale_jitter(96, (0.8, 1.5)), targets="semantic", num_classes=5)
        mapped = mapper(record)
        inside = mapped["sem_seg"] != 255
        # Away from class borders, where bilinear and nearest interpolation differ, the grey level says the class.
        agrees = (mapped["image"][0].float() / 50 - mapped["sem_seg"]).abs()[inside] < 0.2
        assert agrees.float().mean() > 0.8


def test_an_unlabelled_map_gives_no_masks_or_is_skipped(record, tmp_path):
    Image.fromarray(np.full((20, 30), 255, dtype=np.uint8)).save(tmp_path / "labels.png")
    mapped = plain("semantic")(record)
    assert mapped["instances"].gt_masks.shape == (0, 20, 30) and len(mapped["instances"].gt_classes) == 0
    assert plain("semantic", skip_unlabelled=True)(record) is None


def test_sixteen_bit_labels_and_their_ignore_value(record, tmp_path):
    labels = np.full((20, 30), 65535, dtype=np.uint16)
    labels[:5] = 700
    Image.fromarray(labels).save(tmp_path / "labels.tif")
    mapper = SegmentationMapper([], targets="semantic", num_classes=847, ignore_label=65535)
    mapped = mapper({**record, "sem_seg_file_name": str(tmp_path / "labels.tif")})
    assert mapped["instances"].gt_classes.tolist() == [700]


def break_file(record, key):
    with open(record[key], "r+b") as file:
        file.truncate(60)


@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
def test_broken_and_missing_files_are_named(record, key):
    name = record[key]
    break_file(record, key)
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        plain("semantic")(record)
    with pytest.raises(UserError, match="gone.png does not exist"):
        plain("semantic")({**record, key: "gone.png"})


def test_unknown_id_is_named_with_its_file(record):
    with pytest.raises(UserError, match=r"labels.png holds id 4.*3 classes"):
        SegmentationMapper([], targets="semantic", num_classes=3)(record)


def test_sizes_that_differ_are_refused(record, tmp_path):
    with pytest.raises(UserError, match="30x20, but the dataset says width 31"):
        plain("semantic")({**record, "width": 31})
    Image.fromarray(np.zeros((10, 30), dtype=np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(UserError, match="labels.png is 30x10"):
        plain("semantic")(record)


def test_colour_label_map_and_grey_panoptic_map_are_refused(record, panoptic_record):
    with pytest.raises(UserError, match="colour channels"):
        plain("semantic")({**record, "sem_seg_file_name": record["file_name"]})
    with pytest.raises(UserError, match="not an RGB image"):
        plain("panoptic")({**panoptic_record, "pan_seg_file_name": record["sem_seg_file_name"]})


def test_panoptic_strangers_are_refused(panoptic_record):
    segments = panoptic_record["segments_info"]
    with pytest.raises(UserError, match="segment id 9"):
        plain("panoptic")({**panoptic_record, "segments_info": [s for s in segments if s["id"] != 9]})
    with pytest.raises(UserError, match="category 4"):
        SegmentationMapper([], targets="panoptic", num_classes=4)(panoptic_record)


def test_targets_that_are_no_masks_are_refused():
    with pytest.raises(UserError, match="INPUT.MAPPER 'region_pairs' gives no masks: use semantic or panoptic"):
        plain("region_pairs")


def test_an_image_without_a_label_file_is_skipped_or_refused(record):
    del record["sem_seg_file_name"]
    assert plain("semantic", skip_unlabelled=True)(record) is None
    with pytest.raises(UserError, match="image.png has no semantic labels"):
        plain("semantic")(record)


@pytest.fixture
def registered(record):
    names = ["mapper_test_a", "mapper_test_b"]
    for count, name in zip((5, 7), names):
        DatasetCatalog.register(name, lambda: [record])
        MetadataCatalog.get(name).set(stuff_classes=[str(i) for i in range(count)], ignore_label=255)
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_from_config(record, registered):
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = registered[:1], [40], 10
    mapper = SegmentationMapper.from_config(cfg, is_train=True)
    assert mapper.num_classes == 5 and pickle.loads(pickle.dumps(mapper)).num_classes == 5
    assert mapper(record)["sem_seg"].shape == (40, 60)
    assert SegmentationMapper.from_config(cfg, is_train=False)(record)["image"].shape == (3, 10, 15)
    cfg.DATASETS.TRAIN = registered
    with pytest.raises(UserError, match=r"mapper_test_a \(5 classes, ignore 255\), mapper_test_b \(7"):
        SegmentationMapper.from_config(cfg, is_train=True)


CASES = {
    "maft": ["data_mapper"],
    "ovseg": ["data_mapper_crop", "data_mapper_pad", "data_mapper_test", "data_mapper_empty", "color_aug_ssd"],
    "maskadapter": ["mapper_coco_panoptic", "mapper_semantic"],
}


@pytest.mark.parametrize(("system", "name"), [(system, name) for system in CASES for name in CASES[system]])
def test_recorded_cases(golden_dir, system, name):
    result = run_case(golden_dir / system / f"{name}.json")
    assert result.status == "pass", result.detail
    # Integers: not a single pixel may differ.
    assert result.error == 0


def test_real_panoptic_samples(samples_dir):
    folder = samples_dir / "coco"
    table = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
    index = {category["id"]: place for place, category in enumerate(table["categories"])}
    mapper = SegmentationMapper(
        large_scale_jitter(256, padding_label=NO_SEGMENT), targets="panoptic", num_classes=len(index)
    )
    for annotation in table["annotations"][:3]:
        segments = [{**s, "category_id": index[s["category_id"]]} for s in annotation["segments_info"]]
        mapped = mapper(
            {
                "file_name": str(folder / "val2017" / annotation["file_name"].replace("png", "jpg")),
                "pan_seg_file_name": str(folder / "panoptic_val2017" / annotation["file_name"]),
                "segments_info": segments,
            }
        )
        assert mapped["image"].shape == (3, 256, 256)
        masks = mapped["instances"].gt_masks
        assert len(masks) == sum(not s["iscrowd"] for s in segments)
        assert masks.sum(dim=0).max() == 1
