"""Universal segmenters on tiny random models of every family: the same as transformers makes of them."""

import importlib
import json

import pytest
import torch
import torch.nn.functional as F
from universal_families import FAMILIES, LABELS, save_universal, tiny_processor

from maft.conformance import context, ground_truth, texts, tiny_clip
from maft.errors import UserError
from maft.proposals import universal_images, universal_models
from maft.proposals.universal_images import OUTSIDE
from maft.proposals.universal_models import load_universal
from maft.registry import PROPOSERS
from maft.structures import Images

transformers = pytest.importorskip("transformers", minversion="5.4")

CLIP = tiny_clip("tiny_vit")
NAMES = tuple(LABELS.values())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_universal(kind, tmp_path_factory.mktemp(kind)) for kind in FAMILIES}


@pytest.fixture(params=FAMILIES)
def kind(request):
    return request.param


def build(folder, **options):
    options = {"PRETRAINED": str(folder), "NUM_POINTS": 0, **options}
    return PROPOSERS.build("Universal", options, context(CLIP)).eval()


@torch.no_grad()
def propose(proposer, images, names=NAMES):
    return proposer(images, texts(CLIP, names), CLIP)


def picture(*size):
    torch.manual_seed(sum(size))
    return torch.randint(0, 256, (3, *size)).float()


def of_library(folder, kind, image):
    """The library's own processor, and its model's output for one picture."""
    processor = type(tiny_processor(kind)).from_pretrained(
        folder, **({"class_info_file": None} if kind == "oneformer" else {})
    )
    model = load_universal(str(folder), "panoptic").network
    # Without being asked for hidden states, MaskFormer fails where it has losses of earlier layers.
    model.config.use_auxiliary_loss = kind != "maskformer"
    pixels = image.to(torch.uint8)
    with torch.no_grad():
        if kind == "videomt":
            return processor, model(**processor(videos=pixels[None], return_tensors="pt"))
        if kind != "oneformer":
            return processor, model(**processor(images=[pixels], return_tensors="pt"))
        whole = transformers.OneFormerProcessor(processor, transformers.CLIPTokenizer.from_pretrained(folder))
        return processor, model(**whole(images=[pixels], task_inputs=["panoptic"], return_tensors="pt"))


@pytest.fixture
def before_thresholds(monkeypatch, kind):
    """What the library's panoptic post-processing is about to threshold: masks of all queries, scores and labels."""
    seen = []
    module = {"eomt_dinov3": "eomt"}.get(kind, kind)
    if kind == "videomt":
        resize = transformers.VideomtVideoProcessor._resize_mask_logits

        def record(self, *arguments):
            seen.append(resize(self, *arguments)[0])
            return [seen[-1]]

        monkeypatch.setattr(transformers.VideomtVideoProcessor, "_resize_mask_logits", record)
    else:
        place = importlib.import_module(f"transformers.models.{module}.image_processing_{module}")
        remove = place.remove_low_and_no_objects
        monkeypatch.setattr(
            place, "remove_low_and_no_objects", lambda masks, *rest: seen.append(masks) or remove(masks, *rest)
        )
    return seen


def test_masks_are_those_of_the_librarys_panoptic_segmentation(kind, folders, before_thresholds):
    image = picture(64, 96)
    processor, output = of_library(folders[kind], kind, image)
    processor.post_process_panoptic_segmentation(output, target_sizes=[(64, 96)])
    ours = propose(build(folders[kind], CLASS_SCORES="labels"), Images.from_list([image]))
    (theirs,) = before_thresholds
    if kind in ("maskformer", "mask2former", "oneformer"):
        found = ours.masks[0].sigmoid()
    else:
        found = F.interpolate(ours.masks, (64, 96), mode="bilinear")[0]
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ours.class_logits.softmax(-1), output.class_queries_logits.softmax(-1), rtol=0, atol=1e-5
    )
    assert theirs.std() > 0.05 and ours.valid is None


