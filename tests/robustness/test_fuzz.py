"""Seeded mutations of everything that comes from outside: each ends in a correct run or in one sentence."""

import io
import math
import pickle
import runpy
import sys

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from robustness.harness import ROOT, fuzz, one_sentence_at_most
from robustness.mutations import mutated_bytes, mutated_json, mutated_json_text, odd_values
from safetensors.torch import save

from maft.building import model_shapes
from maft.checkpoint.loading import read_weights
from maft.config import load_config
from maft.config_files import read_config_file
from maft.data.catalog import DatasetRow
from maft.data.checking import check_dataset
from maft.data.loader import build_test_loader
from maft.data.mappers import SegmentationMapper
from maft.data.pairs import RegionPairMapper, read_pairs
from maft.data.records import load_records, with_segments
from maft.errors import UserError
from maft.evaluation.panoptic import PanopticEvaluator
from maft.mining.captions import read_captions
from maft.proposals.mask_files import MaskFiles

CONFIGS = [ROOT / f"configs/quickstart/{name}.yaml" for name in ("maft", "mask_adapter", "proposer", "region_clip")]
SIZE = (24, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def png(values, **options):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG", **options)
    return stream.getvalue()


STRIPES = (np.arange(SIZE[1]) * 3 // SIZE[1]).astype(np.uint8)[None].repeat(SIZE[0], 0)
PHOTO = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
PANOPTIC = np.stack([STRIPES + 1, np.zeros_like(STRIPES), np.zeros_like(STRIPES)], -1)
TENSORS = {
    "proposer.a": torch.ones(3, 4),
    "vocabulary_encoder.void_embedding": torch.zeros(1, 8),
    "clip.n": torch.tensor(2),
}


@fuzz
@given(data=st.data())
def test_configs(folder, data):
    content = read_config_file(data.draw(st.sampled_from(CONFIGS)))
    file = folder / "config.yaml"
    if data.draw(st.integers(0, 3)):
        file.write_text(yaml.safe_dump(data.draw(mutated_json(content)), allow_unicode=True), encoding="utf-8")
    else:
        file.write_bytes(data.draw(mutated_bytes(yaml.safe_dump(content).encode())))
    with one_sentence_at_most():
        cfg = load_config(file)
        model_shapes(cfg)


@fuzz
@given(data=st.data())
def test_overrides(data):
    config = data.draw(st.sampled_from(CONFIGS))
    paths = [path for path in _leaves(read_config_file(config)) if path]
    keys = [".".join(map(str, path)) for path in paths] + [
        "",
        ".",
        "MODEL..NAME",
        "SOLVER",
        "A.B",
        "IMPORTS",
        "MODEL.LOSSES",
    ]
    pairs = [
        (data.draw(st.sampled_from(keys)), str(data.draw(odd_values()))) for _ in range(data.draw(st.integers(1, 3)))
    ]
    with one_sentence_at_most():
        load_config(config, [word for pair in pairs for word in pair])


def _leaves(value, path=()):
    if isinstance(value, dict):
        for key in value:
            yield from _leaves(value[key], (*path, key))
    else:
        yield path


def _torch_file(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


WEIGHTS = {
    "w.safetensors": save(TENSORS, {"format": "pt"}),
    "w.pth": _torch_file({"model": TENSORS, "iteration": 3}),
    "old.pth": _torch_file(TENSORS),
    "w.pkl": pickle.dumps({"model": {name: value.numpy() for name, value in TENSORS.items()}}),
}


@fuzz
@given(data=st.data())
def test_weights(folder, data):
    name = data.draw(st.sampled_from(sorted(WEIGHTS)))
    (folder / name).write_bytes(data.draw(mutated_bytes(WEIGHTS[name])))
    with one_sentence_at_most():
        state = read_weights(folder / name)
        assert all(isinstance(value, torch.Tensor) and isinstance(key, str) for key, value in state.items())


@fuzz
@given(data=st.data())
def test_own_data(folder, data):
    root = folder / "own"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    files = {
        "images/a.png": png(PHOTO), "masks/a.png": png(STRIPES),
        "images/b.png": png(PHOTO), "masks/b.png": png(STRIPES),
        "classes.txt": b"road\ntree\nsky\n",
    }  # fmt: skip
    broken = data.draw(st.sampled_from(sorted(files)))
    files[broken] = data.draw(mutated_bytes(files[broken]))
    for name, content in files.items():
        (root / name).write_bytes(content)
    with one_sentence_at_most():
        check_dataset(f"folder:{root}")
    with one_sentence_at_most():
        records = load_records([f"folder:{root}"])
        cfg = load_config(CONFIGS[2], ["DATASETS.TRAIN", f"['folder:{root}']", "INPUT.CROP.ENABLED", "False"])
        for batch in build_test_loader(records, SegmentationMapper.from_config(cfg, True)):
            labels = batch[0]["instances"].gt_classes
            assert ((labels >= 0) & (labels < 3)).all()


CLASSES = ["person", "sky", "grass"]
SEGMENTS = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": SIZE[0], "width": SIZE[1]}],
    "annotations": [{
        "image_id": 1, "file_name": "1.png",
        "segments_info": [
            {"id": 1, "category_id": 1, "iscrowd": 0, "area": 256, "bbox": [0, 0, 10, 24]},
            {"id": 2, "category_id": 200, "iscrowd": 0, "area": 256, "bbox": [10, 0, 10, 24]},
            {"id": 3, "category_id": 200, "iscrowd": 1, "area": 256, "bbox": [20, 0, 12, 24]},
        ],
    }],
    "categories": [{"id": 1, "name": "person", "isthing": 1}, {"id": 200, "name": "rug-merged", "isthing": 0}],
}  # fmt: skip


@fuzz
@given(data=st.data())
def test_panoptic_annotations(folder, data):
    root = folder / "coco"
    (root / "panoptic").mkdir(parents=True, exist_ok=True)
    maps = png(PANOPTIC)
    (root / "panoptic/1.png").write_bytes(data.draw(mutated_bytes(maps)) if data.draw(st.integers(0, 4)) == 0 else maps)
    (root / "panoptic.json").write_bytes(data.draw(mutated_json_text(SEGMENTS)))
    row = DatasetRow(
        "fuzzed", "coco_panoptic_133", "val", "images", "labels", "", None, "", "",
        panoptic_json=str(root / "panoptic.json"), panoptic_root=str(root / "panoptic"),
    )  # fmt: skip
    with one_sentence_at_most():
        (record,) = with_segments(row, [{"file_name": "1.jpg", "image_id": 1}])
        evaluator = PanopticEvaluator(["a"] * 133, [True] * 133)
        predicted = torch.from_numpy(STRIPES.astype(np.int32) + 1)
        evaluator.process([record], [{"panoptic_seg": (predicted, [{"id": 1, "category_id": 0}])}])
        quality = evaluator.evaluate()["panoptic_seg"]["PQ"]
        assert math.isnan(quality) or 0 <= quality <= 100


CAPTIONS = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "a dog on grass"},
        {"id": 2, "image_id": 1, "caption": "two dogs"},
        {"id": 3, "image_id": 2, "caption": "a red car"},
    ],
}


