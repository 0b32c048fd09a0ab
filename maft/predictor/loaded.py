"""A model that is ready to label pictures: made from a config or a checkpoint, and saved or published again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from numpy.typing import NDArray
from typing_extensions import Self, TypedDict, Unpack

from maft.building import build_model
from maft.calibration import FILE, Calibration, calibration_path
from maft.checkpoint.io import write_safetensors
from maft.config import load_config, self_contained
from maft.data.photos import photo_record, resize_at_test
from maft.errors import UserError, first_line, shown
from maft.files import write_text_atomic
from maft.inference import label_options
from maft.layers.compiling import compile_parts
from maft.layers.devices import device_of
from maft.layers.precision import precision_of
from maft.predictor.calibrated import calibration_facts, calibration_of
from maft.predictor.sources import checked_overrides, path_of, pretrained_config
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Prompts, Vocabulary
from maft.test_time import inference_of
from maft.zoo.cache import ORIGIN


class Running(TypedDict, total=False):
    """Where and how a model computes.

    Attributes:
        device: "cpu", "cuda", "cuda:1", "mps"; None: ``MODEL.DEVICE`` of the config, or the CPU where PyTorch sees no
            GPU.
        dtype: ``torch.float16`` or ``torch.bfloat16`` (or their names) let the model run in mixed precision, which
            changes results a little; what comes out is float32. A device that cannot says so and goes on.
        compile: sends the slow parts through torch.compile, those of ``SOLVER.COMPILE`` or ``all`` of them, see
            `maft.layers.compiling`; where nothing can be compiled a warning says so. The first calls take minutes, and
            a picture of another size may take them again: for many pictures of one size.
    """

    device: str | torch.device | None
    dtype: str | torch.dtype | None
    compile: bool


class LoadedModel:
    """A model as `Predictor` holds it, which says what it is made from."""

    def __init__(
        self,
        cfg: CfgNode,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        if not isinstance(cfg, CfgNode):
            raise UserError(f"A predictor is made from a config, not {shown(cfg)}: use Predictor.from_pretrained.")
        # Saved as it was given: where a model runs here is no part of it.
        self.cfg = cfg
        built = cfg.clone()
        built.defrost()
        if device is not None:
            built.MODEL.DEVICE = str(device_of(device))
        elif cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
            built.MODEL.DEVICE = "cpu"
        self._precision = precision_of(dtype, torch.device(built.MODEL.DEVICE))
        model = build_model(built).eval()
        if not isinstance(model, OpenVocabSegmentor):
            raise UserError(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} does not label images.")
        options = model.inference_options
        model.inference_options = label_options(options, windows=cfg.TEST.SLIDING_WINDOW.ENABLED)
        if compile:
            compile_parts(model, cfg.SOLVER.COMPILE or ["all"])
        self.model = model
        self._of_objects = options["panoptic"] or options["instance"]
        self._infer = inference_of(cfg, model)
        self._training = model.vocabulary if cfg.DATASETS.TRAIN else None
        self._resize = resize_at_test(cfg)

    @cached_property
    def calibration(self) -> Calibration:
        """What ``maft calibrate`` measured of this model, from beside its checkpoint.

        Raises:
            UserError: there is none, or it is that of another model.
        """
        return calibration_of(self.cfg, self.model, self.calibration_facts())

    def calibration_facts(self) -> dict[str, Any]:
        """What its answers depend on besides its weights, see `maft.predictor.calibrated.calibration_facts`."""
        return calibration_facts(self.cfg, self._training, self._precision)

    def _record(self, image: Any, pixels: NDArray[np.uint8], prompts: Prompts | None = None) -> dict[str, Any]:
        """A picture as the model takes it, resized, with boxes and points in pixels of the picture as given."""
        record = photo_record(pixels, self._resize, self.cfg.INPUT.FORMAT)
        if isinstance(image, (str, os.PathLike)):
            record["file_name"] = os.fspath(image)
        if prompts is not None:
            height, width = record["image"].shape[-2:]
            record["prompts"] = prompts.resized(width / pixels.shape[1], height / pixels.shape[0])
        return record

    @property
    def _known_words(self) -> Vocabulary:
        """The training vocabulary; of a model without one a word, for a proposer whose masks depend on none."""
        return self._training or Vocabulary(("object",))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.model.device.type, self._precision or torch.bfloat16, enabled=self._precision is not None
        )

    @classmethod
    def from_config(
        cls, file: str | os.PathLike[str], overrides: Sequence[str] = (), **running: Unpack[Running]
    ) -> Self:
        """From a YAML file or a packaged config by name, such as ``quickstart/maft``.

        Args:
            overrides: KEY VALUE ..., such as MODEL.WEIGHTS and its value.
            running: device, dtype, compile, see `Running`.
        """
        return cls(load_config(path_of(file), checked_overrides(overrides)), **running)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        overrides: Sequence[str] = (),
        *,
        revision: str | None = None,
        **running: Unpack[Running],
    ) -> Self:
        """From a trained model, and nothing else.

        Args:
            source: a folder with model.safetensors and config.yaml, or with NAME.safetensors and NAME.yaml; that file
                itself; a name of the zoo (`maft.zoo.names`); or a repository ``org/name`` of the Hugging Face hub.
                What lies on the disk comes first.
            overrides: KEY VALUE ..., over the model's config.
            revision: branch, tag or commit of a repository of the hub.
            running: device, dtype, compile, see `Running`.

        Raises:
            UserError: there is no such model, it cannot be fetched, or config and weights do not fit each other.
        """
        return cls(pretrained_config(source, overrides, revision), **running)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], overrides: Sequence[str] = (), **running: Unpack[Running]) -> Self:
        """From a config (see `from_config`), or from a checkpoint folder or file (see `from_pretrained`)."""
        if os.path.isdir(path_of(path)) or path_of(path).suffix == ".safetensors":
            return cls.from_pretrained(path, overrides, **running)
        return cls.from_config(path, overrides, **running)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes model.safetensors and config.yaml, from which `from_pretrained` makes this predictor again.

        A calibration goes with them, and a released model's origin.json, which names its authors' file and licence.

        Raises:
            UserError: the folder cannot be written to.
        """
        target = path_of(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            write_safetensors(target / "model.safetensors", self.model.state_dict(), {"format": "pt"})
            write_text_atomic(target / "config.yaml", self_contained(self.cfg).dump())
            if self.cfg.MODEL.WEIGHTS and (origin := Path(self.cfg.MODEL.WEIGHTS).with_name(ORIGIN)).is_file():
                write_text_atomic(target / ORIGIN, origin.read_text(encoding="utf-8"))
            if self.cfg.MODEL.WEIGHTS and (beside := calibration_path(Path(self.cfg.MODEL.WEIGHTS))).is_file():
                write_text_atomic(target / FILE, beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"The model cannot be saved in {target} ({first_line(error)}): save elsewhere.") from error
        return target

    def push_to_hub(self, repository: str, *, licence: str = "", private: bool = False) -> str:
        """Publishes the model on the Hugging Face hub, see `maft.zoo.publishing.push_to_hub`, and returns its address.

        ``maft push`` of a training's ``model_final`` also puts the results of its evaluations into the model's card.
        """
        from maft.zoo.publishing import push_to_hub

        with tempfile.TemporaryDirectory() as folder:
            return push_to_hub(self.save_pretrained(folder), repository, licence=licence, private=private)
