"""The miniature world as files, so that real loaders and mappers read it like any other dataset.

<root>/classes.txt                      24 names in class id order
<root>/{train,val}/images/000000.png    RGB
<root>/{train,val}/masks/000000.png     class ids 0..23, no ignored pixel
<root>/{train,val}/captions.json        COCO captions format, five captions an image
<root>/{train,val}/world.json           what was drawn
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from maft.errors import UserError
from maft.files import write_json_atomic, write_text_atomic
from maft.miniature.classes import miniature_classes
from maft.miniature.scene import IMAGE_SIZE, render_scene

DEFAULT_COUNTS = {"train": 4000, "val": 200}


def materialise(
    root: str | os.PathLike[str],
    split: str,
    count: int | None = None,
    *,
    seed: int = 0,
    size: int = IMAGE_SIZE,
    progress: bool = False,
) -> Path:
    """Draw a split into ``root/split`` unless it is there already; the split appears whole or not at all.

    Args:
        root: the folder of this dataset, for example ``$DETECTRON2_DATASETS/miniature``.
        split: ``"train"`` or ``"val"``.
        count: number of images, default 4000 and 200 (about 100 MB and 15 s for 4000).
        seed, size: see :func:`maft.miniature.scene.render_scene`.
        progress: show a progress bar.

    Returns:
        ``root/split``.

    Raises:
        UserError: unknown split, fewer than 1 image, ``root/split`` holds something else than what is asked for, or
            ``root`` cannot be written to.
    """
    if split not in DEFAULT_COUNTS:
        raise UserError(f"The miniature dataset has no split {split!r}: choose one of {', '.join(DEFAULT_COUNTS)}.")
    count = DEFAULT_COUNTS[split] if count is None else count
    if count < 1:
        raise UserError(f"The miniature dataset's split {split!r} needs at least 1 image, got {count}.")
    folder = Path(root) / split
    world = {"split": split, "count": count, "seed": seed, "size": size, "drawing": _fingerprint(split, seed, size)}
    if folder.exists():
        _check_same(folder, world)
        return folder

    write_text_atomic(Path(root) / "classes.txt", "\n".join(miniature_classes().names) + "\n")
    unfinished = Path(root) / f".{split}.{secrets.token_hex(4)}.tmp"
    try:
        _draw(unfinished, world, progress)
        try:
            unfinished.rename(folder)
        except OSError:
            # Another process may have drawn the same split meanwhile; anything else is an error.
            if not folder.exists():
                raise
            _check_same(folder, world)
    except OSError as error:
        raise UserError(f"Cannot write the miniature dataset to {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def load_items(root: str | os.PathLike[str], split: str) -> list[dict[str, Any]]:
    """Detectron2 dicts of a split on disk: file_name, sem_seg_file_name, image_id, height, width.

    Raises:
        UserError: the split has not been drawn there.
    """
    folder = Path(root) / split
    world = _read_world(folder)
    if world is None:
        raise UserError(
            f"The miniature dataset is not in {folder}: draw it with "
            f"'python datasets/prepare_miniature.py --root {Path(root)}'."
        )
    return [
        {
            "file_name": str(folder / "images" / f"{number:06d}.png"),
            "sem_seg_file_name": str(folder / "masks" / f"{number:06d}.png"),
            "image_id": number,
            "height": world["size"],
            "width": world["size"],
        }
        for number in range(world["count"])
    ]


def _draw(folder: Path, world: dict[str, Any], progress: bool) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    numbers: Iterable[int] = range(world["count"])
    if progress:
        from tqdm import tqdm

        numbers = tqdm(numbers, desc=f"drawing {world['split']} scenes", total=world["count"])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in numbers:
        scene = render_scene(number, world["split"], world["seed"], size=world["size"])
        name = f"{number:06d}.png"
        Image.fromarray(scene.image).save(folder / "images" / name, compress_level=1)
        Image.fromarray(scene.sem_seg).save(folder / "masks" / name)
        images.append({"id": number, "file_name": name, "height": world["size"], "width": world["size"]})
        annotations.extend(
            {"id": number * len(scene.captions) + position, "image_id": number, "caption": caption}
            for position, caption in enumerate(scene.captions)
        )
    write_json_atomic(folder / "captions.json", {"images": images, "annotations": annotations})
    write_json_atomic(folder / "world.json", world)


def _fingerprint(split: str, seed: int, size: int) -> str:
    """Changes when the way scenes are drawn changes, so that files of an older version are not taken for new ones."""
    scene = render_scene(0, split, seed, size=size)
    content = scene.image.tobytes() + scene.sem_seg.tobytes() + "\n".join(scene.captions).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _read_world(folder: Path) -> dict[str, Any] | None:
    try:
        world = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return world if isinstance(world, dict) and {"count", "size"} <= world.keys() else None


def _check_same(folder: Path, world: dict[str, Any]) -> None:
    found = _read_world(folder)
    if found != world:
        holds = f"another miniature world ({found})" if found else "something else"
        raise UserError(f"{folder} holds {holds}, not {world}: remove that folder or choose another root.")