@fuzz
@given(data=st.data())
def test_captions(folder, data):
    (folder / "captions.json").write_bytes(data.draw(mutated_json_text(CAPTIONS)))
    with one_sentence_at_most():
        images = read_captions(folder / "captions.json")
        assert all(isinstance(caption, str) for image in images for caption in image.captions)


@fuzz
@given(data=st.data())
def test_pairs(folder, data):
    root = folder / "pairs"
    root.mkdir(exist_ok=True)
    region = png(np.dstack([PHOTO, STRIPES * 100]))
    (root / "a.png").write_bytes(data.draw(mutated_bytes(region)) if data.draw(st.booleans()) else region)
    table = "filepath\ttitle\timage\tscore\n" + "".join(f"a.png\tnoun{i}\ta\t0.2{i}\n" for i in range(5))
    (root / "pairs.tsv").write_bytes(data.draw(mutated_bytes(table.encode())))
    with one_sentence_at_most():
        rows = read_pairs(root / "pairs.tsv")
        assert 0 < len(rows) <= 12
        sample = RegionPairMapper(16)(rows[0])
        assert sample["region"].shape == (3, 16, 16) and sample["text"]


RLE = {"size": list(SIZE), "counts": [48, 240, 480]}
MASKS = [
    {"image_id": 1, "segmentation": RLE},
    {"image_id": 1, "segmentation": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]},
    {"image_id": 2, "segmentation": {"size": list(SIZE), "counts": "0c02O1"}},
]


