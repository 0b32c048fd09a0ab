"""What comes out of an index is what went in, to the last bit."""

from dataclasses import replace

import pytest
import torch

from maft.building import build_model
from maft.index.format import Settings
from maft.index.looking import look
from maft.index.reading import StoredIndex
from maft.index.writing import writing_index
from maft.structures import EmbeddedMasks, Vocabulary, proposals_of_masks

WORDS = Vocabulary(("pear tree", "lake"))
MODELS = [
    ("Mask2Former", "IPCLIP", "tiny_vit"),
    ("Mask2Former", "MaskPooling", "tiny_convnext"),
    ("Mask2Former", "MaskAdapter", "tiny_convnext"),
    ("Mask2Former", "MaskedCrops", "tiny_vit"),
    ("Mask2Former on CLIP", "MAFTPlus", "tiny_convnext"),
    ("Mask2Former", "TextRegion", "tiny_vit"),
    ("MaskFormer", "none", "tiny_vit"),
]
OF_PROPOSALS = ("masks", "padded_size", "own_size", "are_logits", "align_corners", "valid", "queries", "class_logits")


def seen(cfg, file):
    """What an untrained model saw of two noisy pictures of different sizes."""
    model = build_model(cfg).eval()
    records = [
        {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "file_name": file, "height": 50, "width": 40}
        for size in ((96, 70), (64, 96))
    ]
    return model, [look(model, record, WORDS)[2] for record in records]


def kept(cfg, model, images, folder, **options):
    """The index of what was seen."""
    settings = Settings("a model", len(images), "files", images_per_shard=2, **options)
    with writing_index(folder, settings) as writer:
        for position, image in enumerate(images):
            writer.add(position, image)
        writer.finish(cfg, model, WORDS)
    return StoredIndex(folder)


def assert_same(one, other):
    """The same values, types and shapes; tensors are compared by `torch.equal`."""
    assert (one is None) == (other is None)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, EmbeddedMasks):
        assert_same(one.embeddings, other.embeddings)
        assert_same(one.valid, other.valid)
        assert one.context.keys() == other.context.keys()
        for name, (tensor,) in one.context.items():
            assert_same(tensor, other.context[name][0])
    else:
        assert one == other


def assert_same_image(one, other):
    for name in ("file", "digest", "output_size", "size", "embedded", "true_masks", "true_classes"):
        assert_same(getattr(one, name), getattr(other, name))
    for name in OF_PROPOSALS:
        assert_same(getattr(one.proposals, name), getattr(other.proposals, name))


@pytest.fixture
def file(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"any bytes have a hash")
    return str(tmp_path / "picture.png")


@pytest.mark.parametrize(("proposer", "classifier", "clip"), MODELS)
def test_everything_that_a_model_saw_comes_back(config, tmp_path, file, proposer, classifier, clip):
    cfg = config(proposer, classifier, clip)
    model, images = seen(cfg, file)
    index = kept(cfg, model, [*images, images[0]], tmp_path / "index")
    assert len(index) == 3 and [len(shard) for shard in index.shards()] == [2, 1]
    for place, image in enumerate([*images, images[0]]):
        assert_same_image(index.image(place), image)


def test_annotated_masks_come_back_with_their_context_where_it_differs(config, tmp_path, file):
    cfg = config("Mask2Former on CLIP", "MAFTPlus", "tiny_convnext")
    model, (first, second) = seen(cfg, file)
    truth = EmbeddedMasks(torch.randn(1, 3, 8), torch.tensor([[True, False, True]]), first.embedded.context)
    other = EmbeddedMasks(torch.randn(1, 2, 8), None, {"dense": [torch.randn(4, 2, 3)]})
    images = [
        replace(first, true_masks=truth, true_classes=(4, 0, 4)),
        second,
        replace(second, true_masks=other, true_classes=(1, 2)),
    ]
    index = kept(cfg, model, images, tmp_path / "index", true_masks=True)
    for place, image in enumerate(images):
        assert_same_image(index.image(place), image)


def test_masks_of_zeros_and_ones_are_exact_without_their_values(config, tmp_path, file):
    cfg = config("Mask2Former", "IPCLIP", "tiny_vit")
    model, (image, _) = seen(cfg, file)
    masks = torch.rand(3, 96, 70) > 0.5
    masks[1] = False
    batch = model.padded([{"image": torch.zeros(3, 96, 70)}])
    image = replace(image, proposals=proposals_of_masks([masks], batch), embedded=None)
    index = kept(cfg, model, [image], tmp_path / "index")
    assert_same_image(index.image(0), image)
    assert index.contents.bytes["values"] == 0


def test_binary_masks_are_the_insides_alone(config, tmp_path, file):
    cfg = config("Mask2Former", "IPCLIP", "tiny_vit")
    model, (image, _) = seen(cfg, file)
    found = kept(cfg, model, [image], tmp_path / "index", masks="binary").image(0).proposals
    assert not found.are_logits
    assert torch.equal(found.masks, (image.proposals.masks > 0).float())


def test_a_shard_gives_all_masks_at_once(config, tmp_path, file):
    cfg = config("Mask2Former", "MaskedCrops", "tiny_vit")
    model, images = seen(cfg, file)
    shard = kept(cfg, model, images, tmp_path / "index").shard(0)
    assert shard.masks == 12 and shard.image_of.tolist() == [0] * 6 + [1] * 6
    assert torch.equal(shard.embeddings, torch.cat([image.embedded.embeddings[0] for image in images]))
    assert torch.equal(shard.valid, torch.cat([image.embedded.valid[0] for image in images]))
    insides = [inside for image in images for inside in image.proposals.masks[0] > 0]
    assert shard.areas.tolist() == [int(inside.sum()) for inside in insides]


def test_what_an_index_holds_adds_up_to_its_files(index_folder):
    contents = StoredIndex(index_folder).contents
    files = [file.stat().st_size for file in (index_folder / "shards").iterdir()]
    assert sum(contents.bytes.values()) == sum(files) == sum(shard.bytes for shard in contents.shards)
    assert contents.images == 10 and contents.masks == 200
