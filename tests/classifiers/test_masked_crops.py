"""The masked-crop classifier: which proposals it names, how, and what it trains."""

import pytest
import torch
import torch.nn.functional as F
from golden.runner import run_case

from maft.clip import clip_from_config
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.registry import CLASSIFIERS
from maft.structures import Images, Proposals, TextClassifier

SIDE, DIM, CLASSES, QUERIES = 32, 24, 5, 6


@pytest.fixture(scope="module")
def clip():
    described = {
        "embed_dim": DIM,
        "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": SIDE},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1},
    }
    return clip_from_config("small", described, quick_gelu=True)


def build(clip, **options):
    upper = {name.upper(): value for name, value in options.items()}
    return CLASSIFIERS.build("MaskedCrops", upper, BuildContext(clip, CLASSES, torch.nn.Identity))


def texts(void=True):
    rows = F.normalize(torch.randn(CLASSES, DIM), dim=-1)
    return TextClassifier(
        rows,
        torch.arange(CLASSES),
        CLASSES,
        F.normalize(torch.randn(1, DIM), dim=-1) if void else None,
        torch.ones(CLASSES, dtype=torch.bool),
    )


def batch():
    """Two images of different size; of the first one, proposal 1 is empty and proposal 4 is an unused slot."""
    images = Images.from_list([torch.rand(3, 40, 61) * 255, torch.rand(3, 64, 33) * 255])
    logits = F.interpolate(torch.randn(2, QUERIES, 4, 4) * 4, (16, 16), mode="bicubic")
    logits[0, 1] = -9.0
    valid = torch.ones(2, QUERIES, dtype=torch.bool)
    valid[0, 4] = False
    return images, Proposals(logits, images.padded_size, valid=valid)


def reference(images, proposals, clip, index, query, *, threshold=0.5):
    """One proposal the plain way; None when it is empty."""
    height, width = images.sizes[index]
    logits = F.interpolate(proposals.masks, images.padded_size, mode="bilinear", align_corners=False)
    mask = logits[index, query, :height, :width].sigmoid() > threshold
    if not mask.any() or not proposals.valid[index, query]:
        return None
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    pixels = images.pixels[index, :, :height, :width]
    # Background of CLIP's mean is zero after normalisation.
    normal = (pixels - clip.pixel_mean[:, None, None]) / clip.pixel_std[:, None, None] * mask
    crop = F.interpolate(normal[(slice(None), *window)][None], (SIDE, SIDE), mode="bicubic", align_corners=False)
    return clip.encode_image(crop)[0]


@torch.no_grad()
@pytest.mark.parametrize("per_chunk", [1, 4, 100])
def test_names_every_proposal_like_a_plain_loop(clip, per_chunk):
    classifier, text, (images, proposals) = build(clip, crops_per_chunk=per_chunk), texts(), batch()
    result = classifier(images, proposals, text, clip)
    assert result.has_void and result.logits.shape == (2, QUERIES, CLASSES + 1)
    for index in range(2):
        for query in range(QUERIES):
            expected = reference(images, proposals, clip, index, query)
            assert result.valid[index, query] == (expected is not None)
            if expected is None:
                assert (result.embeddings[index, query] == 0).all() and (result.logits[index, query] == 0).all()
            else:
                torch.testing.assert_close(result.embeddings[index, query], expected, atol=1e-4, rtol=1e-4)
                logits = text.logits(expected)
                torch.testing.assert_close(result.logits[index, query], logits, atol=1e-2, rtol=1e-3)
    assert not result.valid[0, 1] and not result.valid[0, 4] and result.valid.sum() >= 8


@torch.no_grad()
@pytest.mark.parametrize("depth", [0, 2])
def test_equal_regions_are_shown_to_clip_once(clip, depth, monkeypatch):
    classifier, text, (images, proposals) = build(clip, mask_prompt_depth=depth), texts(), batch()
    expected = classifier(images, proposals, text, clip).embeddings
    proposals.masks[0, 5], proposals.masks[1, 2] = proposals.masks[0, 3], proposals.masks[1, 0]
    patches, shown = clip.tower.patches, []
    monkeypatch.setattr(clip.tower, "patches", lambda pixels: shown.append(len(pixels)) or patches(pixels))
    found = classifier(images, proposals, text, clip)
    assert sum(shown) == found.valid.sum() - 2
    assert torch.equal(found.embeddings[0, 5], found.embeddings[0, 3])
    assert torch.equal(found.embeddings[1, 2], found.embeddings[1, 0])
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(found.embeddings[1, kept], expected[1, kept], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_valid_mask_and_a_single_one(clip):
    images, proposals = batch()
    for depth in (0, 2):
        classifier = build(clip, mask_prompt_depth=depth)
        empty = Proposals(torch.full_like(proposals.masks, -9.0), images.padded_size)
        result = classifier(images, empty, texts(), clip)
        assert not result.valid.any() and result.logits.shape == (2, QUERIES, CLASSES + 1)
        assert (result.logits == 0).all()
        empty.masks[1, 3, 2:5, 2:5] = 9.0
        result = classifier(images, empty, texts(), clip)
        assert result.valid.sum() == 1 and result.valid[1, 3] and (result.logits[1, 3] != 0).any()


@torch.no_grad()
def test_the_box_ends_where_the_padding_begins(clip):
    """Mask pixels on the padding belong to no image: the crop is that of the image alone."""
    image = torch.rand(3, 40, 61) * 255
    ones = torch.ones(1, 1, 64, 64)
    padded = Images.from_list([image])
    assert padded.padded_size == (64, 64)
    result = build(clip)(padded, Proposals(ones, (64, 64), are_logits=False), texts(), clip)
    exact = Images(image[None], [(40, 61)])
    other = build(clip)(exact, Proposals(ones[:, :, :40, :61], (40, 61), are_logits=False), texts(), clip)
    torch.testing.assert_close(result.embeddings, other.embeddings)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"fill": "zero"}, {"matting": True}, {"expand_ratio": 1.5}, {"mask_threshold": 0.9},
     {"resize_align_corners": True}, {"mask_prompt_depth": 1}],
)  # fmt: skip
def test_every_option_changes_what_clip_sees(clip, options):
    images, proposals = batch()
    plain = build(clip)(images, proposals, texts(), clip)
    other = build(clip, **options)(images, proposals, texts(), clip)
    both = plain.valid & other.valid
    assert both.any() and not torch.allclose(plain.embeddings[both], other.embeddings[both], atol=1e-4)


