"""SAM and SAM 2 on tiny random models of the transformers library, and the filters on masks made by hand."""

import builtins

import numpy as np
import pytest
import torch

from maft.errors import UserError
from maft.proposals.sam import SAM
from maft.proposals.sam_model import drop_islands, fill_holes, load_sam, point_grid, stability, without_small_regions
from maft.registry import PROPOSERS
from maft.structures import Images

transformers = pytest.importorskip("transformers")

# Thresholds that any mask of a random model passes; random masks fill the image, so that all boxes are alike.
OPEN = {"iou_threshold": -1e9, "stability_threshold": 0.0, "nms_threshold": 1.0, "points_per_side": 3}


@pytest.fixture(params=["sam", "sam2"])
def model(request, tiny_sam):
    torch.manual_seed(0)
    model = tiny_sam(request.param)
    # As initialised, all logits are almost zero.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "vision" in name else 0.6))
    return model


@pytest.fixture
def images():
    return Images.from_list([torch.rand(3, 40, 60) * 255, torch.rand(3, 64, 33) * 255], divisor=32)


def test_binary_masks_with_slots_for_the_richest_image(model, images):
    proposals = SAM(model, **OPEN)(images, None, None)
    batch, slots = proposals.masks.shape[:2]
    assert batch == 2 and slots > 1 and proposals.masks.shape[2:] == images.padded_size and not proposals.are_logits
    assert set(proposals.masks.unique().tolist()) == {0.0, 1.0}
    assert proposals.valid.any(1).all() and proposals.valid.all(1).any()
    occupied = proposals.masks.flatten(2).any(2)
    assert torch.equal(occupied, proposals.valid)
    for index, (height, width) in enumerate(images.sizes):
        assert not proposals.masks[index, :, height:].any() and not proposals.masks[index, :, :, width:].any()


def test_points_go_through_the_decoder_in_any_groups(model, images):
    whole = SAM(model, **OPEN, points_per_batch=64)(images, None, None)
    parts = SAM(model, **OPEN, points_per_batch=2)(images, None, None)
    assert torch.equal(whole.valid, parts.valid)
    assert (whole.masks != parts.masks).float().mean() < 1e-3


def test_images_of_a_batch_do_not_see_each_other(model, images):
    proposer = SAM(model, **OPEN)
    together = proposer(images, None, None)
    alone = proposer(Images(images.pixels[:1], images.sizes[:1]), None, None)
    count = alone.masks.shape[1]
    assert together.valid[0].sum() == count
    assert (together.masks[0, :count] != alone.masks[0]).float().mean() < 1e-3


def test_same_masks_as_the_pipeline_of_transformers(model):
    """The library's own mask generation, image processor and filters included, on an image that needs no resizing."""
    height, width = 64, 64
    pixels = torch.randint(0, 256, (3, height, width)).float()
    images = Images(pixels[None], [(height, width)])
    proposer = SAM(model, **OPEN, points_per_batch=4)
    with torch.no_grad():
        embedding = model.get_image_embeddings(proposer.prepare(images))
        points = point_grid(3, (height, width), pixels.device)
        logits, _ = proposer._decode(embedding, (height, width), points)
    stabilities = stability(proposer.geometry.full_size(logits.flatten(0, 1), (height, width)), 1.0).sort().values
    # Between the two that are furthest apart, where rounding decides nothing.
    gap = int(stabilities.diff().argmax())
    threshold = float(stabilities[gap] + stabilities[gap + 1]) / 2
    proposer.stability_threshold = threshold
    ours = proposer(images, None, None)

    from torchvision.transforms.functional import to_pil_image

    if proposer.geometry.squashes:
        processor = transformers.Sam2ImageProcessor(size={"height": 64, "width": 64})
    else:
        processor = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    generator = transformers.MaskGenerationPipeline(model=model, image_processor=processor)
    expected = generator(
        to_pil_image(pixels.byte()),
        points_per_crop=3,
        points_per_batch=4,
        pred_iou_thresh=-1e9,
        stability_score_thresh=threshold,
        crops_nms_thresh=1.0,
    )
    theirs = torch.stack([torch.as_tensor(np.asarray(mask)) for mask in expected["masks"]]).bool()
    assert 1 < len(theirs) < 27 and ours.valid.all() and ours.masks.shape[1] == len(theirs)
    # The same order too: best first.
    assert ((ours.masks[0].bool() != theirs).flatten(1).float().mean(1) < 0.002).all()


def test_filters_leave_an_invalid_slot_when_nothing_passes(model, images):
    proposals = SAM(model, iou_threshold=1e9, points_per_side=2)(images, None, None)
    assert proposals.masks.shape[1] == 1 and not proposals.valid.any() and not proposals.masks.any()