@fuzz
@given(data=st.data())
def test_mask_files(folder, data):
    root = folder / "masks"
    root.mkdir(exist_ok=True)
    kind = data.draw(st.sampled_from(["map", "list", "file"]))
    for old in root.glob("*"):
        old.unlink()
    if kind == "map":
        (root / "a.png").write_bytes(data.draw(mutated_bytes(png(STRIPES))))
    else:
        content = data.draw(mutated_json_text(MASKS[:2] if kind == "list" else {"annotations": MASKS}))
        (root / ("a.json" if kind == "list" else "all.json")).write_bytes(content)
    with one_sentence_at_most():
        masks = MaskFiles(path=str(root / "all.json" if kind == "file" else root))
        found = masks.read({"file_name": "a.jpg", "image_id": 1}, SIZE)
        assert found.shape[1:] == SIZE and found.dtype == bool


# Without those that install, and those that write without being told where.
TOOLS = [
    *(f"tools/{name}.py" for name in (
        "app", "benchmark", "check_data", "check_golden", "convert_checkpoint", "demo", "extract_part",
        "mine_mask_nouns", "pretrain_tiny_clip", "reproduce", "search_ensemble", "train_net",
    )),
    *(f"datasets/prepare_{name}.py" for name in (
        "ade150", "ade847", "cityscapes", "coco_panoptic", "coco_stuff", "pascal_context", "voc",
    )),
]  # fmt: skip
WORDS = [
    "--config-file", "configs/quickstart/maft.yaml", "gone.yaml", "--input", "--output", "--class-names",
    "/tmp/maft_fuzz_output",
    "--num-gpus", "--num-processes", "--captions", "--masks", "-1", "0", "x", "", "--", "-x", "--help", "folder:/gone",
    "SOLVER.MAX_ITER", "MODEL.WEIGHTS", "gone.pth", "--resume", "--eval-only", "--limit", "nan", "é", "--machine-rank",
    "--parts", "--from", "FreeSeg", "--device", "cuda:9", "--sheet", "--workers", "--seeds", "--threads", "--json",
    "--images", "--host", "--port", "99999999", "--set", "--metric", "--thresholds", "--arch", "--data", "--source",
    "--panoptic", "--case", "--captions-per-image", "--dist-url", "--num-machines", "1e400", "\udce9",
]  # fmt: skip


@fuzz
@given(tool=st.sampled_from(TOOLS), words=st.lists(st.sampled_from(WORDS), max_size=6))
def test_command_lines(folder, tool, words):
    """Run up to the point where the tool would begin its work."""
    # A whole config would start training.
    words = [word for word in words if word != "configs/quickstart/maft.yaml" or "--help" in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [tool, *words])
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(sys, "stderr", errors := io.StringIO())
        patch.chdir(ROOT)
        # Without any word the app opens, and stays open.
        patch.setattr("maft.app.server.serve", lambda *_, **__: sys.exit(0))
        with one_sentence_at_most(), pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / tool), run_name="__main__")
    assert "Traceback" not in errors.getvalue()
    assert stop.value.code == 0 or len(errors.getvalue().strip().splitlines()) >= 1


def test_the_harness_sees_a_traceback_and_an_empty_sentence():
    with pytest.raises(AssertionError, match="ValueError instead of a sentence"), one_sentence_at_most():
        raise ValueError("x")
    with pytest.raises(AssertionError, match="not one sentence"), one_sentence_at_most():
        raise UserError("a\nb")
