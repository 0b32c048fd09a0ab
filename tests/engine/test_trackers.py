"""Real trackers without a network: what a run reports is in their own files."""

import json
import sqlite3

import numpy as np
import pytest
from detectron2.utils.events import EventStorage
from engine import tiny_run
from PIL import Image

from maft.config import load_config
from maft.engine.trackers import TrackerWriter, check_trackers
from maft.errors import UserError

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    for key, value in {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)


@pytest.fixture
def report(tmp_path):
    """Function: a part of a training that reports two iterations, a picture and, after the last, a result."""

    def report(name, first, *overrides, resumed=False):
        cfg = tiny_run.config(tmp_path / "run", "TRACKERS.PROJECT", "masks", "TRACKERS.NAMES", [name], *overrides)
        writer = TrackerWriter(name, cfg, resumed=resumed)
        with EventStorage(first) as storage:
            for storage.iter in (first, first + 1):
                storage.put_scalars(total_loss=10.0 - storage.iter)
                if storage.iter == first:
                    storage.put_image("prediction/0", PICTURE.transpose(2, 0, 1))
                writer.write()
                # As TensorBoard's writer does.
                storage.clear_images()
            storage.iter = first + 2
            storage.put_scalar("world/sem_seg/mIoU", 41.5, smoothing_hint=False)
            storage.put_scalar("world/sem_seg/mIoU_of_all", float("nan"), smoothing_hint=False)
            writer.write()
        writer.close()
        return json.loads((tmp_path / "run/trackers.json").read_text())[name]

    return report


def same_picture(files):
    assert any(np.array_equal(np.asarray(Image.open(file).convert("RGB")), PICTURE) for file in files)


def test_mlflow(report, tmp_path):
    from mlflow import MlflowClient

    first = report("mlflow", 0)
    assert report("mlflow", 2, "SOLVER.BASE_LR", 0.5, resumed=True) == first
    client = MlflowClient()
    run = client.get_run(first)
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "masks"
    assert run.data.params["SOLVER.BASE_LR"] == "0.01" and run.data.metrics["world/sem_seg/mIoU"] == 41.5
    history = client.get_metric_history(first, "total_loss")
    assert [(point.step, point.value) for point in history] == [(0, 10.0), (1, 9.0), (2, 8.0), (3, 7.0)]
    same_picture((tmp_path / "mlflow").rglob("*.png"))


def test_wandb(report, tmp_path):
    pytest.importorskip("wandb")
    first = report("wandb", 0)
    assert report("wandb", 2, resumed=True) == first
    folder = tmp_path / "run/wandb"
    records = b"".join(file.read_bytes() for file in folder.rglob(f"run-{first}.wandb"))
    for word in (b"total_loss", b"world/sem_seg/mIoU", b"41.5", b"SOLVER.BASE_LR", b"masks"):
        assert word in records
    same_picture(folder.rglob("*.png"))


def test_trackio(report, tmp_path):
    pytest.importorskip("trackio")
    first = report("trackio", 0)
    assert report("trackio", 2, resumed=True) == first
    with sqlite3.connect(tmp_path / "trackio/masks.db") as database:
        rows = database.execute("select step, metrics from metrics where run_name = ? order by id", (first,)).fetchall()
    logged = [(step, json.loads(metrics)) for step, metrics in rows]
    losses = [(step, values["total_loss"]) for step, values in logged if "total_loss" in values]
    assert losses == [(0, 10.0), (1, 9.0), (2, 8.0), (3, 7.0)]
    assert any(values.get("world/sem_seg/mIoU") == 41.5 for _, values in logged)
    same_picture((tmp_path / "trackio").rglob("*.png"))


def test_a_tracker_that_fails_is_left_out_with_one_warning(report, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file/below").as_uri())
    with pytest.raises(FileNotFoundError):
        # Nothing was begun, so that there is nothing to go on with.
        report("mlflow", 0)
    warnings = [record.getMessage() for record in caplog.records if record.name == "maft.engine.trackers"]
    assert len(warnings) == 1 and warnings[0].startswith("The tracker mlflow is left out from here on and the training")


def test_one_that_is_not_installed_or_unknown_is_refused(tiny_configs, tmp_path, monkeypatch):
    monkeypatch.setattr("maft.engine.trackers.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'^TRACKERS\.NAMES holds trackio, which is not .*: pip install "maft\[trackio\]"'
    ):
        check_trackers(tiny_run.config(tmp_path, "TRACKERS.NAMES", ["trackio"]))
    with pytest.raises(UserError, match=r"TRACKERS\.NAMES"):
        load_config(tiny_configs / "maft.yaml", ["TRACKERS.NAMES", "[comet]"])


def test_a_whole_training_reports_to_the_main_process_tracker(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    tiny_run.write_images(tmp_path / "images")
    cfg = tiny_run.config(tmp_path / "run", "SOLVER.MAX_ITER", 2, "TRACKERS.NAMES", ["mlflow"])
    tiny_run.run_registered(str(tmp_path / "images"), cfg, False)
    id = json.loads((tmp_path / "run/trackers.json").read_text())["mlflow"]
    metrics = MlflowClient().get_run(id).data.metrics
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert metrics["total_loss"] == pytest.approx(lines[-1]["total_loss"]) and metrics["peak_memory_mib"] > 50
