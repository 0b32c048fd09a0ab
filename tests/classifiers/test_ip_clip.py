"""IP-CLIP: what a proposal's embedding depends on, what trains, and in which settings it runs."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from maft.classifiers.ip_clip import IPCLIP
from maft.clip import VocabularyEncoder, load_clip
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.layers.grid_masks import grid_probabilities
from maft.registry import CLASSIFIERS
from maft.structures import Images, Proposals, TextClassifier, Vocabulary


@pytest.fixture
def clip(vit_clip):
    clip = vit_clip()
    for parameter in clip.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return clip


@pytest.fixture
def text(clip):
    encoder = VocabularyEncoder(clip.embed_dim, clip.text_width, templates="single")
    with torch.no_grad():
        return encoder(Vocabulary(("cat", "dog", "tree")), clip)


@pytest.fixture
def images():
    pixels = [torch.rand(3, 60, 90) * 255, torch.rand(3, 64, 70) * 255]
    return Images.from_list(pixels, divisor=32)


def build(clip, **options) -> IPCLIP:
    options = {"start_layer": 2, "input_size": 48, **options}
    return CLASSIFIERS.build(
        "IPCLIP", {k.upper(): v for k, v in options.items()}, BuildContext(clip, 3, torch.nn.Identity)
    )


def proposals_of(images, number=5, **options):
    return Proposals(torch.randn(len(images.sizes), number, 16, 24) * 4, images.padded_size, **options)


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_class_rows_equal_one_sequence_under_one_mask(clip, start, size):
    tokens, grid = clip.tower.tokens(torch.randn(2, 3, *size), start, align_corners=True)
    visible = torch.rand(2, 5, grid[0] * grid[1]) > 0.6
    visible[0, 0], visible[1, 1] = False, True
    expected = clip.tower.class_rows_by_definition(tokens, grid, visible, start)
    rows = clip.tower.class_rows(tokens, grid, visible, start)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_proposals_are_encoded_as_the_paper_writes_it(clip, images, align_corners):
    classifier = build(clip, position_align_corners=align_corners)
    pixels, visible = classifier.prepare(images, clip), torch.rand(2, 5, 36) > 0.5
    tower = classifier.tower
    tokens, grid = tower.tokens(pixels, classifier.start_layer, align_corners=align_corners)
    expected = tower.project(tower.class_rows_by_definition(tokens, grid, visible, classifier.start_layer))
    torch.testing.assert_close(classifier.encode_proposals(tower, pixels, visible), expected, rtol=1e-4, atol=1e-4)


def test_recomputing_the_blocks_changes_neither_values_nor_gradients(clip):
    visual, visible = clip.visual, torch.rand(1, 3, 16) > 0.5
    gradients = []
    for checkpointing in (False, True):
        visual.requires_grad_(True).zero_grad()
        embeddings = clip.tower.encode_masked(torch.ones(1, 3, 32, 32), visible, 0, checkpointing=checkpointing)
        embeddings.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in visual.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@torch.no_grad()
@pytest.mark.parametrize("input_size", [48, None])
@pytest.mark.parametrize("number", [0, 1, 5])
def test_shapes_for_any_number_of_proposals_and_any_grid(clip, text, images, input_size, number):
    result = build(clip, input_size=input_size)(images, proposals_of(images, number), text, clip)
    assert result.logits.shape == (2, number, 4) and result.class_logits.shape == (2, number, 3)
    assert result.embeddings.shape == (2, number, clip.embed_dim)
    assert result.logits.isfinite().all()


@torch.no_grad()
def test_proposals_do_not_see_each_other(clip, text, images):
    classifier, proposals = build(clip), proposals_of(images)
    expected = classifier(images, proposals, text, clip).logits
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = Proposals(proposals.masks[:, order], images.padded_size)
    torch.testing.assert_close(
        classifier(images, permuted, text, clip).logits, expected[:, order], rtol=1e-4, atol=1e-3
    )
    alone = Proposals(proposals.masks[:, 2:3], images.padded_size)
    torch.testing.assert_close(classifier(images, alone, text, clip).logits, expected[:, 2:3], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(clip, text, images):
    classifier, proposals = build(clip), proposals_of(images)
    together = classifier(images, proposals, text, clip).logits
    alone = classifier(Images(images.pixels[1:], images.sizes[1:]), proposals.image(1), text, clip).logits
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_an_empty_mask_is_well_defined_and_a_full_one_sees_everything(clip, images):
    classifier = build(clip, start_layer=3)
    pixels = classifier.prepare(images, clip)
    visible = torch.zeros(2, 2, 36, dtype=torch.bool)
    visible[:, 1] = True
    embeddings = classifier.encode_proposals(clip.tower, pixels, visible)
    assert embeddings.isfinite().all()
    # With every patch visible in the last block alone, a class row is the class token itself.
    whole = clip.tower.encode(pixels, align_corners=True)
    torch.testing.assert_close(embeddings[:, 1], whole, rtol=1e-4, atol=1e-4)
    assert (embeddings[:, 0] - embeddings[:, 1]).abs().max() > 1e-2


@torch.no_grad()
def test_the_start_layer_is_the_start_layer(clip, text, images):
    proposals = proposals_of(images)
    logits = [build(clip, start_layer=layer)(images, proposals, text, clip).logits for layer in range(4)]
    for one, other in itertools.combinations(logits, 2):
        assert (one - other).abs().max() > 1e-2


@pytest.mark.parametrize("layer", [4, 8])
def test_a_start_layer_outside_the_tower_is_refused(clip, layer):
    with pytest.raises(UserError, match=rf"START_LAYER is {layer}, but .* has blocks 0 to 3"):
        build(clip, start_layer=layer)


POOLS = ["ViT-B-16-SigLIP2", "PE-Core-B-16", "coca_ViT-B-32", "ViT-L-14-CLIPA", "ViTamin-L"]


@pytest.mark.parametrize("name", POOLS)
def test_where_masks_act_in_the_pool_there_is_no_start_layer(shrunk_clip, name):
    assert build(shrunk_clip(name), start_layer=None).start_layer == 0
    with pytest.raises(UserError, match=rf"START_LAYER is 2, but masks act in the pool of the image tower of {name}"):
        build(shrunk_clip(name))


@pytest.mark.parametrize("name", [*POOLS, "EVA02-B-16", "EVA02-E-14", "MobileCLIP2-B"])
def test_other_towers_name_proposals_train_and_are_saved(shrunk_clip, images, as_trained, name):
    clip = shrunk_clip(name)
    options = {"start_layer": None if name in POOLS else 1, "input_size": 96}
    classifier, proposals = as_trained(build(clip, **options)), proposals_of(images)
    rows = F.normalize(torch.randn(3, clip.embed_dim), dim=-1)
    text = TextClassifier(rows, torch.arange(3), 3, None, torch.ones(3, dtype=torch.bool))
    first = classifier(images, proposals, text, clip)
    assert first.logits.shape == (2, 5, 3) and (first.embeddings[:, 0] - first.embeddings[:, 1]).abs().max() > 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = classifier(images, proposals, text, clip)
    assert F.cosine_similarity(mixed.embeddings.float(), first.embeddings, dim=-1).min() > 0.98
    first.logits.square().sum().backward()
    tuned = list(classifier.trainable_parameters())
    assert tuned and all(p.grad is not None and p.grad.isfinite().all() for p in tuned)
    assert all(parameter.grad is None for parameter in clip.parameters())
    with torch.no_grad():
        for parameter in tuned:
            parameter.add_(0.05 * torch.randn_like(parameter))
        other = build(clip, **options)
        other.load_state_dict(classifier.state_dict())
        changed = classifier(images, proposals, text, clip).logits
        torch.testing.assert_close(other(images, proposals, text, clip).logits, changed)
        assert (changed - first.logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": "everything"}, r"TRAIN is 'everything'; choose one of: attention_and_norms, all, none\."),
        ({"start_layer": -1}, r"START_LAYER is -1, but it must be a whole number of at least 0 or None\."),
        ({"input_size": 0}, r"INPUT_SIZE is 0, but it must be a whole number of at least 1 and at most 8192 or None\."),
        ({"input_size": 7}, r"INPUT_SIZE is 7, less than one patch of a small ViT, 8\."),
        ({"mask_threshold": 1.5}, r"MASK_THRESHOLD is 1.5, but it must be a number of at least 0 and at most 1\."),
        ({"start_layers": 3}, "no option 'START_LAYERS'.*Did you mean START_LAYER"),
    ],
)
def test_options_are_checked(clip, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(clip, **options)


def test_a_tower_that_is_no_vit_is_refused():
    with pytest.raises(UserError, match=r"IPCLIP does not work with.*attention pool.*MaskPooling"):
        build(load_clip("RN50", "openai", device="meta"))


def test_only_attention_and_norms_train_and_clip_is_a_separate_copy(clip, text, images, as_trained):
    classifier = as_trained(build(clip))
    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    per_block = {f"attn.{part}" for part in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")}
    per_block |= {f"{norm}.{part}" for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    expected = {f"visual.transformer.resblocks.{block}.{name}" for block in range(4) for name in per_block}
    assert trained == expected | {"visual.ln_post.weight", "visual.ln_post.bias"}
    classifier(images, proposals_of(images), text, clip).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.trainable_parameters())
    assert all(parameter.grad is None for parameter in clip.parameters())
    whole = build(clip, train="all")
    assert list(map(id, whole.trainable_parameters())) == list(map(id, whole.parameters()))


@torch.no_grad()
def test_a_frozen_classifier_runs_the_shared_tower(clip, text, images):
    classifier, proposals = build(clip, train="none"), proposals_of(images)
    assert not classifier.state_dict()
    expected = build(clip)(images, proposals, text, clip).logits
    torch.testing.assert_close(classifier(images, proposals, text, clip).logits, expected)


@torch.no_grad()
def test_student_and_teacher_agree_before_training(clip, images):
    classifier = build(clip)
    student, teacher = classifier.encode_image(images, clip), classifier.encode_image(images, clip, teacher=True)
    torch.testing.assert_close(student, teacher)
    classifier.visual.ln_post.bias += 1
    assert (classifier.encode_image(images, clip) - teacher).abs().max() > 0.1


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(16, 24), (64, 96), (100, 7), (1, 1)])
@pytest.mark.parametrize("are_logits", [False, True])
def test_grid_values_equal_two_full_resizes(align_corners, size, are_logits):
    masks = torch.randn(2, 3, *size) if are_logits else torch.rand(2, 3, *size)
    proposals = Proposals(masks, (64, 96), are_logits=are_logits, align_corners=align_corners)
    for grid, crop in (((6, 6), None), ((8, 12), None), ((5, 9), (50, 71)), ((70, 100), None)):
        full = proposals.probabilities((64, 96))
        full = full if crop is None else full[:, :, : crop[0], : crop[1]]
        expected = F.interpolate(full, size=grid, mode="bilinear", align_corners=False)
        torch.testing.assert_close(grid_probabilities(proposals, grid, crop), expected, rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_cropped_masks_and_empty_proposals_follow_freeseg(clip, text, images):
    proposals = proposals_of(images)
    proposals.masks[0, 1], proposals.masks[1, 2] = -9.0, -9.0
    proposals.masks[1, 2, :, -3:] = 9.0  # only in the padding of the second image
    classifier = build(clip, train="none", mask_crop=True, drop_empty=True)
    result = classifier(images, proposals, text, clip)
    expected = torch.ones(2, 5, dtype=torch.bool)
    expected[0, 1] = expected[1, 2] = False
    assert torch.equal(result.valid, expected)
    visible = classifier.visible_patches(images, proposals, (6, 6))
    cropped = proposals.probabilities(images.padded_size)[1:, :, :64, :70]
    reference = F.interpolate(cropped, size=(6, 6), mode="bilinear", align_corners=False) >= 0.5
    assert torch.equal(visible[1:], reference.flatten(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_and_trains(clip, text, images, dtype, as_trained):
    classifier, proposals = as_trained(build(clip, activation_checkpointing=True)), proposals_of(images)
    plain = classifier(images, proposals, text, clip)
    with torch.autocast("cpu", dtype=dtype):
        mixed = classifier(images, proposals, text, clip)
    assert mixed.logits.dtype == torch.float32
    similarity = F.cosine_similarity(mixed.embeddings.float(), plain.embeddings, dim=-1)
    assert similarity.min() > 0.99
    mixed.logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in classifier.trainable_parameters())


class Exported(torch.nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels, visible):
        return self.classifier.encode_proposals(self.classifier.tower, pixels, visible)


@torch.no_grad()
def test_the_tower_exports_with_any_number_of_proposals(clip):
    module = Exported(build(clip)).eval()
    pixels, visible = torch.randn(2, 3, 48, 48), torch.rand(2, 5, 36) > 0.5
    program = torch.export.export(
        module, (pixels, visible), dynamic_shapes={"pixels": None, "visible": {1: torch.export.Dim("proposals")}}
    )
    for number in (5, 11):
        visible = torch.rand(2, number, 36) > 0.5
        torch.testing.assert_close(program.module()(pixels, visible), module(pixels, visible), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_tower_compiles_without_graph_breaks(clip):
    module = Exported(build(clip)).eval()
    pixels, visible = torch.randn(2, 3, 48, 48), torch.rand(2, 5, 36) > 0.5
    # The eager backend traces the whole graph and needs no C++ compiler.
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixels, visible), module(pixels, visible))


@pytest.mark.gpu
@torch.no_grad()
def test_cuda_agrees_with_the_cpu(clip, text, images):
    classifier, proposals = build(clip), proposals_of(images)
    expected = classifier(images, proposals, text, clip).logits
    classifier, clip = classifier.cuda(), clip.cuda()
    images = Images(images.pixels.cuda(), images.sizes)
    proposals = Proposals(proposals.masks.cuda(), proposals.padded_size)
    text = VocabularyEncoder(clip.embed_dim, clip.text_width, templates="single", void=False)(
        Vocabulary(("cat", "dog", "tree")), clip
    )
    result = classifier(images, proposals, text, clip).logits
    torch.testing.assert_close(result.cpu(), expected[..., :3], rtol=1e-3, atol=1e-2)
