"""Where a CLIP comes from: an open_clip tag, a folder, a repository of the Hugging Face hub, or a weights file."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor

from maft.checkpoint.io import read_state_dict
from maft.clip.conversion import config_from_transformers
from maft.clip.hub import HUB, hub_file
from maft.clip.weights import WEIGHT_FILES, download_weights, has_quick_gelu, inner_clip
from maft.errors import UserError, closest, shown
from maft.files import read_json
from maft.miniature.towers import TINY_CLIPS, tiny_clip_folder

QUICK_GELU_SUFFIX = "-quickgelu"
RANDOM = "random"
_HUB_PREFIX = "hf-hub:"
_DESCRIPTIONS = ("open_clip_config.json", "config.json")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What is known of a CLIP before anything is built.

    Attributes:
        config: open_clip's ``model_cfg``.
        options: what else `maft.clip.clip_from_config` takes of it.
        file: of its weights, where it is known without a download.
        tag: open_clip's entry for a download.
        repository: of the hub, for a download.
        state: the weights, where they had to be looked at.
    """

    config: Mapping[str, Any]
    options: dict[str, Any]
    file: Path | None = None
    tag: Mapping[str, Any] = field(default_factory=dict)
    repository: str = ""
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def weights(self, name: str, pretrained: str) -> tuple[str, Mapping[str, Tensor]]:
        """What messages call the weights, and the weights from CLIP's own root; downloads them if they must be."""
        if self.file:
            if not self.file.is_file():
                raise UserError(
                    f"The folder {self.file.parent} of MODEL.CLIP.NAME holds no weights: put one of "
                    f"{', '.join(WEIGHT_FILES)} there, or name a file under MODEL.CLIP.PRETRAINED."
                )
            return str(self.file), self.state or inner_clip(read_state_dict(self.file), str(self.file))
        if self.repository:
            file = hub_file(
                self.repository, WEIGHT_FILES, f"the weights of CLIP {name}", _fetch_advice(self.repository)
            )
        else:
            file = download_weights(name, pretrained, self.tag)
        title = f"The {pretrained} weights of CLIP {name}" if pretrained else str(file)
        return title, inner_clip(read_state_dict(file), str(file))


def clip_source(name: str, pretrained: str) -> str:
    """What the weights are that ``MODEL.CLIP`` names, in words that end a sentence."""
    if pretrained == RANDOM:
        return f"of {name}, untrained (random)"
    if pretrained:
        return f"of {name}, {pretrained}"
    return f"of the shipped {name}" if name in TINY_CLIPS else f"of {name}"


def find_source(name: str, pretrained: str, weights: Mapping[str, Tensor] | None) -> Source:
    """Looks a CLIP up; of what is downloaded, a repository's description alone is fetched here.

    Args:
        name, pretrained: see `maft.clip.load_clip`.
        weights: those that it will get, which are then not searched for.

    Raises:
        UserError: see `maft.clip.load_clip`.
    """
    if name in TINY_CLIPS:
        return _from_folder(name, tiny_clip_folder(name), pretrained if weights is None else "")
    if name.startswith(_HUB_PREFIX):
        return _from_hub(name, name.removeprefix(_HUB_PREFIX), pretrained if weights is None else "")
    folder = Path(name)
    if name and any(os.path.isfile(folder / description) for description in _DESCRIPTIONS):
        return _from_folder(name, folder, pretrained if weights is None else "")
    if name and os.path.isdir(folder) and name not in open_clip.list_models():
        raise UserError(
            f"The folder {name} in MODEL.CLIP.NAME has no open_clip_config.json (nor a config.json of the "
            "transformers library): download it from the model's page too."
        )
    return _from_architecture(name, pretrained, weights)


def _from_folder(name: str, folder: Path, pretrained: str) -> Source:
    description = next(folder / file for file in _DESCRIPTIONS if (folder / file).is_file())
    config, statistics = _described(description)
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), folder / WEIGHT_FILES[0])
    if pretrained not in ("", RANDOM):
        file = _given_file(name, pretrained)
    return Source(config, {"quick_gelu": bool(config.get("quick_gelu", False)), "folder": folder, **statistics}, file)


def _from_hub(name: str, repository: str, pretrained: str) -> Source:
    description = hub_file(repository, _DESCRIPTIONS, f"the description of CLIP {name}", _fetch_advice(repository))
    config, statistics = _described(description)
    options = {"quick_gelu": bool(config.get("quick_gelu", False)), "folder": description.parent, **statistics}
    if pretrained not in ("", RANDOM):
        return Source(config, options, _given_file(name, pretrained))
    return Source(config, options, repository=repository)


def _fetch_advice(repository: str) -> str:
    return f"fetch the files of {HUB}/{repository}/tree/main into a folder, and set MODEL.CLIP.NAME to it"


def _given_file(name: str, pretrained: str) -> Path:
    file = Path(pretrained)
    if not os.path.isfile(file):
        raise UserError(
            f"MODEL.CLIP.PRETRAINED is {pretrained!r}, which is no file, and {name} brings its own weights: "
            'set it to "" for those, or to a weights file.'
        )
    return file


