"""The training of pretrain_tiny_clip.py, on drawn scenes and their captions."""

import argparse
import dataclasses
import re
import time

import pretraining
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from maft.errors import UserError
from maft.files import atomic_path, write_json_atomic
from maft.miniature import IMAGE_SIZE, Scene, miniature_classes, render_scene
from maft.miniature.scene import TEMPLATES
from maft.miniature.tokenizer import WordTokenizer

_LONGEST_CAPTION = 26  # Four objects with their sizes on two grounds, start and end included.
_SIZE_WORDS = ("small", "medium", "large")


def pretrain(arguments: argparse.Namespace) -> None:
    """Does what the command line of pretrain_tiny_clip.py says.

    Raises:
        UserError: an unknown kind of tower, no step, or fewer scenes than a batch.
    """
    if arguments.arch not in pretraining.RECIPES:
        raise UserError(f"--arch {arguments.arch} is none of {', '.join(pretraining.RECIPES)}.")
    recipe = dataclasses.replace(pretraining.RECIPES[arguments.arch], seed=arguments.seed)
    if arguments.steps is not None:
        recipe = dataclasses.replace(recipe, steps=arguments.steps)
    if recipe.steps < 1 or arguments.scenes < recipe.batch_size:
        raise UserError(f"Training needs at least 1 step and {recipe.batch_size} scenes (one batch).")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    fast = "bfloat16" if pretraining.bfloat16_is_fast(device) else "float32"
    dtype = arguments.dtype or fast

    started = time.perf_counter()
    tokenizer = WordTokenizer(_vocabulary(), _LONGEST_CAPTION)
    config = pretraining.open_clip_config(arguments.arch, tokenizer, IMAGE_SIZE)
    model = pretraining.build_untrained(config, recipe)
    scenes = _scenes("pretrain", arguments.scenes, arguments.seed)
    tokens = torch.stack([tokenizer(scene.captions) for scene in scenes])
    steps = pretraining.train(model, _pixels(scenes), tokens, recipe, device=device, dtype=getattr(torch, dtype))
    title = f"tiny {arguments.arch} in {dtype}"
    with tqdm(steps, total=recipe.steps, desc=title, mininterval=2, disable=None) as progress:
        for loss in progress:
            progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
    results = _measure(model, tokenizer, arguments.seed, device)
    seconds = time.perf_counter() - started
    for name, value in results.items():
        print(f"{name}: {value:.3f}")
    print(f"{seconds:.0f} s, {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M parameters")

    record = dataclasses.asdict(recipe) | {"scenes": arguments.scenes, "dtype": dtype, "device": device.type}
    weights = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    write_json_atomic(arguments.output / "tokenizer.json", tokenizer.to_json())
    with atomic_path(arguments.output / "model.safetensors") as path:
        path.write_bytes(save(weights, metadata={"format": "pt"}))
    write_json_atomic(
        arguments.output / "open_clip_config.json",
        config | {"pretraining": {"recipe": record, "results": results, "seconds": round(seconds)}},
    )
    print(f"written to {arguments.output}")


def _vocabulary() -> list[str]:
    words = [*re.findall("[a-z]+", " ".join(TEMPLATES)), "an", "on", "the", "and", *_SIZE_WORDS]
    return sorted(set(words) | set(miniature_classes().names))


def _scenes(split: str, count: int, seed: int, max_objects: int = 4) -> list[Scene]:
    numbers = tqdm(range(count), desc=f"drawing {split} scenes", mininterval=2, disable=None)
    return [render_scene(number, split, seed, max_objects=max_objects) for number in numbers]


def _pixels(scenes: list[Scene]) -> Tensor:
    return torch.stack([torch.from_numpy(scene.image) for scene in scenes]).permute(0, 3, 1, 2).contiguous()


def _measure(model: torch.nn.Module, tokenizer: WordTokenizer, seed: int, device: torch.device) -> dict[str, float]:
    """Zero-shot accuracy on images of one object (things among things, stuff among stuff) and retrieval."""
    classes = miniature_classes()
    single = _scenes("probe", 1000, seed, max_objects=1)
    images = _pixels(single)
    things = torch.tensor([scene.things[0] for scene in single])
    names = [thing.name for thing in classes.things]
    right = pretraining.zero_shot_predictions(model, tokenizer, images, names, device) == things
    results = {"zero-shot, things": right.float().mean().item()}
    for rotation, unseen in enumerate(classes.unseen):
        of_unseen = torch.isin(things, torch.tensor(classes.ids(unseen)))
        results[f"zero-shot, unseen things of split {rotation}"] = right[of_unseen].float().mean().item()
    uniform = torch.tensor([len(scene.stuff) == 1 for scene in single])
    stuff = torch.tensor([scene.stuff[0] for scene in single])[uniform] - len(names)
    found = pretraining.zero_shot_predictions(model, tokenizer, images[uniform], classes.stuff, device)
    results["zero-shot, stuff"] = (found == stuff).float().mean().item()
    several = _scenes("probe", 256, seed)
    captions = tokenizer([scene.captions[0] for scene in several])
    results["retrieval, recall at 1 of 256"] = pretraining.retrieval_recall(model, _pixels(several), captions, device)
    return results
