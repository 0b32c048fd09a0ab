"""Masks from disk in every layout, and what is said when they do not fit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from maft.errors import UserError
from maft.proposals.mask_files import MaskFiles
from maft.registry import PROPOSERS
from maft.structures import Images

SIZE = (20, 30)
IMAGES = Images(torch.zeros(1, 3, 32, 32), [SIZE])
ITEM = {"file_name": "photos/cat.jpg", "image_id": 7, "height": 20, "width": 30}


@pytest.fixture
def masks():
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, 2:9, 3:14] = True
    masks[1, 10:20, :] = True
    masks[2, 0, 29] = True
    return masks


def run(path, images=IMAGES, records=(ITEM,)):
    proposer = PROPOSERS.build("MaskFiles", {"PATH": str(path)}).eval()
    return proposer(images, None, None, records=list(records))


def run_length(mask, *, compressed=True):
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": code["size"], "counts": code["counts"].decode()}
    flat = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, flat.size]).tolist()}


def check(proposals, masks):
    assert not proposals.are_logits and proposals.padded_size == (32, 32) and proposals.valid.all()
    assert torch.equal(proposals.masks[0, :, :20, :30], torch.from_numpy(masks).float())
    assert not proposals.masks[:, :, 20:].any() and not proposals.masks[..., 30:].any()


def test_a_folder_of_pictures(tmp_path, masks):
    (tmp_path / "cat").mkdir()
    for number, mask in enumerate(masks):
        Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "cat" / f"{number}.png")
    check(run(tmp_path), masks)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_map_with_a_value_per_mask(tmp_path, masks, dtype):
    values = np.zeros(SIZE, dtype=dtype)
    for number, mask in enumerate(masks):
        values[mask] = [3, 40, 255][number]
    Image.fromarray(values).save(tmp_path / "cat.png")
    check(run(tmp_path), masks)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_run_length_encoding_per_image(tmp_path, masks, compressed, wrapped):
    entries = [{"segmentation": run_length(mask, compressed=compressed)} for mask in masks]
    (tmp_path / "cat.json").write_text(json.dumps({"annotations": entries} if wrapped else entries))
    check(run(tmp_path), masks)


def test_one_file_for_all_images_and_polygons(tmp_path, masks):
    rectangle = [3, 2, 14, 2, 14, 9, 3, 9]
    entries = [
        {"image_id": 7, "segmentation": [rectangle]},
        {"image_id": 8, "segmentation": run_length(masks[1])},
        {"image_id": 7, "segmentation": run_length(masks[2])},
    ]
    (tmp_path / "all.json").write_text(json.dumps(entries))
    check(run(tmp_path / "all.json"), masks[[0, 2]])
    # An image of which the file says nothing has no masks.
    assert not run(tmp_path / "all.json", records=[{**ITEM, "image_id": 9}]).valid.any()


def test_masks_follow_the_resized_image(tmp_path, masks):
    (tmp_path / "cat.json").write_text(json.dumps([{"segmentation": run_length(masks[1])}]))
    images = Images(torch.zeros(1, 3, 64, 64), [(40, 60)])
    found = run(tmp_path, images).masks[0, 0]
    assert found[20:40, :60].all() and found.sum() == 20 * 60


def test_images_with_fewer_masks_get_invalid_slots(tmp_path, masks):
    (tmp_path / "cat.json").write_text(json.dumps([{"segmentation": run_length(mask)} for mask in masks]))
    (tmp_path / "dog").mkdir()
    images = Images(torch.zeros(2, 3, 32, 32), [SIZE, SIZE])
    proposals = run(tmp_path, images, [ITEM, {**ITEM, "file_name": "dog.jpg"}])
    assert proposals.valid.tolist() == [[True] * 3, [False] * 3] and not proposals.masks[1].any()


@pytest.mark.parametrize("kind", ["folder", "list", "map"])
def test_an_empty_set_is_one_invalid_slot(tmp_path, kind):
    if kind == "folder":
        (tmp_path / "cat").mkdir()
    elif kind == "list":
        (tmp_path / "cat.json").write_text("[]")
    else:
        Image.fromarray(np.zeros(SIZE, dtype=np.uint8)).save(tmp_path / "cat.png")
    proposals = run(tmp_path)
    assert proposals.masks.shape == (1, 1, 32, 32) and not proposals.valid.any() and not proposals.masks.any()


@pytest.mark.parametrize("kind", ["folder", "list", "map"])
def test_masks_of_another_size_are_refused(tmp_path, masks, kind):
    small = masks[0, :10]
    if kind == "folder":
        (tmp_path / "cat").mkdir()
        Image.fromarray((small * 255).astype(np.uint8)).save(tmp_path / "cat" / "0.png")
    elif kind == "list":
        (tmp_path / "cat.json").write_text(json.dumps([{"segmentation": run_length(small)}]))
    else:
        Image.fromarray(small.astype(np.uint8)).save(tmp_path / "cat.png")
    with pytest.raises(UserError, match="cat.* is 30x10, but its image is 30x20"):
        run(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="PATH .*nowhere is no folder and no file"):
        MaskFiles(path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="No masks for photos/cat.jpg: expected the folder .*cat, or cat.png or cat.js"):
        run(tmp_path)
    file = tmp_path / "cat.json"
    for content, complaint in [
        ("{", "cat.json cannot be read as JSON"),
        ('{"masks": []}', "cat.json must hold a list of COCO annotations"),
        ('[{"image_id": 7}]', "annotation 0 of .*cat.json has no segmentation"),
        ('[{"segmentation": {"counts": 5}}]', "annotation 0 of .*cat.json is neither run-length encoded nor polygons"),
        ('[{"segmentation": "nonsense"}]', "annotation 0 of .*cat.json is neither run-length encoded nor polygons"),
    ]:
        file.write_text(content)
        with pytest.raises(UserError, match=complaint):
            run(tmp_path)
    file.write_text('[{"segmentation": [[1, 2, 3, 4, 5, 6]]}]')
    with pytest.raises(UserError, match="has no image_id"):
        run(file)
    (tmp_path / "cat.json").unlink()
    (tmp_path / "cat.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cat.png cannot be read"):
        run(tmp_path)


def test_masks_of_other_images_are_refused_before_the_first(tmp_path, masks, caplog):
    records = [{"file_name": f"photos/{name}.jpg", "image_id": number} for number, name in enumerate("abc")]
    entries = [{"image_id": image, "segmentation": run_length(masks[0])} for image in (1, 2, 3)]
    file = tmp_path / "all.json"
    file.write_text(json.dumps(entries))
    proposer = MaskFiles(path=str(file))
    with pytest.raises(UserError, match=r"no masks for 1 of 3 images, such as 0; it has some for 3: give masks of the"):
        proposer.check_records(records)
    with pytest.raises(UserError, match="no masks for 1 of 1 images, such as cat"):
        proposer.check_records([{"image_id": "cat"}])
    # Without a list of images, those in which nothing was found are not named.
    file.write_text(json.dumps(entries[:2]))
    MaskFiles(path=str(file)).check_records(records)
    assert "1 of 3 images have no masks, and masks of 0 other images" in caplog.text
    file.write_text(json.dumps({"annotations": entries, "images": [{"id": image} for image in (0, 1, 2, 3)]}))
    MaskFiles(path=str(file)).check_records(records)
    assert "0 of 3 images have no masks, and masks of 1 other images are not used" in caplog.text
    file.write_text(json.dumps({"annotations": entries[:2], "images": [{"id": image} for image in (1, 2)]}))
    with pytest.raises(UserError, match="no masks for 1 of 3 images"):
        MaskFiles(path=str(file)).check_records(records)


def test_folders_of_masks_are_compared_with_the_images(tmp_path):
    records = [{"file_name": f"photos/{name}.jpg"} for name in ("a", "b.x", "c")]
    for name in ("a", "b.x"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"no masks for 1 of 3 images, such as c; it has some for no others"):
        MaskFiles(path=str(tmp_path)).check_records(records)
    (tmp_path / "c.json").write_text("[]")
    MaskFiles(path=str(tmp_path)).check_records(records)
    with pytest.raises(UserError, match="found by file names, and 'c' stands for several"):
        MaskFiles(path=str(tmp_path)).check_records([*records, {"file_name": "other/c.png"}])
    (tmp_path / "c.png").touch()
    with pytest.raises(UserError, match="found by file names, and 'c' stands for several"):
        MaskFiles(path=str(tmp_path)).check_records(records)


def test_masks_in_two_places_or_of_another_kind_are_refused(tmp_path):
    for name in ("cat.png", "dog.png"):
        Image.new("L", SIZE[::-1]).save(tmp_path / name)
    (tmp_path / "cat.json").write_text("[]")
    with pytest.raises(UserError, match=r"Masks of photos/cat\.jpg are in \S+cat\.png and in \S+cat\.json"):
        run(tmp_path)
    (tmp_path / "cat.json").unlink()
    (tmp_path / "cat.png").rename(tmp_path / "cat.jpg")
    with pytest.raises(UserError, match=r"no masks for 1 of 1 images, such as cat; it has some for dog"):
        MaskFiles(path=str(tmp_path)).check_records([ITEM])


def test_masks_of_another_size_are_refused_before_the_first(tmp_path, masks):
    records = [ITEM, {**ITEM, "file_name": "dog.jpg", "image_id": 8}]
    (tmp_path / "cat").mkdir()
    for file in ("cat/0.png", "dog.png"):
        Image.new("L", SIZE[::-1]).save(tmp_path / file)
    MaskFiles(path=str(tmp_path)).check_records(records)
    for file in ("dog.png", "cat/0.png"):
        Image.new("L", (30, 21)).save(tmp_path / file)
        with pytest.raises(UserError, match=rf"{file} is 30x21, but its image is 30x20"):
            MaskFiles(path=str(tmp_path)).check_records(records)
    code, file = run_length(masks[0]), tmp_path / "all.json"
    file.write_text(json.dumps([{"image_id": 7, "segmentation": code}, {"image_id": 8, "segmentation": code}]))
    MaskFiles(path=str(file)).check_records(records)
    with pytest.raises(UserError, match=r"all\.json, image 8 is 30x20, but its image is 31x20"):
        MaskFiles(path=str(file)).check_records([ITEM, {**records[1], "width": 31}])


@pytest.mark.parametrize("name", ["cat.json", "all.json"])
def test_polygons_of_an_image_of_another_size_are_refused(tmp_path, name):
    entry = {"image_id": 7, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    content = {"images": [{"id": 7, "height": 480, "width": 640}], "annotations": [entry]}
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{name}.* is 640x480, but its image is 30x20"):
        run(tmp_path if name == "cat.json" else tmp_path / name)


@pytest.mark.parametrize("image_id", [7.0, None, True, [7]])
def test_ids_of_other_types_are_refused(tmp_path, image_id):
    file, code = tmp_path / "all.json", [[1, 2, 3, 4, 5, 6]]
    for content in ([{"image_id": image_id, "segmentation": code}], {"images": [{"id": image_id}], "annotations": []}):
        file.write_text(json.dumps(content))
        with pytest.raises(
            UserError, match=r"must hold a list of COCO annotations.*\((annotations\.0\.image_|images\.0\.)id"
        ):
            run(file)


def test_a_folder_of_masks_holds_nothing_else(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/0.jpg").touch()
    with pytest.raises(UserError, match=r"0\.jpg is no PNG file"):
        run(tmp_path)


def test_more_masks_than_the_memory_holds_are_refused(tmp_path):
    record = {**ITEM, "height": 30_000, "width": 30_000}
    (tmp_path / "cat.json").write_text(json.dumps([{"segmentation": {"size": [30_000, 30_000], "counts": [9]}}] * 5))
    with pytest.raises(UserError, match=r"cat\.json holds 5 masks of 30000x30000 pixels, more than 4 GiB"):
        run(tmp_path, records=[record])


def test_it_refuses_training_and_images_without_names(tmp_path):
    with pytest.raises(UserError, match="do not follow the augmentation"):
        MaskFiles(path=str(tmp_path)).train()(IMAGES, None, None, records=[ITEM])
    with pytest.raises(UserError, match="came without one"):
        run(tmp_path, records=[{}])
    with pytest.raises(UserError, match="needs the images' file names"):
        MaskFiles(path=str(tmp_path)).eval()(IMAGES, None, None)


@pytest.mark.parametrize(
    "code",
    [
        {"size": list(SIZE), "counts": [600, 600]},
        {"size": list(SIZE), "counts": [1]},
        {"size": list(SIZE), "counts": [-1, 601]},
        {"size": list(SIZE), "counts": "0c02O1"},
        {"size": [10**6, 10**6], "counts": [5]},
        {"size": list(SIZE), "counts": "o" * 40},
        [[0.0, 0.0, 1e9, 0.0, 1e9, 1e9]],
        [[0.0, 0.0, float("nan"), 0.0, 5.0, 5.0]],
    ],
)
def test_codes_that_do_not_fill_a_mask_are_refused(tmp_path, code):
    (tmp_path / "cat.json").write_text(json.dumps([{"segmentation": code}]))
    with pytest.raises(UserError, match="do not fill|neither run-length|make them the same size"):
        run(tmp_path)
