"""The table of what trainings hold agrees with a real optimiser step, and the page shows it as it is."""

import logging
from pathlib import Path

import memory_table
import pytest
import torch

from maft.building import build_model
from maft.config import load_config
from maft.engine.solver import build_optimizer
from maft.packaged import configs

PAGE = (Path(__file__).parents[2] / "docs/memory_and_hours.md").read_text(encoding="utf-8")
NAMES = [f"{file.parent.name}/{file.stem}" for file in memory_table.shown_configs()]


def test_the_bytes_are_those_of_a_model_and_optimizer_with_memory():
    file = configs() / "quickstart/maft.yaml"
    cfg = load_config(file)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    held = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
            held.append(parameter.grad)
    optimizer.step()
    for state in optimizer.state.values():
        held += [value for value in state.values() if torch.is_tensor(value)]
    assert memory_table.measure(file).held == sum(tensor.numel() * tensor.element_size() for tensor in held)


@pytest.mark.parametrize(
    "name",
    [
        "fcclip/fcclip_r50_coco-panoptic",
        "maft/maft_vitb16_coco-stuff-171",
        "maskclippp/eva_l14-336_untrained",
        "ovseg/region_clip_vitb16",
    ],
)
def test_the_page_has_the_numbers(name):
    logging.disable(logging.WARNING)
    try:
        numbers = memory_table.line([name], memory_table.measure(configs() / f"{name}.yaml")).split("|", 2)[2]
    finally:
        logging.disable(logging.NOTSET)
    assert any(line.startswith(f"| `{name}`") and line.endswith(numbers) for line in PAGE.splitlines())


def test_every_config_is_counted_once():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") and line.split("`")[1] in NAMES]
    more = sum(int(row.split(" and ")[1].split()[0]) for row in rows if " more " in row.split("|")[1])
    assert len(rows) + more == len(NAMES)
