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
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from maft.errors import UserError
from maft.files import unfinished_path, write_json_atomic, write_text_atomic
from maft.miniature.classes import miniature_classes
from maft.miniature.scene import IMAGE_SIZE, render_scene

DEFAULT_COUNTS = {"train": 4000, "val": 200}


def materialise(root: str | os.PathLike[str], split: str, count: int, *, seed: int = 0, progress: bool = False) -> Path:
    """Draw a split into ``root/split`` unless it is there already; the split appears whole or not at all.

    Args:
        root: the folder of this dataset, for example ``$DETECTRON2_DATASETS/miniature``.
        split: ``"train"`` or ``"val"``.
        count: number of images (about 100 MB and 15 s for 4000).
        seed: see :func:`maft.miniature.scene.render_scene`.
        progress: show a progress bar.

    Returns:
        ``root/split``.

    Raises:
        UserError: unknown split, fewer than 1 image, ``root/split`` holds something else than what is asked for, or
            ``root`` cannot be written to.
    """
    if split not in DEFAULT_COUNTS:
        raise UserError(f"The miniature dataset has no split {split!r}: choose one of {', '.join(DEFAULT_COUNTS)}.")
    if count < 1:
        raise UserError(f"The miniature dataset's split {split!r} needs at least 1 image, got {count}.")
    folder = Path(root) / split
    world = {"split": split, "count": count, "seed": seed, "size": IMAGE_SIZE, "drawing": _fingerprint(split, seed)}
    if folder.exists():
        _check_same(folder, world)
        return folder

    write_text_atomic(Path(root) / "classes.txt", "\n".join(miniature_classes().names) + "\n")
    try:
        with whole_folder(folder) as unfinished:
            _draw(unfinished, world, progress)
    except OSError as error:
        raise UserError(f"Cannot write the miniature dataset to {folder}: {error.strerror}.") from error
    _check_same(folder, world)
    return folder


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields a new folder that becomes ``target``, whole or not at all, when the block ends without an exception.

    Where another process was faster, its folder stays.
    """
    unfinished = unfinished_path(target)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        try:
            unfinished.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _draw(folder: Path, world: dict[str, Any], progress: bool) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in tqdm(
        range(world["count"]), desc=f"drawing {world['split']} scenes", disable=None if progress else True
    ):
        scene = render_scene(number, world["split"], world["seed"])
        name = f"{number:06d}.png"
        Image.fromarray(scene.image).save(folder / "images" / name, compress_level=1)
        Image.fromarray(scene.sem_seg).save(folder / "masks" / name)
        images.append({"id": number, "file_name": name, "height": IMAGE_SIZE, "width": IMAGE_SIZE})
        annotations.extend(
            {"id": number * len(scene.captions) + position, "image_id": number, "caption": caption}
            for position, caption in enumerate(scene.captions)
        )
    write_json_atomic(folder / "captions.json", {"images": images, "annotations": annotations})
    write_json_atomic(folder / "world.json", world)


def _fingerprint(split: str, seed: int) -> str:
    """Changes when the way scenes are drawn changes, so that files of an older version are not taken for new ones."""
    scene = render_scene(0, split, seed)
    content = scene.image.tobytes() + scene.sem_seg.tobytes() + "\n".join(scene.captions).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _check_same(folder: Path, world: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != world:
        holds = f"another miniature world ({found})" if found else "something else"
        raise UserError(f"{folder} holds {holds}, not {world}: remove that folder or choose another root.")
