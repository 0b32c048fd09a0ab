"""SAM's family on tiny random models of the transformers library."""

import builtins

import numpy as np
import pytest
import torch

from maft.errors import UserError
from maft.proposals.sam import SAM, point_grid
from maft.proposals.sam_filters import stability
from maft.proposals.sam_model import FAMILIES, SAMFamily, load_sam
from maft.registry import PROPOSERS
from maft.structures import Images, Prompts

transformers = pytest.importorskip("transformers")

# Thresholds that any mask of a random model passes; random masks fill the image, so that all boxes are alike.
OPEN = {"iou_threshold": -1e9, "stability_threshold": 0.0, "nms_threshold": 1.0, "points_per_side": 3}
PADDED = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
SQUARE = {"size": {"height": 64, "width": 64}}
# The image processor that each type has in the library.
PROCESSORS = {
    "sam": lambda: transformers.SamProcessor(transformers.SamImageProcessor(**PADDED)),
    "mobile_sam": lambda: transformers.SamProcessor(transformers.SamImageProcessor(**PADDED)),
    "sam_hq": lambda: transformers.SamHQProcessor(transformers.SamImageProcessor(**PADDED)),
    "sam2": lambda: transformers.Sam2Processor(transformers.Sam2ImageProcessor(**SQUARE), target_size=64),
    "edgetam": lambda: transformers.Sam2Processor(transformers.Sam2ImageProcessor(**SQUARE), target_size=64),
    "sam3_tracker": lambda: transformers.Sam3TrackerProcessor(
        transformers.Sam3ImageProcessor(**SQUARE), target_size=64
    ),
}


@pytest.fixture(params=PROCESSORS)
def kind(request):
    return request.param