def _described(description: Path) -> tuple[dict[str, Any], dict[str, tuple[float, ...]]]:
    """The ``model_cfg`` and the pixel statistics of a description."""
    try:
        described = read_json(description)
        if description.name == _DESCRIPTIONS[0]:
            config = dict(described["model_cfg"])
            if not all(isinstance(config.get(part), dict) for part in ("vision_cfg", "text_cfg")):
                raise KeyError("vision_cfg")
            return config, _statistics(described.get("preprocess_cfg") or {}, description)
        pixels = description.with_name("preprocessor_config.json")
        preprocessing = read_json(pixels) if pixels.is_file() else {}
        found = {key: preprocessing.get(f"image_{key}") for key in ("mean", "std")}
        return config_from_transformers(described, str(description)), _statistics(found, pixels)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{description} is not an open_clip model description: model_cfg is missing or unreadable."
        ) from error


def _from_architecture(name: str, pretrained: str, weights: Mapping[str, Tensor] | None) -> Source:
    base = name.removesuffix(QUICK_GELU_SUFFIX)
    config = open_clip.get_model_config(base) if base in open_clip.list_models() else None
    if config is None:
        raise UserError(
            f"Unknown CLIP {name!r} in MODEL.CLIP.NAME: it is neither an open_clip architecture nor a folder with "
            f"open_clip_config.json.{closest(name, open_clip.list_models())}"
        )
    tags = list(open_clip.list_pretrained_tags_by_model(base))
    if not pretrained:
        raise UserError(
            f"MODEL.CLIP.PRETRAINED is empty and {name} has no weights of its own: give an open_clip tag such as "
            f"{tags[0] if tags else 'openai'}, a weights file, or random."
        )
    if pretrained in tags:
        tag = get_pretrained_cfg(base, pretrained)
        return Source(config, _options_of(tag), tag=tag)
    origin, _, path = pretrained.partition("=")
    if origin not in tags or os.path.isfile(pretrained):
        origin, path = "", pretrained
    file, state = None, weights or {}
    # Weights at hand were tuned from a file that need not exist here.
    if pretrained != RANDOM and weights is None:
        file = Path(path)
        if not os.path.isfile(file):
            raise UserError(
                f"MODEL.CLIP.PRETRAINED {path!r} is neither a file nor a tag of {base}; its tags are: "
                f"{', '.join(tags) or 'none'}.{closest(path, tags)}"
            )
        state = inner_clip(read_state_dict(file), path)
    if origin:
        return Source(config, _options_of(get_pretrained_cfg(base, origin)), file, state=state)
    if pretrained != RANDOM and "openai" in tags and has_quick_gelu(state):
        return Source(config, _options_of(get_pretrained_cfg(base, "openai")), file, state=state)
    statistics = _family_statistics(name, base, tags, must_be_known=bool(state) and pretrained != RANDOM)
    return Source(config, {"quick_gelu": name != base, **statistics}, file, state=state)


def _options_of(tag: Mapping[str, Any]) -> dict[str, Any]:
    return {"quick_gelu": bool(tag.get("quick_gelu", False)), **_statistics(tag, None)}


def _family_statistics(name: str, base: str, tags: list[str], *, must_be_known: bool) -> dict[str, tuple[float, ...]]:
    """The pixel statistics of all published weights of an architecture, for a file of which nothing else is known.

    Raises:
        UserError: the published weights differ in them, and ``must_be_known``.
    """
    by_values: dict[tuple[Any, ...], list[str]] = {}
    for tag in tags:
        statistics = _statistics(get_pretrained_cfg(base, tag), None)
        by_values.setdefault((statistics.get("mean"), statistics.get("std")), []).append(tag)
    if len(by_values) > 1 and must_be_known:
        rarest = min(by_values.values(), key=len)
        raise UserError(
            f"The published weights of {name} were trained with different pixel statistics ({', '.join(rarest)} with "
            "others than the rest), and MODEL.CLIP.PRETRAINED names a file alone: say which of them it comes from, as "
            f"in {rarest[0]}=FILE or {next(tag for tag in tags if tag not in rarest)}=FILE."
        )
    if not by_values:
        log.info("open_clip lists no weights of %s: its pixels are normalised with OpenAI's mean and deviation.", name)
        return {}
    return _statistics(get_pretrained_cfg(base, max(by_values.values(), key=len)[0]), None)


def _statistics(described: Mapping[str, Any], file: Path | None) -> dict[str, tuple[float, ...]]:
    """The pixel statistics that a description holds; `CLIPEncoder` has OpenAI's for one that holds none."""
    found = {name: described[name] for name in ("mean", "std") if described.get(name)}
    for name, values in found.items():
        numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
        if len(numbers) != len(values) or len(values) != 3 or (name == "std" and min(numbers) <= 0):
            raise UserError(f"{file} has the pixel {name} {shown(values)}: three numbers are needed, a std above 0.")
    return {name: tuple(values) for name, values in found.items()}
