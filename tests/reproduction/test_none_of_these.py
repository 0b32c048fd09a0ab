"""The tables of what alpha bounds, of a few scenes."""

import json

from PIL import Image

from maft.calibration import GROUPS
from maft.reproduction import none_of_these as experiment


def test_a_model_has_its_rows_and_is_measured_once(monkeypatch, tmp_path):
    for name, value in {
        "_FOR_TEMPERATURE": range(2),
        "_FOR_THRESHOLDS": range(2, 8),
        "_FOR_TEST": range(8, 11),
        "ALPHAS": (0.2,),
        "_DRAWN": 0.2,
    }.items():
        monkeypatch.setattr(experiment, name, value)
    text = experiment.none_of_these(tmp_path, experiment.MODELS[:1], seeds=(1,))
    assert text.count("| IP-CLIP, MAFT, as shipped |") == 4 and text.count("20 %") == 2
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["words"] for row in rows] == list(experiment.OFFERED)
    found = rows[0]["measured"]["0.2"]["unseen"]
    assert 0 <= found["false_alarms"] <= 1 and found["after"] <= 1
    assert Image.open(tmp_path / "picture.png").height > 96
    monkeypatch.setattr(experiment, "_world", None)
    assert experiment.none_of_these(tmp_path, experiment.MODELS[:1], seeds=(1,)) == text


def test_of_alphas_that_take_nothing_away_the_lowest_has_a_row():
    def found(after):
        return {"false_alarms": 0.01, "above": -1.0, "before": 0.5, "after": after}

    taken = {"0.02": (0.4, 0.5), "0.05": (0.5, 0.4), "0.1": (0.5, 0.5), "0.2": (0.5, 0.5)}
    measured = {alpha: dict(zip(GROUPS, map(found, after), strict=True)) for alpha, after in taken.items()}
    idle = {alpha: dict.fromkeys(GROUPS, found(0.5)) for alpha in taken}
    rows = [{"model": "one", "words": "few", "seed": 1, "measured": measured}]
    rows += [{"model": "two", "words": "few", "seed": 1, "measured": idle}]
    lines = [(line["model"], line["alpha"]) for line in experiment._alarms(rows)]
    assert lines == [("one", "2 %"), ("one", "5 %"), ("one", "10 %"), ("two", "2 %")]