def with_noise(model, of_vision, of_others):
    """As initialised, all logits are almost zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (of_vision if "vision" in name else of_others))
    return model


@pytest.fixture
def model(kind, tiny_sam):
    return with_noise(tiny_sam(kind), 0.3, 0.6)


@pytest.fixture
def images():
    return Images.from_list([torch.rand(3, 40, 60) * 255, torch.rand(3, 64, 33) * 255], divisor=32)


PROMPTS = [
    Prompts(
        torch.tensor([[2.0, 3, 30, 20], [20, 5, 59, 39]]),
        (torch.tensor([[10.0, 10, 1]]), torch.tensor([[50.0, 30, 1], [5, 5, 0]]), torch.tensor([[30.0, 31, 1]])),
    ),
    Prompts(torch.tensor([[1.0, 2, 30, 60]]), (torch.tensor([[20.0, 40, 1]]),)),
]


def of_the_library(processor, model, pixels, square, multimask, **asked):
    """The best mask logits of each object as the library's processor and model give them, for pixels prepared by us."""
    inputs = processor(images=pixels / 255, return_tensors="pt", do_rescale=False, **asked)
    torch.testing.assert_close(inputs.pop("pixel_values"), square, atol=1e-5, rtol=0)
    sizes = [inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
    output = model(pixel_values=square, **inputs, multimask_output=multimask)
    (masks,) = processor.post_process_masks(output.pred_masks, *sizes, binarize=False)
    return masks[torch.arange(len(masks)), output.iou_scores[0].argmax(1)]


@torch.no_grad()
def test_masks_of_boxes_and_points_are_those_of_the_processor_and_model_of_transformers(kind, tiny_sam, images):
    """Of images of two sizes in one batch, one by one in the library."""
    # So little noise magnifies no rounding errors.
    model = with_noise(tiny_sam(kind), 0.1, 0.2)
    proposer, processor = SAM(model), PROCESSORS[kind]()
    together = proposer(images, None, None, None, [{"prompts": prompts} for prompts in PROMPTS])
    squares = proposer.geometry.prepared(images)
    for index, (embedding, size, prompts) in enumerate(zip(proposer.encoded(images), images.sizes, PROMPTS)):
        ours = proposer.geometry.full_size(proposer.prompted_logits(embedding, size, prompts), size)
        one = processor, model, images.pixels[index, :, : size[0], : size[1]], squares[index : index + 1]
        expected = [of_the_library(*one, False, input_boxes=[prompts.boxes.tolist()])]
        for points in prompts.points:
            asked = {"input_points": [[points[:, :2].tolist()]], "input_labels": [[points[:, 2].int().tolist()]]}
            expected.append(of_the_library(*one, len(points) == 1, **asked))
        torch.testing.assert_close(ours, torch.cat(expected), atol=1e-5, rtol=1e-5)
        assert (ours.flatten(1).std(1) > 1e-3).all()
        assert together.valid[index].sum() == len(prompts)
        shown = together.masks[index, : len(prompts), : size[0], : size[1]]
        assert (shown != (ours > 0)).float().mean() < 1e-3


def test_the_thinnest_pictures_have_masks(model):
    for size in ((1, 700), (700, 1)):
        images = Images.from_list([torch.zeros(3, *size)])
        assert SAM(model, **OPEN)(images, None, None, None).masks.shape[2:] == images.padded_size


def test_a_batch_may_mix_images_with_and_without_prompts(model, images):
    proposer = SAM(model, **OPEN)
    mixed = proposer(images, None, None, None, [{}, {"prompts": PROMPTS[1]}])
    alone = proposer(images, None, None)
    assert mixed.valid.sum(1).tolist() == [alone.valid.sum(1)[0], len(PROMPTS[1])]


@torch.no_grad()
def test_many_prompts_go_through_the_decoder_in_any_groups(model, images):
    whole, parts = SAM(model, points_per_batch=64), SAM(model, points_per_batch=1)
    (embedding, *_), size = whole.encoded(images), images.sizes[0]
    found = [proposer.prompted_logits(embedding, size, PROMPTS[0]) for proposer in (whole, parts)]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


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


def test_same_masks_as_the_pipeline_of_transformers(kind, model):
    """The library's own mask generation, image processor and filters included, on an image that needs no resizing."""
    height, width = 64, 64
    pixels = torch.randint(0, 256, (3, height, width)).float()
    images = Images(pixels[None], [(height, width)])
    proposer = SAM(model, **OPEN, points_per_batch=4)
    with torch.no_grad():
        (embedding,) = proposer.encoded(images)
        points = point_grid(3, (height, width), pixels.device)
        logits, _ = proposer._of_points(embedding, (height, width), points[:, None], torch.ones(9, 1).long())
    stabilities = stability(proposer.geometry.full_size(logits.flatten(0, 1), (height, width)), 1.0).sort().values
    # Between the two that are furthest apart, where rounding decides nothing.
    gap = int(stabilities.diff().argmax())
    threshold = float(stabilities[gap] + stabilities[gap + 1]) / 2
    proposer.stability_threshold = threshold
    ours = proposer(images, None, None)

    from torchvision.transforms.functional import to_pil_image

    processor = PROCESSORS[kind]().image_processor
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


@torch.no_grad()
def test_masks_that_share_much_are_joined(model, images):
    proposer = SAM(model, **OPEN)
    embedding, size = proposer.encoded(images)[0], images.sizes[0]
    separate = proposer.automatic_masks(embedding, size)
    proposer.fuse_overlap = 0.5
    joined = proposer.automatic_masks(embedding, size)
    assert 0 < len(joined) < len(separate)
    assert torch.equal(joined.any(0), separate.any(0)), "what is joined shows all that its masks showed"


def test_filters_leave_an_invalid_slot_when_nothing_passes(model, images):
    proposals = SAM(model, iou_threshold=1e9, points_per_side=2)(images, None, None)
    assert proposals.masks.shape[1] == 1 and not proposals.valid.any() and not proposals.masks.any()


def test_nothing_in_it_trains(model):
    proposer = SAM(model).train()
    assert not proposer.model.training and not list(proposer.trainable_parameters())
    assert proposer.iou_threshold == (0.8 if proposer.geometry.family.squashes else 0.88)


def test_weights_from_a_folder(kind, model, images, tmp_path):
    if kind == "mobile_sam":
        pytest.skip("It is read from its authors' file: test_mobile_sam.py.")
    model.save_pretrained(tmp_path)
    options = {key.upper(): value for key, value in OPEN.items()}
    loaded = PROPOSERS.build("SAM", {"PRETRAINED": str(tmp_path), **options})
    assert torch.equal(loaded(images, None, None).masks, SAM(model, **OPEN)(images, None, None).masks)


MEMORY = {
    "memory_attention_hidden_size": 16,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 16,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 16,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": 16,
    "memory_fuser_embed_dim": 16,
    "memory_fuser_intermediate_dim": 16,
    "memory_fuser_num_layers": 1,
}
RESAMPLER = {
    "perceiver_resampler_hidden_size": 8,
    "perceiver_resampler_mlp_intermediate_size": 16,
    "perceiver_resampler_num_layers": 1,
    "perceiver_resampler_attention_head_dim": 8,
}


@pytest.mark.parametrize(("video", "of_images"), [
    ("Sam2Video", "sam2"),
    ("EdgeTamVideo", "edgetam"),
    ("Sam3TrackerVideo", "sam3_tracker"),
    ("Sam3Video", "sam3_tracker"),
])  # fmt: skip
def test_of_a_video_model_the_part_for_images_is_read(tiny_sam, tiny_sam3, tmp_path, video, of_images):
    expected = tiny_sam(of_images)
    parts = expected.config.to_dict()
    for part in (parts["prompt_encoder_config"], parts["mask_decoder_config"]):
        del part["model_type"]
    shared = {name: parts[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    shared |= {"image_size": 64, **MEMORY, **(RESAMPLER if of_images == "edgetam" else {})}
    if video == "Sam3Video":
        tiny_sam3(tmp_path / "detector")
        detector = transformers.AutoConfig.from_pretrained(tmp_path / "detector").to_dict()
        tracker = transformers.Sam3TrackerVideoConfig(**shared).to_dict()
        shared = {"detector_config": detector, "tracker_config": tracker}
    config = getattr(transformers, f"{video}Config")(**shared)
    whole = with_noise(getattr(transformers, f"{video}Model")(config), 0.3, 0.6)
    whole.save_pretrained(tmp_path)
    loaded = load_sam(str(tmp_path))
    assert type(loaded) is type(expected)
    saved = {tensor.numpy().tobytes() for tensor in whole.state_dict().values()}
    assert all(tensor.numpy().tobytes() in saved for tensor in loaded.state_dict().values())


def test_bad_weights_are_named(tmp_path):
    with pytest.raises(
        UserError, match="download config.json, model.safetensors and .* from https://huggingface.co/facebo"
    ):
        load_sam("facebook/sam-vit-that-is-not-cached")
    with pytest.raises(UserError, match=f"folder {tmp_path} lacks a readable config.json"):
        load_sam(str(tmp_path))
    file = tmp_path / "sam_vit_h_4b8939.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="is a file, and not that of MobileSAM, .* is read from a folder"):
        load_sam(str(file))
    transformers.CLIPTextConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a model of the type 'clip_text_model': give a SAM model"):
        load_sam(str(tmp_path))


def test_a_library_too_old_for_a_model_is_named_with_its_version(tiny_sam, tmp_path, monkeypatch):
    tiny_sam("sam").save_pretrained(tmp_path)
    monkeypatch.setitem(FAMILIES, "sam", SAMFamily("SamOfTomorrowModel", "9.9"))
    installed = transformers.__version__
    with pytest.raises(UserError, match=f"SamOfTomorrowModel of transformers 9.9 or newer, and {installed} is inst"):
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
    with pytest.raises(UserError, match="runs SamModel, .*, Sam3TrackerModel of transformers, not a 'Linear'"):
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


@pytest.mark.gpu
def test_same_masks_on_the_gpu(model, images):
    expected = SAM(model, **OPEN)(images, None, None)
    on_gpu = SAM(model, **OPEN).cuda()(Images(images.pixels.cuda(), images.sizes), None, None)
    assert abs(on_gpu.masks.shape[1] - expected.masks.shape[1]) <= 1
