"""From a file of an official release to a checkpoint of ours: safetensors with the config beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from torch import Tensor

from maft.building import model_shapes
from maft.checkpoint.io import read_state_dict, write_safetensors
from maft.checkpoint.key_map import embedding_width, explain
from maft.checkpoint.loading import pruned_parts, unfit
from maft.checkpoint.official.released import RELEASES, convert_released, recognise
from maft.config import load_config, self_contained
from maft.errors import UserError, closest
from maft.files import write_text_atomic
from maft.zoo.table import entries

RELEASE_NAMES = {release.name.lower().replace(" ", "-"): release.name for release in RELEASES}
# (release, width of CLIP's joint space) -> the released model whose config describes every such file.
_ALIKE = {
    ("FreeSeg", 512): "freeseg",
    ("MAFT", 512): "maft-vitb16",
    ("MAFT", 768): "maft-vitl14",
    ("OVSeg", 512): "ovseg-r101c-vitb16",
    ("OVSeg", 768): "ovseg-swinb-vitl14",
}
# The first stage of MAFT ViT-L/14 was never released.
_UNRELEASED = {("FreeSeg", 768): "maft/freeseg_r101_vitl14_coco-stuff-171"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote: the two files, how many tensors, and of which release (empty for our own names)."""

    weights: Path
    config: Path
    tensors: int
    release: str


def convert(
    source: Path, output: Path, config: str | None = None, overrides: Sequence[str] = (), release: str = "auto"
) -> Converted:
    """Writes an official file, or a checkpoint of ours, as a checkpoint that needs nothing else.

    Every tensor has to have a counterpart of the same shape in the model of the config, and the other way round; only
    CLIP, or its image tower, may be missing, which the model then takes from its config.

    Args:
        output: a folder, or a file DIR/NAME.safetensors whose config becomes DIR/NAME.yaml.
        config: name or path of the config that describes the model; by default that of the release, by the name of the
            file or by what it holds.
        release: its name in small letters, ``mask-adapter``; or ``auto`` to tell by the parameter names.

    Raises:
        UserError: the file cannot be read, belongs to another release, has no known config, or differs from the model,
            tensor by tensor; then nothing is written.
    """
    state = read_state_dict(source)
    name = _release(release, state, source)
    if name:
        state = convert_released(state, name, str(source))
    cfg = _config(config, overrides, name, state, source.name)
    _check(cfg, state, source)
    weights = output if output.suffix == ".safetensors" else output / "model.safetensors"
    beside = weights.with_name("config.yaml") if weights.stem == "model" else weights.with_suffix(".yaml")
    write_safetensors(weights, state, {"format": "pt", "converted_from": name or "maft"})
    write_text_atomic(beside, self_contained(cfg).dump())
    if pruned := pruned_parts(state):
        logger.warning(
            "%s lacks %s*: the model takes it from MODEL.CLIP (%s), which is downloaded at its first use.",
            source.name, pruned[-1], cfg.MODEL.CLIP.PRETRAINED,
        )  # fmt: skip
    return Converted(weights, beside, len(state), name)


def _release(asked: str, state: dict[str, Tensor], source: Path) -> str:
    found = recognise(state) or ""
    if asked == "auto":
        return found
    if asked not in RELEASE_NAMES:
        known = ", ".join(RELEASE_NAMES)
        raise UserError(f"There is no release {asked!r}; known are {known}.{closest(asked, RELEASE_NAMES)}")
    if found and found != RELEASE_NAMES[asked]:
        raise UserError(f"{source} is a {found} checkpoint, not {RELEASE_NAMES[asked]}: leave out --from.")
    return RELEASE_NAMES[asked]


def _config(config: str | None, overrides: Sequence[str], release: str, state: dict[str, Tensor], file: str) -> CfgNode:
    if config is not None:
        return load_config(config, overrides)
    kind = release, embedding_width(state)
    if kind in _UNRELEASED:
        return load_config(_UNRELEASED[kind], overrides)
    # A file that keeps its official name is known by it; whether it fits is checked in any case.
    like = next((row for row in entries().values() if row.file == file), None) or entries().get(_ALIKE.get(kind, ""))
    if like is None:
        raise UserError(
            f"No config is known for {release or 'a checkpoint of ours'} with embedding width {kind[1]}: give the one "
            "that describes the model with --config-file."
        )
    return load_config(like.config, [*like.overrides, *overrides])


def _check(cfg: CfgNode, state: dict[str, Tensor], source: Path) -> None:
    expected = model_shapes(cfg)
    problems = unfit(expected, state)
    if problems:
        logger.error("%s", "\n".join(problems))
        reason = explain(expected, state) or "give the config it was trained with"
        raise UserError(f"{source} differs from the model in the {len(problems)} points above: {reason}.")
