"""Evaluations that keep an index and evaluations from one: the numbers of the model, and nothing seen twice."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maft.building import build_model
from maft.cli.evaluate import main
from maft.config import load_config
from maft.data.records import load_records
from maft.errors import UserError
from maft.evaluation import evaluate_dataset, evaluate_index, index_config
from maft.evaluation.counts import read_counts
from maft.evaluation.runs import read_results, results_folder
from maft.evaluation.sources import places_of
from maft.files import sha256
from maft.index.index import Index
from maft.miniature import materialise

QUICKSTART = Path(__file__).resolve().parent.parent.parent / "configs" / "quickstart"
NAME = "miniature_val"


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    materialise(tmp_path / "miniature", "val", 4)


def configured(config, folder, *overrides):
    keys = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(folder), "TEST.SAVE_INDEX", "True"]
    return load_config(QUICKSTART / config, [*keys, *overrides])


def model_of(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


def comparable(results):
    return {
        (task, name): None if math.isnan(value) else value
        for task, values in results.items()
        for name, value in values.items()
    }


def bytes_of(folder):
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("frozen_clip.yaml", []),
        ("mask_pooling.yaml", ["MODEL.INFERENCE.PANOPTIC", "True", "MODEL.INFERENCE.INSTANCE", "True"]),
        ("masked_crops.yaml", ["TEST.PROTOCOL", "unseen_only"]),
    ],
)
def test_an_index_kept_by_an_evaluation_gives_its_table(miniature, tmp_path, config, overrides):
    cfg = configured(config, tmp_path / "out", "TEST.MASK_ACCURACY", "True", *overrides)
    model = model_of(cfg)
    expected = evaluate_dataset(cfg, model, NAME)
    without = configured(config, tmp_path / "without", "TEST.MASK_ACCURACY", "True", *overrides)
    without.defrost()
    without.TEST.SAVE_INDEX = False
    assert comparable(evaluate_dataset(without, model, NAME)) == comparable(expected)

    folder = results_folder(tmp_path / "out", NAME)
    index = Index(folder / "index")
    again = index_config(index, [])
    again.OUTPUT_DIR = str(tmp_path / "again")
    found = evaluate_index(again, index, NAME)
    # Mask accuracy of panoptic segments takes masks that an index does not have.
    expected.pop("panoptic_mask_accuracy", None)
    assert comparable(found) == comparable(expected)
    kept, other = read_counts(folder), read_counts(results_folder(tmp_path / "again", NAME))
    for task, table in other.tables.items():
        assert all(torch.equal(values, kept.tables[task][name]) for name, values in table.items())
    report, stated = read_results(folder), read_results(results_folder(tmp_path / "again", NAME))
    assert stated["index"] == str(folder / "index") and stated["provenance"]["weights"] is None
    assert stated["provenance"]["config"] == report["provenance"]["config"]
    assert stated["provenance"]["data"] == report["provenance"]["data"]


@pytest.fixture
def small_shards(monkeypatch):
    """Two images a shard, so that a few make several."""
    from maft.evaluation import sources

    few = partial(sources.index_settings, images_per_shard=2)
    monkeypatch.setattr(sources, "index_settings", few)
    monkeypatch.setattr("maft.evaluation.progress.SAVE_SECONDS", 0)


def interrupted(cfg, model, after):
    """Evaluates until so many images have been seen."""
    seen = []

    def stop(*_):
        seen.append(None)
        if len(seen) > after:
            raise KeyboardInterrupt

    hook = model.proposer.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_dataset(cfg, model, NAME)
    hook.remove()


def test_an_interrupted_evaluation_goes_on_with_its_index(miniature, small_shards, tmp_path):
    cfg = configured("frozen_clip.yaml", tmp_path / "out")
    model = model_of(cfg)
    whole = evaluate_dataset(configured("frozen_clip.yaml", tmp_path / "whole"), model, NAME)
    expected = bytes_of(results_folder(tmp_path / "whole", NAME) / "index")
    assert sum(name.startswith("shards/") for name in expected) == 2
    interrupted(cfg, model, after=3)
    folder = results_folder(tmp_path / "out", NAME)
    assert [path.name for path in (folder / "index" / "shards").iterdir()] == ["00000.safetensors"]
    cfg = configured("frozen_clip.yaml", tmp_path / "out", "TEST.RESUME", "True")
    seen = []
    hook = model.proposer.register_forward_pre_hook(lambda *_: seen.append(None))
    assert comparable(evaluate_dataset(cfg, model, NAME)) == comparable(whole)
    hook.remove()
    # The third image was lost with its unfinished shard.
    assert len(seen) == 2 and bytes_of(folder / "index") == expected
    # Of a half-finished evaluation whose index is gone, nothing is told.
    interrupted(configured("frozen_clip.yaml", tmp_path / "out"), model, after=3)
    (folder / "index" / "shards" / "00000.safetensors").unlink()
    with pytest.raises(UserError, match="lacks images that it had seen: set TEST.RESUME False"):
        evaluate_dataset(cfg, model, NAME)


def _evaluate_share(rank, cfg):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{cfg.OUTPUT_DIR}_meeting", rank=rank, world_size=2)
    results = evaluate_dataset(cfg, model_of(cfg), NAME)
    Path(f"{cfg.OUTPUT_DIR}_{rank}.json").write_text(json.dumps(results["sem_seg"]["mIoU"]))
    dist.destroy_process_group()


def test_two_processes_keep_the_index_of_one(miniature, small_shards, tmp_path):
    cfg = configured("frozen_clip.yaml", tmp_path / "two")
    whole = evaluate_dataset(configured("frozen_clip.yaml", tmp_path / "one"), model_of(cfg), NAME)
    torch.multiprocessing.start_processes(_evaluate_share, (cfg,), nprocs=2, start_method="fork")
    assert [json.loads(Path(f"{tmp_path}/two_{rank}.json").read_text()) for rank in range(2)] == [
        whole["sem_seg"]["mIoU"]
    ] * 2
    one, two = (results_folder(tmp_path / name, NAME) for name in ("one", "two"))
    assert bytes_of(one / "index") == bytes_of(two / "index")


@pytest.fixture
def index(miniature, tmp_path):
    cfg = configured("frozen_clip.yaml", tmp_path / "out")
    evaluate_dataset(cfg, model_of(cfg), NAME)
    return results_folder(tmp_path / "out", NAME) / "index"


def test_the_index_of_another_model_is_replaced(index, tmp_path):
    before = Index(index).stored.settings.model
    cfg = configured("frozen_clip.yaml", tmp_path / "out", "INPUT.MIN_SIZE_TEST", "64")
    evaluate_dataset(cfg, model_of(cfg), NAME)
    assert Index(index).stored.settings.model != before


def test_images_are_found_by_path_or_content_and_missing_ones_are_named(index, tmp_path):
    asked = Index(index)
    files = [record["file_name"] for record in load_records([NAME], "DATASETS.TEST")]
    assert places_of(asked, files) == {file: place for place, file in enumerate(files)}
    moved = tmp_path / "moved.png"
    moved.write_bytes(Path(files[2]).read_bytes())
    assert places_of(asked, [str(moved)]) == {str(moved): 2}
    moved.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"1 of 2 images are not in the index .*moved.png. Index the whole dataset"):
        places_of(asked, [files[0], str(moved)])
    Path(files[1]).write_bytes(b"something else")
    with pytest.raises(UserError, match=r"1 of 4 images have changed since they were put into the index .*"):
        places_of(asked, files)


def test_only_what_comes_after_the_look_can_be_changed(index):
    asked = Index(index)
    assert index_config(asked, ["TEST.PROTOCOL", "unseen_only"]).TEST.PROTOCOL == "unseen_only"
    with pytest.raises(UserError, match="INPUT.MIN_SIZE_TEST cannot be changed with --index"):
        index_config(asked, ["INPUT.MIN_SIZE_TEST", "64"])
    with pytest.raises(UserError, match="TEST.SAVE_INDEX cannot be changed with --index"):
        index_config(asked, ["TEST.SAVE_INDEX", "True"])
    cfg = index_config(asked, ["TEST.MASK_ACCURACY", "True"])
    with pytest.raises(UserError, match="keeps no annotated masks of miniature_train"):
        evaluate_index(cfg, asked, "miniature_train")


def test_averaged_looks_keep_no_index(miniature, tmp_path):
    from maft.evaluation import check_evaluation

    with pytest.raises(UserError, match="TEST.AUG and TEST.SLIDING_WINDOW average several"):
        check_evaluation(configured("frozen_clip.yaml", tmp_path, "TEST.AUG.ENABLED", "True"), [NAME])


def test_the_command(index, tmp_path):
    main(["--index", str(index), "--dataset", NAME, "--output", str(tmp_path / "again"), "TEST.VISUALIZE", "1"])
    folder = results_folder(tmp_path / "again", NAME)
    assert read_results(folder)["results"] == read_results(index.parent)["results"]
    assert len(list((folder / "pictures").iterdir())) == 1
    for argv, sentence in (
        (["--index", str(index)], "--index needs --dataset"),
        (["quickstart/maft", "--dataset", NAME], "are of --index"),
        (["--index", str(index), "--dataset", NAME, "quickstart/maft"], "leave config and --resume out"),
    ):
        with pytest.raises(UserError, match=sentence):
            main(argv)