def test_nothing_in_it_trains(model):
    proposer = SAM(model).train()
    assert not proposer.model.training and not list(proposer.trainable_parameters())
    assert proposer.iou_threshold == (0.8 if proposer.geometry.squashes else 0.88)


def test_weights_from_a_folder(model, images, tmp_path):
    model.save_pretrained(tmp_path)
    options = {key.upper(): value for key, value in OPEN.items()}
    loaded = PROPOSERS.build("SAM", {"PRETRAINED": str(tmp_path), **options})
    assert torch.equal(loaded(images, None, None).masks, SAM(model, **OPEN)(images, None, None).masks)


def test_bad_weights_are_named(tmp_path):
    with pytest.raises(
        UserError, match="download config.json and model.safetensors from https://huggingface.co/facebo"
    ):
        load_sam("facebook/sam-vit-that-is-not-cached")
    with pytest.raises(UserError, match=f"folder {tmp_path} lacks a readable config.json"):
        load_sam(str(tmp_path))
    file = tmp_path / "sam_vit_h_4b8939.pth"
    file.write_bytes(b"weights")
    with pytest.raises(UserError, match="is a file, but SAM is read from a folder"):
        load_sam(str(file))
    transformers.CLIPTextConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a 'clip_text_model' model: give a SAM"):
        load_sam(str(tmp_path))


def test_incomplete_weights_are_refused(tiny_sam, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_sam("sam").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "mask_tokens" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is incomplete: it lacks mask_decoder.mask_tokens"):
        load_sam(str(tmp_path))


def test_says_how_to_install_transformers(monkeypatch):
    original = builtins.__import__

    def without_transformers(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_transformers)
    with pytest.raises(UserError, match=r"pip install 'maft\[sam\]'"):
        load_sam("facebook/sam-vit-huge")


def test_other_models_and_numbers_are_refused():
    with pytest.raises(UserError, match="runs SamModel or Sam2Model of transformers, not a 'Linear' model"):
        SAM(torch.nn.Linear(2, 2))
    for option, value, least in (("POINTS_PER_SIDE", 0, 1), ("MIN_REGION_AREA", -1, 0)):
        with pytest.raises(
            UserError, match=f"SAM.{option} is {value}, but it must be a whole number of at least {least}"
        ):
            PROPOSERS.build("SAM", {option: value})
    with pytest.raises(UserError, match="NMS_THRESHOLD is 1.5, but it must be a number of at least 0 and at most 1"):
        PROPOSERS.build("SAM", {"NMS_THRESHOLD": 1.5})


def test_grid_points_are_cell_centres():
    points = point_grid(2, (40, 80), torch.device("cpu"))
    assert points.tolist() == [[20, 10], [60, 10], [20, 30], [60, 30]]


def test_stability_is_the_share_that_survives_a_stricter_cut():
    logits = torch.full((2, 4, 4), -5.0)
    logits[0, :2] = 5.0
    logits[1, 0] = 5.0
    logits[1, 1] = 0.5
    assert stability(logits, 1.0).tolist() == [1.0, 0.5]


def picture(rows):
    return np.array([[character == "#" for character in row] for row in rows])


def test_holes_are_filled_and_islands_dropped_below_the_area():
    ring = picture(["######", "#.##.#", "####.#", "######"])
    # A hole of one pixel goes, one of two stays.
    assert (fill_holes(ring, 2) == picture(["######", "####.#", "####.#", "######"])).all()
    spots = picture(["##..#.", "##....", "....##", "#....."])
    assert (drop_islands(spots, 2) == picture(["##....", "##....", "....##", "......"])).all()
    # Where every island is too small the largest stays; diagonal neighbours are connected.
    assert (drop_islands(spots, 9) == picture(["##....", "##....", "......", "......"])).all()
    diagonal = picture(["#.....", ".#....", "....#.", "......"])
    assert (drop_islands(diagonal, 9) == picture(["#.....", ".#....", "......", "......"])).all()


def test_a_mask_that_cleaning_made_a_duplicate_is_dropped():
    clean = picture(["####..", "####..", "####..", "......"])
    holey = picture(["####..", "#.##..", "####..", "......"])
    other = picture(["......", "......", "....##", "....##"])
    result = without_small_regions(torch.from_numpy(np.stack([holey, clean, other])), 2, 0.7)
    assert sorted(mask.sum().item() for mask in result) == [4, 12]


@pytest.mark.gpu
def test_same_masks_on_the_gpu(model, images):
    expected = SAM(model, **OPEN)(images, None, None)
    on_gpu = SAM(model, **OPEN).cuda()(Images(images.pixels.cuda(), images.sizes), None, None)
    assert abs(on_gpu.masks.shape[1] - expected.masks.shape[1]) <= 1
