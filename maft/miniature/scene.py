"""A scene of the miniature world: textured ground, a few objects on it, a label for every pixel, captions.

Everything is integer arithmetic on a random stream that NumPy keeps stable, so a scene is bit-identical on every
machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maft.errors import UserError
from maft.miniature.classes import miniature_classes
from maft.miniature.drawing import IMAGE_SIZE, OUTLINES, TEXTURES, Draws, local_coordinates, surface

MAX_OBJECTS = 4
# "pretrain" feeds the tiny CLIPs and "probe" measures them, so that "train" and "val" stay new to CLIP
_STREAMS = {"train": 0, "val": 1, "pretrain": 2, "probe": 3}
_ATTEMPTS = 40
TEMPLATES = miniature_classes().templates


@dataclass(frozen=True)
class Scene:
    """One drawn image with its annotations.

    Attributes:
        image: (96, 96, 3) uint8 RGB.
        sem_seg: (96, 96) uint8 class ids 0..23; every pixel has a label.
        things: class ids of the objects, each class at most once, in drawing order (later ones are in front).
        stuff: class ids of the one or two background regions.
        captions: five captions, one for each template.
    """

    image: NDArray[np.uint8]
    sem_seg: NDArray[np.uint8]
    things: tuple[int, ...]
    stuff: tuple[int, ...]
    captions: tuple[str, ...]


def render_scene(index: int, split: str, seed: int = 0, *, max_objects: int = MAX_OBJECTS) -> Scene:
    """Draw scene number ``index`` of a split; about 2 ms. Objects have a diameter of 25 to 46 % of the image.

    Args:
        index: 0 or more.
        split: ``"train"``, ``"val"``, ``"pretrain"`` (for the tiny CLIPs) or ``"probe"`` (to measure them).
        seed: another seed is another world of scenes with the same classes.
        max_objects: objects per scene are drawn from 1 to this number, at most 4.

    Raises:
        UserError: unknown split, or a number out of its range.
    """
    if split not in _STREAMS:
        raise UserError(f"The miniature world has no split {split!r}: choose one of {', '.join(_STREAMS)}.")
    if index < 0 or seed < 0:
        raise UserError(f"A scene is numbered by integers from 0, got index {index} and seed {seed}.")
    if not 1 <= max_objects <= MAX_OBJECTS:
        raise UserError(f"A scene needs 1 to {MAX_OBJECTS} objects, got {max_objects}.")
    draws = Draws(seed, _STREAMS[split], index)
    canvas, sem_seg, stuff = _ground(draws)
    objects = _objects(draws, canvas, sem_seg, draws.integer(1, max_objects))
    canvas += draws.array(-12, 12, (3,)) + draws.array(-13, 13, canvas.shape)
    names = miniature_classes().names
    captions = write_captions([(names[i], how_big) for i, how_big in objects], [names[i] for i in stuff], draws)
    things = tuple(class_id for class_id, _ in objects)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), sem_seg, things, tuple(stuff), captions)


def _ground(draws: Draws) -> tuple[NDArray[np.int32], NDArray[np.uint8], list[int]]:
    classes = miniature_classes()
    chosen = draws.choose(len(classes.stuff), draws.integer(1, 2))
    ids = [len(classes.things) + position for position in chosen]
    canvas = TEXTURES[classes.stuff[chosen[0]]](draws)
    sem_seg = np.full((IMAGE_SIZE, IMAGE_SIZE), ids[0], dtype=np.uint8)
    if len(ids) == 2:
        row, column = (48 + draws.integer(-16, 16) for _ in range(2))
        _, across = local_coordinates(row, column, IMAGE_SIZE, draws.integer(0, 59))
        second = across > 0
        canvas = np.where(second[:, :, None], TEXTURES[classes.stuff[chosen[1]]](draws), canvas)
        sem_seg[second] = ids[1]
    return canvas.astype(np.int32), sem_seg, ids


def _objects(draws: Draws, canvas: NDArray[np.int32], sem_seg: NDArray[np.uint8], count: int) -> list[tuple[int, str]]:
    """Draw objects into the canvas and the labels; returns class id and size word of each."""
    things = miniature_classes().things
    placed: list[tuple[int, int, int]] = []
    drawn = []
    for class_id in draws.choose(len(things), count):
        place = _free_place(draws, count, placed)
        if place is None:
            continue
        placed.append(place)
        row, column, radius = place
        drawn.append((class_id, "small" if radius < 14 else "medium" if radius < 17 else "large"))
        thing = things[class_id]
        u, v = local_coordinates(row, column, radius, draws.integer(0, 59))
        inside = OUTLINES[thing.shape](u, v)
        np.copyto(canvas, surface(thing.colour, thing.pattern, u, draws), where=inside[:, :, None])
        sem_seg[inside] = class_id
    return drawn


def _free_place(draws: Draws, count: int, placed: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Row, column and radius of a place that overlaps earlier objects a little at most; None when there is no room."""
    for _ in range(_ATTEMPTS):
        radius = draws.integer(12, 24 - 2 * count)
        row, column = (draws.integer(radius - 2, IMAGE_SIZE + 1 - radius) for _ in range(2))
        if all(100 * ((row - r) ** 2 + (column - c) ** 2) >= 81 * (radius + other) ** 2 for r, c, other in placed):
            return row, column, radius
    return None


def write_captions(things: list[tuple[str, str]], stuff: list[str], draws: Draws) -> tuple[str, ...]:
    """One caption for each template.

    Every thing is always named, in an order of its own for each caption, one time in four with its size; the
    background is left out of one caption in five, as people do.

    Args:
        things: name and size ("small", "medium" or "large") of each object, at least one.
        stuff: names of the background regions, at least one.
    """
    captions = []
    for template in TEMPLATES:
        order = draws.choose(len(things), len(things))
        listing = _listing([_noun_phrase(*things[position], draws) for position in order])
        if draws.integer(0, 4) > 0:
            ground = [f"the {stuff[position]}" for position in draws.choose(len(stuff), len(stuff))]
            listing = f"{listing} on {_listing(ground)}"
        captions.append(template.format(listing))
    return tuple(captions)


def _noun_phrase(name: str, size: str, draws: Draws) -> str:
    phrase = f"{size} {name}" if draws.integer(0, 3) == 0 else name
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _listing(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
