"""Every benchmark at a small size: its forms agree, and the measuring tells when they do not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import (
    crops,
    deformable_attention,
    evaluator,
    ip_clip,
    mask_adapter,
    post_processing,
    prompts,
    scaling,
    stage2,
    whole_data,
    whole_models,
)
from benchmarks.catalog import BENCHMARKS, run_benchmark
from benchmarks.measure import Form, compare, largest_difference
from PIL import Image

from maft.errors import UserError

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def small_runs(vit_clip):
    return {
        "ip-clip": lambda: ip_clip.run(CPU, 1, clip=vit_clip(), queries=5, size=64, start_layer=2),
        "stage2": lambda: stage2.run(CPU, 1, clip=vit_clip(), queries=5, size=64, start_layer=2),
        "prompts": lambda: prompts.run(CPU, 1, clip=vit_clip(), names=("a", "b c"), templates=("{}.", "the {} of all")),
        "mask-adapter": lambda: mask_adapter.run(CPU, 1, counts=(3, 5), embed_dim=16, channels=16, grid=(4, 5)),
        "crops": lambda: crops.run(CPU, 1, count=5, height=40, width=60, side=16),
        "evaluator": lambda: evaluator.run(CPU, 1, classes=300, size=(24, 30), queries=6),
        "deformable-attention": lambda: deformable_attention.run(
            CPU, 1, sizes=((2, 3), (4, 6)), heads=2, width=4, compile=False
        ),
    }


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "scaling"])
def test_forms_agree(vit_clip, name):
    for comparison in small_runs(vit_clip)[name]():
        assert comparison.benchmark == name
        first, *others = comparison.rows
        assert first.time_ratio == 1 and first.difference is None
        compared = [row.difference for row in others if row.difference is not None]
        assert compared and all(row.same and row.seconds > 0 for row in others)


def test_growing_costs_are_drawn(tmp_path):
    points = scaling.run(CPU, 1, axes={"proposals": (3, 5), "classes": (4, 8, 9)}, side=48)
    assert [point.setting for point in points] == [f"proposals: {n}" for n in (3, 5)] + [
        f"classes: {n}" for n in (4, 8, 9)
    ]
    scaling.draw(points, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 600


def test_a_fast_form_that_became_slow_is_noticed():
    forms = [Form("ours", lambda: torch.ones(1)), Form("theirs", lambda: torch.ones(1), least_ratio=1e9)]
    assert [row.fast for row in compare("a", "b", forms, CPU, 1).rows] == [True, False]


def test_a_checkout_is_measured_against_itself():
    (table,) = run_benchmark("confusion-171", repeats=1, against=ROOT)
    ours, theirs = table.rows
    assert theirs.difference == 0 and theirs.same and ours.seconds > 0


@pytest.mark.parametrize("work", [
    lambda: whole_data.lsj_mapper(CPU, size=(40, 48), segments=4),
    lambda: post_processing.results(
        CPU, kinds=("semantic", "panoptic", "instance"), queries=8, classes=9, seen=(32, 40), size=(28, 36)
    ),
    lambda: whole_models.maft_inference(CPU, config="quickstart/maft", size=(96, 96)),
])  # fmt: skip
def test_a_piece_of_work_gives_the_same_twice(work):
    prepared = work()
    first, second = prepared.run(), prepared.run()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_another_output_is_noticed():
    ones = torch.ones(3, 2)
    forms = [Form("ours", lambda: ones), Form("theirs", lambda: 1.5 * ones, tolerance=0.1), Form("other", lambda: ones)]
    rows = compare("a", "b", forms, CPU, repeats=2).rows
    assert [row.same for row in rows] == [True, False, True]
    assert [row.difference for row in rows] == [None, pytest.approx(0.5), None]
    assert largest_difference([ones], [ones[:1]]) == float("inf")
    assert largest_difference([ones], [ones, ones]) == float("inf")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory of a process is read from /proc")
def test_peak_memory_counts_what_is_freed_again():
    def allocate(mib):
        block = torch.ones(mib * 2**20, dtype=torch.uint8)
        return block[:1].clone()

    rows = compare("a", "b", [Form("64", lambda: allocate(64)), Form("192", lambda: allocate(192))], CPU, 1).rows
    if rows[0].peak_mib is None:
        pytest.skip("this kernel does not let a process reset its peak memory")
    assert rows[0].peak_mib == pytest.approx(64, abs=8) and rows[1].peak_mib == pytest.approx(192, abs=8)
    assert rows[1].memory_ratio == pytest.approx(3, rel=0.2)


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="Unknown benchmark 'crop'.*Did you mean crops"):
        run_benchmark("crop")
    with pytest.raises(UserError, match="no checkout"):
        run_benchmark("confusion-171", against=Path("nowhere"))
    with pytest.raises(UserError, match="crops compares forms of one checkout"):
        run_benchmark("crops", against=ROOT)
    with pytest.raises(UserError, match="--repeats is 0"):
        run_benchmark("crops", repeats=0)
    with pytest.raises(UserError, match="'gpu' is no device"):
        run_benchmark("crops", device="gpu")


def test_the_tool_writes_what_it_prints(tmp_path):
    out = tmp_path / "numbers.json"
    command = [sys.executable, "tools/benchmark.py", "crops", "--threads", "1", "--repeats", "1", "--json", str(out)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    written = json.loads(out.read_text())
    assert written["threads"] == 1 and "loop over regions" in printed
    for row in written["comparisons"][0]["rows"]:
        assert f"{row['time_ratio']:.2f}" in printed
