"""What the miner of mask-noun pairs writes: regions, one shard an image, and in the end one table.

<output>/settings.json                   what was asked for; another question needs another folder
<output>/regions/000/<image>_<mask>.png  RGBA, the alpha channel is the region's mask (0 or 255)
<output>/shards/000/<image>.json         the pairs of one image, written when its regions are
<output>/pairs.tsv                       columns filepath, title, image, score; paths relative to the table
<output>/statistics.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor

from maft.errors import UserError, first_line, shown
from maft.files import atomic_path, read_json, write_json_atomic, write_text_atomic

IMAGES_PER_FOLDER = 1000
COLUMNS = ("filepath", "title", "image", "score")

# Pairs and unique nouns that the paper counts, by (source of the masks, captions per image; 0: ground-truth names).
PAPER = {
    ("ground_truth", 0): ("965 K", "171"),
    ("ground_truth", 1): ("440 K", "12 K"),
    ("proposals", 1): ("440 K", "12 K"),
    ("proposals", 5): ("1.3 M", "27 K"),
}


@dataclass(frozen=True)
class Pair:
    """One region and its noun.

    Attributes:
        filepath: the region's file, relative to the table.
        title: the noun.
        image: stem of the image's file name.
        score: cosine of region and noun by CLIP; None where the name is given by annotation.
    """

    filepath: str
    title: str
    image: str
    score: float | None
    # What was written by another version is no shard.
    __pydantic_config__ = ConfigDict(extra="forbid")


_SHARD = TypeAdapter(list[Pair])
_SETTINGS = TypeAdapter(dict[str, Any])


def best_masks(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """For each noun the most similar mask; a mask may serve several nouns, as in OVSeg.

    Args:
        similarity: (M, N) similarity of masks and nouns, M at least 1.

    Returns:
        (N,) the similarities, and (N,) int64 indices of the masks.
    """
    best = similarity.max(dim=0)
    return best.values, best.indices


class MiningFolder:
    """The output folder of the miner.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def claim(self, settings: dict[str, Any]) -> None:
        """Writes the settings, or compares them with those of the run that is continued.

        Args:
            settings: everything that decides the result; JSON can express it.

        Raises:
            UserError: the folder holds the results of other settings, or of unknown ones.
        """
        file, settings = self.root / "settings.json", json.loads(json.dumps(settings))
        if not file.exists() and not (self.root / "shards").exists():
            write_json_atomic(file, settings)
            return
        try:
            known = _SETTINGS.validate_python(read_json(file))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{file} cannot be read ({first_line(error)}), so that what {self.root} was mined with is unknown: "
                "choose another folder, or remove it."
            ) from error
        different = sorted(key for key in known.keys() | settings.keys() if known.get(key) != settings.get(key))
        if different:
            key = different[0]
            raise UserError(
                f"{self.root} was mined with other settings ({key}: {shown(known.get(key))}, now "
                f"{shown(settings.get(key))}): choose another folder, or remove it."
            )

    def done(self, position: int, image: str) -> bool:
        """Whether the pairs of an image are complete."""
        return self._shard(position, image).is_file()

    def save(
        self, position: int, image: str, regions: Tensor, masks: Tensor, chosen: Sequence[tuple[int, str, float | None]]
    ) -> None:
        """Writes the regions that serve a noun, then the image's shard.

        Args:
            position: number of the image in the whole run.
            regions: (M, 3, s, s) uint8 RGB.
            masks: (M, s, s) bool.
            chosen: (index of the mask, noun, score) of each pair.
        """
        folder = f"{position // IMAGES_PER_FOLDER:03d}"
        pairs = []
        written: dict[int, str] = {}
        for index, noun, score in chosen:
            if index not in written:
                written[index] = f"regions/{folder}/{image}_{index:03d}.png"
                write_region(self.root / written[index], regions[index], masks[index])
            pairs.append(Pair(written[index], noun, image, None if score is None else round(score, 4)))
        write_text_atomic(self._shard(position, image), json.dumps([asdict(pair) for pair in pairs]))

    def collect(self, images: Sequence[str]) -> list[Pair]:
        """Reads the shards of all images and writes the table; the same whatever process wrote which shard."""
        pairs: list[Pair] = []
        for position, image in enumerate(images):
            shard = self._shard(position, image)
            try:
                pairs.extend(_SHARD.validate_json(shard.read_bytes(), strict=True))
            except (OSError, ValueError) as error:
                raise UserError(f"{shard} cannot be read ({first_line(error)}): remove it and mine again.") from error
        write_table(self.root / "pairs.tsv", pairs)
        return pairs

    def _shard(self, position: int, image: str) -> Path:
        return self.root / "shards" / f"{position // IMAGES_PER_FOLDER:03d}" / f"{image}.json"


def write_region(path: Path, region: Tensor, mask: Tensor) -> None:
    """Writes a region (3, s, s) uint8 and its mask (s, s) bool as one RGBA file; the background keeps its colour."""
    alpha = mask[None].to(torch.uint8) * 255
    pixels = torch.cat([region, alpha]).permute(1, 2, 0).contiguous().numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, compress_level=1)


def write_table(path: Path, pairs: Iterable[Pair]) -> None:
    """Writes pairs as tab-separated text with a header line, readable by OVSeg's own training as well."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write("\t".join(COLUMNS) + "\n")
        for pair in pairs:
            score = "" if pair.score is None else f"{pair.score:.4f}"
            stream.write(f"{pair.filepath}\t{pair.title}\t{pair.image}\t{score}\n")


def statistics(pairs: Sequence[Pair], images: int) -> dict[str, float]:
    """Counts of a table: images, pairs, unique nouns, regions, pairs per image, images without a pair."""
    return {
        "images": images,
        "pairs": len(pairs),
        "unique_nouns": len({pair.title for pair in pairs}),
        "regions": len({pair.filepath for pair in pairs}),
        "pairs_per_image": round(len(pairs) / images, 3) if images else 0.0,
        "images_without_pair": images - len({pair.image for pair in pairs}),
    }