@pytest.mark.parametrize("kind", ["maskformer", "mask2former", "oneformer", "videomt"])
def test_masks_and_classes_make_the_librarys_semantic_segmentation(kind, folders):
    image = picture(64, 96)
    processor, output = of_library(folders[kind], kind, image)
    (theirs,) = processor.post_process_semantic_segmentation(
        output, target_sizes=[(64, 96)], return_segmentation_scores=True
    )
    ours = propose(build(folders[kind], CLASS_SCORES="labels"), Images.from_list([image]))
    scores = torch.einsum("bqc,bqhw->bchw", ours.class_logits.softmax(-1)[..., :-1], ours.masks.sigmoid())
    scores = F.interpolate(scores, (64, 96), mode="bilinear")[0]
    torch.testing.assert_close(scores, theirs.segmentation_scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 160), (160, 64), (64, 64)])
@pytest.mark.parametrize("kind", ["eomt", "eomt_dinov3"])
def test_pieces_of_an_image_make_the_librarys_semantic_segmentation(kind, size, tmp_path):
    options = {"do_split_image": True, "do_pad": False, "size": {"shortest_edge": 64, "longest_edge": None}}
    folder, image = save_universal(kind, tmp_path, **options), picture(*size)
    processor, output = of_library(folder, kind, image)
    (theirs,) = processor.post_process_semantic_segmentation(
        output, target_sizes=[size], return_segmentation_scores=True
    )
    ours = propose(build(folder, CLASS_SCORES="labels"), Images.from_list([image]))
    views = max(size) // 64 + (max(size) % 64 > 0)
    assert ours.masks.shape[1] == 5 * views
    # The library averages where pieces overlap; a mask is worth what it is in each.
    pieces = (ours.masks != OUTSIDE).unflatten(1, (views, 5)).any(2).sum(1)
    scores = torch.einsum("bqc,bqhw->bchw", ours.class_logits.softmax(-1)[..., :-1], ours.masks.sigmoid()) / pieces
    torch.testing.assert_close(scores[0], theirs.segmentation_scores, rtol=0, atol=1e-5)


def test_images_of_two_sizes_are_as_each_alone(kind, folders):
    proposer, sizes = build(folders[kind]), [(64, 96), (80, 50)]
    images = Images.from_list([picture(*size) for size in sizes])
    both = propose(proposer, images)
    assert both.masks.shape[2:] == both.padded_size == images.padded_size
    for index, (height, width) in enumerate(sizes):
        # A batch that the image fills, in which its masks keep the size that the model gives them.
        alone = propose(proposer, Images(images.pixels[index : index + 1, :, :height, :width], [(height, width)]))
        expected = F.interpolate(alone.masks, (height, width), mode="bilinear")[0]
        torch.testing.assert_close(both.masks[index, :, :height, :width], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(both.class_logits[index], alone.class_logits[0], rtol=0, atol=1e-5)
        assert (both.masks[index, :, height:] == OUTSIDE).all() and (both.masks[index, :, :, width:] == OUTSIDE).all()


def test_an_image_in_fewer_pieces_gets_slots_that_are_not_valid(tmp_path):
    options = {"do_split_image": True, "do_pad": False, "size": {"shortest_edge": 64, "longest_edge": None}}
    proposer = build(save_universal("eomt", tmp_path, **options))
    found = propose(proposer, Images.from_list([picture(64, 64), picture(64, 128)]))
    assert found.valid.tolist() == [[True] * 5 + [False] * 5, [True] * 10]
    assert (found.masks[0, 5:] == OUTSIDE).all()
    assert (found.masks[1, :5, :, 64:] == OUTSIDE).all() and (found.masks[1, 5:, :, :64] == OUTSIDE).all()


@pytest.mark.parametrize(
    ("kind", "class_scores"),
    [*((kind, "objectness") for kind in FAMILIES), ("eomt", "labels"), ("eomt", "texts"), ("oneformer", "texts")],
)
def test_training_lowers_the_loss_of_earlier_layers_too(kind, folders, class_scores):
    proposer = build(folders[kind], CLASS_SCORES=class_scores).train()
    images = Images.from_list([picture(64, 64), picture(64, 64)])
    targets = ground_truth(images)
    optimizer = torch.optim.AdamW(proposer.trainable_parameters(), lr=2e-3)

    def losses():
        text = texts(CLIP, NAMES)
        torch.manual_seed(0)
        return proposer.losses(proposer(images, text, CLIP), text, targets)

    first = losses()
    assert ("loss_dice_1" in first) == (kind != "videomt")
    for _ in range(3):
        optimizer.zero_grad()
        sum(losses().values()).backward()
        optimizer.step()
    assert sum(losses().values()) < 0.97 * sum(first.values())


def test_masks_keep_the_models_own_size_in_training(kind, folders):
    proposer = build(folders[kind]).train()
    found = proposer(Images.from_list([picture(64, 64)]), texts(CLIP, NAMES), CLIP)
    assert found.masks.shape == (1, 5, 16, 16) and found.masks.requires_grad


def test_a_trained_head_is_what_brings_no_weights(folders):
    assert build(folders["eomt"]).brings_weights and not build(folders["eomt"], CLASS_SCORES="texts").brings_weights
    found = propose(build(folders["oneformer"], CLASS_SCORES="texts"), Images.from_list([picture(64, 64)]))
    assert found.class_logits.shape == (1, 5, 4)


def test_oneformer_is_told_its_task(folders):
    images = Images.from_list([picture(64, 64)])
    masks = [propose(build(folders["oneformer"], TASK=task), images).masks for task in ("panoptic", "instance")]
    assert (masks[0] - masks[1]).abs().max() > 1e-4
    with pytest.raises(UserError, match="TASK is instance, but only OneFormer is told a task"):
        build(folders["eomt"], TASK="instance")


def test_shapes_are_known_without_weights(kind, folders):
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build(folders[kind]).state_dict().items()}
    assert shapes == {name: value.shape for name, value in build(folders[kind]).state_dict().items()}


