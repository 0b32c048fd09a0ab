"""An image and class names in, a labelled picture out: the door for the demo, the app and notebooks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import CfgNode

from maft.building import build_model
from maft.config import load_config
from maft.data.augmentations import ResizeShortestEdge
from maft.data.label_sets import overlap as shared_synonyms
from maft.data.pixels import ImageLike, pixels_of
from maft.errors import UserError, closest, shown
from maft.predictor.prediction import Prediction
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary, as_clip_reads
from maft.test_time import inference_of


class Predictor:
    """Runs a trained model on single images with any vocabulary.

    Args:
        cfg: the model's config; ``MODEL.WEIGHTS`` is loaded when it is set.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.DEVICE = "cpu"
        self.cfg = cfg
        model = build_model(cfg).eval()
        if not isinstance(model, OpenVocabSegmentor):
            raise UserError(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} does not label images.")
        options = model.inference_options
        # A picture's labels are its semantic result, computed as beside the panoptic one where the config has that.
        whole = (options["panoptic"] or options["instance"]) and not cfg.TEST.SLIDING_WINDOW.ENABLED
        before = options["resize_before"] or whole
        alone = {"semantic": True, "panoptic": False, "instance": False, "resize_before": before}
        model.inference_options = {**options, **alone}
        self.model = model
        self._infer = inference_of(cfg, model)
        self._training = model.vocabulary if cfg.DATASETS.TRAIN else None
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST, "choice")
        # The words are state of the model while it runs: one call at a time.
        self._one_at_a_time = threading.Lock()

    @classmethod
    def from_config(cls, file: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Predictor:
        """From a YAML file, with Detectron2-style overrides (KEY VALUE ...), such as MODEL.WEIGHTS and its value."""
        return cls(load_config(_path(file), _checked(overrides)))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Predictor:
        """From a checkpoint that training or tools/convert_checkpoint.py wrote, and nothing else.

        Args:
            folder: holds model.safetensors and config.yaml, or NAME.safetensors and NAME.yaml; or that file itself.

        Raises:
            UserError: one of the two is missing or does not fit the other.
        """
        config, weights = _checkpoint_files(_path(folder))
        return cls(load_config(config, [*_checked(overrides), "MODEL.WEIGHTS", str(weights)], trusted=False))

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Predictor:
        """From a YAML config, or from a checkpoint (see `from_pretrained`)."""
        if os.path.isdir(_path(path)) or _path(path).suffix == ".safetensors":
            return cls.from_pretrained(path, overrides)
        return cls.from_config(path, overrides)

    def vocabulary(self, class_names: Sequence[str] | None = None) -> Vocabulary:
        """The user's words, each seen or unseen in training; None stands for the training vocabulary.

        Raises:
            UserError: there are none, they are no list of texts, or two of them are alike for CLIP.
        """
        if isinstance(class_names, str):
            raise UserError(f"Class names are a list of texts, not one text: write [{class_names!r}].")
        if class_names is not None:
            if not isinstance(class_names, Iterable):
                raise UserError(f"Class names are a list of texts, not {shown(class_names)}: write ['cat', 'dog'].")
            # Names that are none are refused before they are compared.
            names = Vocabulary(tuple(class_names)).names
            return Vocabulary(names, shared_synonyms(names, self._training.names if self._training else ()))
        if self._training is None:
            raise UserError("The model has no vocabulary of its own (DATASETS.TRAIN is empty): give class names.")
        return self._training

    @torch.no_grad()
    def prepare(self, class_names: Sequence[str] | None = None) -> Vocabulary:
        """Encodes the user's words, which calls with the same words then find ready.

        Raises:
            UserError: see `vocabulary`; a word is too long for CLIP, or the folder of kept embeddings is unwritable.
        """
        words = self.vocabulary(class_names)
        with self._one_at_a_time:
            self.model.vocabulary_encoder(words, self.model.clip)
            if (of_regions := self.model.classifier_vocabulary_encoder) is not None:
                of_regions(words, self.model.clip)
        return words

    @torch.no_grad()
    def __call__(
        self,
        image: ImageLike,
        class_names: Sequence[str] | None = None,
        things: Sequence[str] | Literal["all"] | None = None,
    ) -> Prediction:
        """Labels an image with the user's words (default: the training vocabulary); calls leave nothing behind.

        Several threads may share a predictor; their calls run one after the other.

        Args:
            image: a path, a Pillow image, or uint8, (H, W, 3) RGB or (H, W) grey. A proposer that reads masks from disk
                finds them by the path.
            things: asks for panoptic segments as well, and says which of the names are countable: each instance of
                theirs is a segment, while all of another class is one. "all": every name; []: none.

        Raises:
            UserError: the image cannot be read, or see `vocabulary` and `thing_flags`.
        """
        words = self.vocabulary(class_names)
        flags = None if things is None else thing_flags(words, things)
        if flags is not None and self._infer is not self.model:
            raise UserError(
                "Panoptic segments are not averaged: name no things, or set TEST.AUG.ENABLED and "
                "TEST.SLIDING_WINDOW.ENABLED False."
            )
        pixels = pixels_of(image)
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        record: dict[str, Any] = {"image": tensor, "height": pixels.shape[0], "width": pixels.shape[1]}
        if isinstance(image, (str, os.PathLike)):
            record["file_name"] = os.fspath(image)
        with self._one_at_a_time, self.model.using_vocabulary(words, flags):
            result = self._result(record, panoptic=flags is not None)
        labels, confidence = result["sem_seg_labels"], result["sem_seg_confidence"]
        ids, segments = result.get("panoptic_seg", (None, []))
        return Prediction(
            pixels,
            labels.cpu().numpy(),
            confidence.float().cpu().numpy(),
            words.names,
            None if ids is None else ids.cpu().numpy(),
            tuple(_described(ids, segment, words) for segment in segments),
        )

    def _result(self, record: dict[str, Any], panoptic: bool) -> dict[str, Any]:
        alone = self.model.inference_options
        self.model.inference_options = {**alone, "panoptic": panoptic}
        try:
            return self._infer([record])[0]
        finally:
            self.model.inference_options = alone


def thing_flags(words: Vocabulary, things: Sequence[str] | Literal["all"]) -> list[bool]:
    """Whether each name of a vocabulary is among those of things, as CLIP reads them.

    Raises:
        UserError: things are no names, or one is not in the vocabulary.
    """
    if isinstance(things, str) and things == "all":
        return [True] * len(words)
    listed = _items(things)
    if listed is None or not all(isinstance(thing, str) for thing in listed):
        example = [things] if isinstance(things, str) else ["cat", "dog"]
        raise UserError(f"Things are a list of names or 'all', not {shown(things)}: write {example}.")
    names, asked = [as_clip_reads(name) for name in words.names], {as_clip_reads(thing): thing for thing in listed}
    if strangers := [thing for read, thing in asked.items() if read not in names]:
        raise UserError(f"The thing {strangers[0]!r} is none of the class names.{closest(strangers[0], words.names)}")
    return [name in asked for name in names]


def _described(ids: torch.Tensor, segment: dict[str, Any], words: Vocabulary) -> dict[str, Any]:
    label = segment["category_id"]
    return {
        "id": segment["id"],
        "label": label,
        "name": words.names[label],
        "isthing": segment["isthing"],
        "area": int((ids == segment["id"]).sum()),
    }


def _items(value: object) -> list[Any] | None:
    """The items of a list and its like; None for one text or no list at all."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else None


def _path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"A config or checkpoint is given by its path, not by {shown(path)}: write 'path/to/it'.")
    return Path(path)


def _checked(overrides: Sequence[str]) -> list[str]:
    listed = _items(overrides)
    if listed is None or None in listed or not all(isinstance(key, str) for key in listed[::2]):
        raise UserError(f"Overrides are texts KEY VALUE, not {shown(overrides)}: write ['MODEL.DEVICE', 'cpu'].")
    return listed


def _checkpoint_files(path: Path) -> tuple[Path, Path]:
    """Config and weights of a checkpoint given as a folder or as its weights file."""
    # Unlike those of Path, the functions of os.path answer for names that no file can have.
    folder = os.path.isdir(path)
    weights = path / "model.safetensors" if folder else path
    if folder and not weights.is_file():
        found = list(path.glob("*.safetensors"))
        if len(found) != 1:
            raise UserError(
                f"{path} holds {len(found)} .safetensors files and no model.safetensors: give a checkpoint folder "
                "that training or tools/convert_checkpoint.py wrote, or one of the files."
            )
        weights = found[0]
    config = weights.with_name("config.yaml") if weights.stem == "model" else weights.with_suffix(".yaml")
    if not os.path.isfile(config):
        raise UserError(
            f"{weights} has no {config.name} beside it: give a checkpoint that training or "
            "tools/convert_checkpoint.py wrote, or a config and MODEL.WEIGHTS."
        )
    return config, weights