def test_input_size_is_clips_own_unless_given(clip):
    images, proposals = batch()
    assert build(clip).regions(images, proposals, 0, clip)[0].shape[-2:] == (SIDE, SIDE)
    assert build(clip, input_size=48).regions(images, proposals, 0, clip)[1].shape[-2:] == (48, 48)


def test_without_a_void_row(clip):
    images, proposals = batch()
    result = build(clip)(images, proposals, texts(void=False), clip)
    assert not result.has_void and result.logits.shape[-1] == CLASSES


@pytest.mark.parametrize(
    "train, depth, parts",
    [("none", 2, set()), ("prompts", 2, {"mask_prompts"}), ("tower", 0, {"visual"}), ("tower", 2, {"visual"}),
     ("all", 2, {"visual", "mask_prompts"})],
)  # fmt: skip
def test_only_what_the_rule_names_trains(clip, train, depth, parts, as_trained):
    classifier = as_trained(build(clip, train=train, mask_prompt_depth=depth))
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    assert {name.split(".")[0] for name, p in classifier.named_parameters() if p.requires_grad} == parts
    images, proposals = batch()
    loss = classifier(images, proposals, texts(), clip).logits.square().mean()
    if parts:
        optimizer = torch.optim.SGD(classifier.trainable_parameters(), lr=0.1)
        loss.backward()
        assert {name.split(".")[0] for name, p in classifier.named_parameters() if p.grad is not None} == parts
        optimizer.step()
    else:
        assert not loss.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


def test_whole_images_for_self_distillation(clip, as_trained):
    images, _ = batch()
    classifier = as_trained(build(clip, train="tower"))
    student, teacher = classifier.encode_image(images, clip), classifier.encode_image(images, clip, teacher=True)
    torch.testing.assert_close(student, teacher)
    assert student.requires_grad and not teacher.requires_grad
    with pytest.raises(UserError, match="TRAIN tower or all"):
        build(clip).encode_image(images, clip)


def test_prompts_start_random_and_a_copied_tower_as_clips(clip):
    assert build(clip, train="tower").starts_from_clip and not build(clip, mask_prompt_depth=1).starts_from_clip


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fill": "blur"}, "FILL is 'blur'; choose one of: mean, zero"),
        ({"train": "text"}, "TRAIN is 'text'; choose one of: none, prompts, tower, all"),
        ({"expand_ratio": 0.5}, "EXPAND_RATIO is 0.5, but it must be a number of at least 1"),
        ({"mask_threshold": 1.0}, "MASK_THRESHOLD is 1.0, but it must be a number of at least 0 and below 1"),
        ({"crops_per_chunk": 0}, "CROPS_PER_CHUNK is 0, but it must be a whole number of at least 1"),
        ({"train": "prompts"}, "MASK_PROMPT_DEPTH 0"),
        ({"mask_prompt_depth": 7}, "CLIP tower of 2 blocks"),
        ({"mask_treshold": 0.4}, "Did you mean MASK_THRESHOLD"),
    ],
)
def test_refusals(clip, options, message):
    with pytest.raises(UserError, match=message):
        build(clip, **options)


def test_autocast_agrees_with_float32(clip):
    classifier, text, (images, proposals) = build(clip, mask_prompt_depth=1), texts(), batch()
    exact = classifier(images, proposals, text, clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = classifier(images, proposals, text, clip)
    assert low.logits.dtype == torch.float32 and torch.equal(low.valid, exact.valid)
    cosine = F.cosine_similarity(low.embeddings.float(), exact.embeddings, dim=-1)[exact.valid]
    assert (cosine > 0.99).all()


def test_agrees_with_the_recording(golden_dir):
    result = run_case(golden_dir / "ovseg" / "crop_regions_mean_r10_t035.json")
    assert result.status == "pass", result.detail