def test_without_settings_of_the_processor_the_usual_ones_hold_and_are_told(kind, folders, tmp_path, caplog):
    for file in folders[kind].iterdir():
        if "processor" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    preparation = build(tmp_path).model.preparation
    assert f"{tmp_path} has no preprocessor_config.json" in caplog.text
    side = 64 if preparation.fixed else 800
    assert preparation(picture(40, 40)).pixels.shape[-2:] == (side, side)


def test_what_cannot_be_used_is_told(folders, tmp_path):
    transformers.DetrConfig(use_timm_backbone=False, backbone_config=transformers.ResNetConfig()).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match="holds a model of the type 'detr': give a model with masks of queries \\(eomt"):
        build(tmp_path)
    with pytest.raises(
        UserError, match="neither a folder nor in the Hugging Face cache, and cannot be downloaded here"
    ):
        build("facebook/mask2former-that-is-not-cached")
    for file in folders["oneformer"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(UserError, match="lacks the tokenizer that tells OneFormer its task: download vocab.json"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("eomt", {"do_pad": False}, "makes images of 16x64 pixels, and the model takes 64x64 alone"),
        ("eomt", {"size": {"height": 64, "width": 96}}, "fails on a picture of 24x96 pixels \\("),
        ("eomt", {"size": {"shortest_edge": -5, "longest_edge": 3}}, "fails on a picture of 24x96 pixels \\("),
        ("videomt", {"image_std": [0, 0, 0]}, "makes values that are not finite"),
        ("videomt", {"resample": 99}, "fails on a picture of 24x96 pixels \\(99\\)"),
        ("maskformer", {"size": 64}, "fails on a picture of 24x96 pixels \\(Size must contain"),
        ("mask2former", {"pad_size": {"height": 32, "width": 32}}, "fails on a picture of 24x96 .* are negative"),
        ("mask2former", {"image_mean": "x"}, "fails on a picture of 24x96 pixels \\("),
        ("oneformer", {"rescale_factor": 0}, "fails on a picture of 24x96 pixels \\("),
    ],
)
def test_settings_of_a_processor_that_do_not_fit_are_told_when_it_is_built(kind, settings, reason, folders, tmp_path):
    for file in folders[kind].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (file,) = (file for file in tmp_path.iterdir() if "processor" in file.name)
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(UserError, match=f"image processor of .* {tmp_path} {reason}.*: .* preprocessor_config.json"):
        build(tmp_path)
    file.write_text("{")
    with pytest.raises(UserError, match="image processor of .* cannot be read .*: download its preprocessor_config"):
        build(tmp_path)


