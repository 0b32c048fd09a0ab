"""The shipped tiny CLIPs know the miniature world, and their recipe runs."""

import json
from pathlib import Path

import open_clip
import pretraining
import pytest
import torch
from safetensors import safe_open

from maft.miniature import miniature_classes, render_scene
from maft.miniature.tokenizer import WordTokenizer
from maft.miniature.towers import TINY_CLIPS, tiny_clip_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=TINY_CLIPS)
def folder(request) -> Path:
    return tiny_clip_folder(request.param)


@pytest.fixture(scope="module")
def model(folder):
    return open_clip.create_model(f"local-dir:{folder}").eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return WordTokenizer.from_file(folder / "tokenizer.json")


def draw(count, **options):
    """Scenes that no tiny CLIP was trained or measured on."""
    scenes = [render_scene(number, "val", **options) for number in range(count)]
    return scenes, torch.stack([torch.from_numpy(scene.image) for scene in scenes]).permute(0, 3, 1, 2)


def test_folder_is_complete_small_and_records_its_making(folder, tokenizer):
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    assert (folder / "model.safetensors").stat().st_size < 4e6
    config = json.loads((folder / "open_clip_config.json").read_text())
    recipe = config.pop("pretraining")["recipe"]
    assert config == pretraining.open_clip_config(folder.name.removeprefix("tiny_"), tokenizer, 96)
    assert recipe["dtype"] in ("bfloat16", "float32") and recipe["steps"] > 0 and recipe["scenes"] > 0


def test_tokenizer_fits_the_text_tower_and_knows_every_class_and_caption(folder, model, tokenizer, recwarn):
    assert model.vocab_size == tokenizer.vocab_size
    assert model.context_length == tokenizer.context_length
    scenes, _ = draw(200)
    rows = tokenizer([caption for scene in scenes for caption in scene.captions])
    tokenizer([f"This is a photo of a {size} {miniature_classes().names[0]}." for size in ("small", "medium", "large")])
    assert not [warning for warning in recwarn if "letter by letter" in str(warning.message)]
    # No caption is cut: every row keeps room for its last word.
    words = [len(c.replace(",", "").split()) for scene in scenes for c in scene.captions]
    assert (rows != 0).sum(dim=1).tolist() == [count + 2 for count in words]


def test_zero_shot_accuracy_is_what_was_recorded(folder, model, tokenizer):
    classes = miniature_classes()
    scenes, images = draw(200, max_objects=1)
    recorded = json.loads((folder / "open_clip_config.json").read_text())["pretraining"]["results"]
    names = [thing.name for thing in classes.things]
    found = pretraining.zero_shot_predictions(model, tokenizer, images, names, CPU)
    accuracy = (found == torch.tensor([scene.things[0] for scene in scenes])).float().mean().item()
    assert accuracy == pytest.approx(recorded["zero-shot, things"], abs=0.08)
    assert accuracy > {"tiny_vit": 0.86, "tiny_convnext": 0.6, "tiny_siglip": 0.45}[folder.name]
    uniform = [number for number, scene in enumerate(scenes) if len(scene.stuff) == 1]
    truth = torch.tensor([scenes[number].stuff[0] - len(names) for number in uniform])
    found = pretraining.zero_shot_predictions(model, tokenizer, images[uniform], classes.stuff, CPU)
    assert (found == truth).float().mean() > 0.85


def test_dense_features_of_the_convnext_are_aligned_with_text():
    folder = tiny_clip_folder("tiny_convnext")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = WordTokenizer.from_file(folder / "tokenizer.json")
    scenes, images = draw(60)
    trunk, projection = model.visual.trunk, model.visual.head
    with torch.no_grad():
        dense = trunk.norm_pre(trunk.stages(trunk.stem(pretraining.normalise(model, images))))
        texts = pretraining.encode_texts(
            model, tokenizer([f"a photo of a {name}." for name in miniature_classes().names]), CPU
        )
        right = []
        for features, scene in zip(dense, scenes, strict=True):
            labels = torch.from_numpy(scene.sem_seg)
            for class_id in scene.things:
                mask = (labels == class_id).float()[None, None]
                weight = torch.nn.functional.interpolate(mask, features.shape[-2:], mode="area")[0]
                pooled = (features * weight).sum(dim=(1, 2)) / weight.sum()
                embedding = projection(trunk.head(pooled.view(1, -1, 1, 1)))
                right.append((embedding @ texts.T).argmax().item() == class_id)
    assert sum(right) / len(right) > 0.5  # 24 classes: chance is 0.04


def test_siglip_reads_pairs_by_its_own_scale_and_bias():
    folder = tiny_clip_folder("tiny_siglip")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    assert model.visual.trunk.cls_token is None and model.visual.trunk.attn_pool is not None
    scenes, images = draw(64)
    captions = WordTokenizer.from_file(folder / "tokenizer.json")([scene.captions[0] for scene in scenes])
    with torch.no_grad():
        embeddings, texts, scale, bias = model(pretraining.normalise(model, images), captions)
        probabilities = (scale * embeddings @ texts.T + bias).sigmoid()
    true = torch.eye(64, dtype=torch.bool)
    assert probabilities[true].mean() > 10 * probabilities[~true].mean()
    # What a batch of training has of true pairs is what the tower expects of them, about.
    assert 0.3 / 64 < probabilities.mean() < 3 / 64


@pytest.mark.parametrize("architecture", sorted(pretraining.RECIPES))
def test_training_is_repeatable_and_lowers_the_loss(architecture):
    tokenizer = WordTokenizer.from_file(tiny_clip_folder("tiny_vit") / "tokenizer.json")
    recipe = pretraining.PretrainingRecipe(steps=8, batch_size=16, warmup_steps=1, seed=1)
    scenes, images = draw(16)
    tokens = torch.stack([tokenizer(scene.captions) for scene in scenes])
    config = pretraining.open_clip_config(architecture, tokenizer, 96)

    def losses():
        model = pretraining.build_untrained(config, recipe)
        return list(pretraining.train(model, images, tokens, recipe, device=CPU, dtype=torch.float32))

    first = losses()
    assert len(first) == 8 and min(first[4:]) < first[0]
    assert losses() == first
