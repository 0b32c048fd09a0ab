"""The tables of what alpha bounds, of a few scenes."""

import json

from PIL import Image

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