def test_a_picture_that_stays_too_small_for_a_pyramid_is_told(tmp_path):
    proposer = build(save_universal("mask2former", tmp_path, do_resize=False))
    assert propose(proposer, Images.from_list([picture(32, 33)])).masks.shape[1] == 5
    with pytest.raises(UserError, match="makes 20x32 pixels of a picture of 20x32: .* preprocessor_config.json"):
        propose(proposer, Images.from_list([picture(20, 32)]))


@pytest.mark.parametrize("size", [(64, 640), (33, 100)])
def test_masks_of_many_pieces_are_coarser_rather_than_too_large(size, tmp_path, monkeypatch):
    options = {"do_split_image": True, "do_pad": False, "size": {"shortest_edge": 64, "longest_edge": None}}
    proposer, image = build(save_universal("eomt", tmp_path, **options)), picture(*size)
    batches = [Images.from_list([image]), Images.from_list([image, picture(64, 64)])]
    exact, seen = [propose(proposer, images) for images in batches], []
    monkeypatch.setattr(universal_images, "MOST_VALUES", exact[0].masks[0].numel() // 4)
    monkeypatch.setattr(universal_models, "_VIEWS_AT_ONCE", 3)
    proposer.model.network.register_forward_pre_hook(
        lambda network, positional, named: seen.append(len(named["pixel_values"])), with_kwargs=True
    )
    for images, whole in zip(batches, exact, strict=True):
        found = propose(proposer, images)
        torch.testing.assert_close(found.class_logits, whole.class_logits)
        assert found.masks.shape[2] < whole.masks.shape[2]
        assert found.masks[0].numel() <= 1.1 * universal_images.MOST_VALUES
        same = (found.resized(whole.masks.shape[-2:]) > 0) == (whole.masks > 0)
        assert same.float().mean() > 0.9
    assert max(seen) == 3 and sum(seen) > 3


def test_a_picture_of_too_many_pieces_is_told(tmp_path):
    options = {"do_split_image": True, "do_pad": False, "size": {"shortest_edge": 64, "longest_edge": None}}
    proposer = build(save_universal("eomt", tmp_path, **options))
    with pytest.raises(UserError, match="cuts a picture of 1x2000 pixels into 2000 pieces, more than 32: cut it"):
        propose(proposer, Images.from_list([picture(1, 2000)]))


def test_labels_need_names(folders):
    text = texts(CLIP, NAMES)
    text.vocabulary = None
    images = Images.from_list([picture(64, 64)])
    with pytest.raises(UserError, match="this vocabulary has none: set MODEL.PROPOSER.Universal.CLASS_SCORES"):
        build(folders["eomt"], CLASS_SCORES="labels")(images, text, CLIP)
    assert build(folders["eomt"])(images, text, CLIP).class_logits.shape == (1, 5, 4)


def test_the_library_and_its_release_are_named_where_a_family_is_newer(folders, tmp_path, monkeypatch):
    for kind, release in (("eomt_dinov3", "5.1"), ("videomt", "5.4")):
        family = universal_models.FAMILIES[kind]
        assert family.since == release and hasattr(transformers, family.model)
    values = json.loads((folders["videomt"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values))
    newer = universal_models.UniversalFamily("FutureForUniversalSegmentation", "9.9")
    monkeypatch.setitem(universal_models.FAMILIES, "videomt", newer)
    with pytest.raises(UserError, match="needs FutureForUniversalSegmentation of transformers 9.9 or newer, and"):
        build(tmp_path)
