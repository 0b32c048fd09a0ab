"""Experiment trackers: Weights & Biases, MLflow and trackio, each of which is an extra, as Detectron2's event writers.

Where they send things is their own business, set as their users know it (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``,
``TRACKIO_SPACE_ID``).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage
from numpy.typing import NDArray

from maft.engine.resuming import config_leaves
from maft.errors import UserError, first_line
from maft.files import write_json_atomic

Picture = NDArray[np.uint8]

# MLflow refuses more parameters at once.
_MOST_PARAMETERS = 100

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """One run in a tracker.

    Attributes:
        id: by which the tracker finds the run again.
    """

    id: str

    def log(self, values: Mapping[str, float], pictures: Mapping[str, Picture], step: int) -> None:
        """Scalars and (height, width, 3) uint8 RGB pictures of one iteration."""

    def finish(self, well: bool) -> None:
        """Ends the run, which did or did not come to its end."""


class _WandB:
    def __init__(self, options: CfgNode, folder: Path, config: Mapping[str, Any], id: str | None) -> None:
        import wandb

        self._picture = wandb.Image
        self._run = wandb.init(
            project=options.PROJECT, name=options.RUN, id=id, resume="allow", config=dict(config), dir=str(folder)
        )
        self.id = self._run.id

    def log(self, values: Mapping[str, float], pictures: Mapping[str, Picture], step: int) -> None:
        self._run.log({**values, **{name: self._picture(each) for name, each in pictures.items()}}, step=step)

    def finish(self, well: bool) -> None:
        self._run.finish(exit_code=0 if well else 1)


class _MLflow:
    def __init__(self, options: CfgNode, folder: Path, config: Mapping[str, Any], id: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        if id:
            self.id = id
            self._client.update_run(id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(options.PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(options.PROJECT)
        self.id = self._client.create_run(number, run_name=options.RUN).info.run_id
        parameters = [Param(key, str(value)) for key, value in config.items()]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self.id, params=parameters[first : first + _MOST_PARAMETERS])

    def log(self, values: Mapping[str, float], pictures: Mapping[str, Picture], step: int) -> None:
        # Names of datasets may hold characters that MLflow refuses.
        names = {name: re.sub(r"[^\w.:/ -]", "_", name) for name in values}
        self._client.log_batch(
            self.id, metrics=[self._metric(names[n], v, int(1000 * time.time()), step) for n, v in values.items()]
        )
        for name, picture in pictures.items():
            self._client.log_image(self.id, picture, key=name, step=step)

    def finish(self, well: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if well else "FAILED")


class _Trackio:
    def __init__(self, options: CfgNode, folder: Path, config: Mapping[str, Any], id: str | None) -> None:
        import trackio

        self._picture = trackio.Image
        # In a notebook it would start a server to show itself.
        self._run = trackio.init(
            project=options.PROJECT, name=id or options.RUN, config=dict(config), resume="must" if id else "never",
            embed=False,
        )  # fmt: skip
        self.id = self._run.name

    def log(self, values: Mapping[str, float], pictures: Mapping[str, Picture], step: int) -> None:
        self._run.log({**values, **{name: self._picture(each) for name, each in pictures.items()}}, step=step)

    def finish(self, well: bool) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[..., Tracker]] = {"wandb": _WandB, "mlflow": _MLflow, "trackio": _Trackio}


class TrackerWriter(EventWriter):
    """Sends the numbers and pictures of the event storage to a tracker.

    Pictures are the storage's until Detectron2's TensorBoard writer clears them, so that this one comes before it. What
    fails is said once, and the training goes on without the tracker.

    Args:
        name: of `TRACKERS`.
        cfg: the config, which the tracker keeps.
        resumed: go on with the run that an earlier part of this training began.
    """

    def __init__(self, name: str, cfg: CfgNode, *, resumed: bool) -> None:
        self.name, self.period = name, cfg.SOLVER.LOG_PERIOD
        self._ids = Path(cfg.OUTPUT_DIR) / "trackers.json"
        self._sent = -1
        self._tracker: Tracker | None = None
        with self._left_out_if_it_fails():
            self._begin(cfg, resumed)

    def _begin(self, cfg: CfgNode, resumed: bool) -> None:
        ids = json.loads(self._ids.read_text()) if resumed and self._ids.is_file() else {}
        options = cfg.TRACKERS.clone()
        options.defrost()
        options.RUN = options.RUN or Path(cfg.OUTPUT_DIR).name
        folder = self._ids.parent
        self._tracker = TRACKERS[self.name](options, folder, dict(config_leaves(cfg)), ids.get(self.name))
        write_json_atomic(self._ids, {**ids, self.name: self._tracker.id})

    def write(self) -> None:
        storage = get_event_storage()
        steps: dict[int, tuple[dict[str, float], dict[str, Picture]]] = {}
        for name, (value, step) in storage.latest_with_smoothing_hint(self.period).items():
            if step > self._sent:
                steps.setdefault(step, ({}, {}))[0][name] = value
        for name, picture, step in storage._vis_data:
            steps.setdefault(step, ({}, {}))[1][name] = np.ascontiguousarray(picture.transpose(1, 2, 0))
        for step in sorted(steps):
            with self._left_out_if_it_fails():
                if self._tracker:
                    self._tracker.log(*steps[step], step)
            self._sent = step

    def close(self) -> None:
        well = sys.exc_info()[0] is None
        with self._left_out_if_it_fails():
            if self._tracker:
                self._tracker.finish(well)

    @contextmanager
    def _left_out_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tracker = None
            logger.warning(
                "The tracker %s is left out from here on and the training goes on: %s", self.name, first_line(error)
            )


def check_trackers(cfg: CfgNode) -> None:
    """Raises UserError where a tracker of ``TRACKERS.NAMES`` is not installed."""
    for name in cfg.TRACKERS.NAMES:
        if not find_spec(name):
            raise UserError(f'TRACKERS.NAMES holds {name}, which is not installed: pip install "maft[{name}]".')
