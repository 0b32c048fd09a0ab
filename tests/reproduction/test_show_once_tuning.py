"""How the constants of examples are chosen, of a few scenes."""

import json

from maft.config import load_config
from maft.miniature import miniature_classes
from maft.reproduction import show_once_tuning as experiment
from maft.reproduction.methods import Method
from maft.sharpening import CONSTANTS


def test_the_constants_in_use_are_among_the_candidates_each_of_which_is_another():
    assert CONSTANTS in experiment.CANDIDATES and len(set(experiment.CANDIDATES)) == len(experiment.CANDIDATES)


def test_no_really_unseen_class_is_shown_and_trained_classifiers_never_saw_those_that_are():
    unseen, held_out = miniature_classes().unseen[0], miniature_classes().held_out
    for trains in (True, False):
        for shown in experiment._shown_classes(trains):
            assert not set(shown) & set(unseen) and (not trains or shown == held_out)
    for row in experiment.tuning_methods():
        run = row.run(experiment.Path("output"), 1)
        assert list(load_config(run.config, list(run.overrides)).DATASETS.TRAIN) == ["miniature_train_seen_tuning"]


def test_the_best_candidate_gains_most_of_those_that_cost_others_little():
    def changes(gain, others):
        return {str(shots): [[(gain[number], others[number])] for number in range(3)] for shots in experiment.SHOTS}

    measured = {"a": changes((1.0, 2.0, 3.0), (0.0, -0.4, -3.1))}
    lines = [experiment._line(number, measured) for number in range(3)]
    best = sorted(lines, key=experiment._rank, reverse=True)
    assert [line["gain"] for line in best] == [2.0, 1.0, 3.0]


def test_a_method_is_measured_once(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "_SCENES", 24)
    monkeypatch.setattr(experiment, "_DRAWS", 1)
    monkeypatch.setattr(experiment, "CANDIDATES", (CONSTANTS,))
    monkeypatch.setattr(experiment, "prepare", lambda: None)
    monkeypatch.setattr(experiment, "execute", lambda run: None)
    rows = [Method("Mask pooling", "mask_pooling.yaml", trains=False)]
    text = experiment.tune_show_once(tmp_path, rows)
    found = json.loads((tmp_path / "table.json").read_text())["Mask pooling"]
    assert list(found) == ["1", "3", "5"] and len(found["1"][0]) == 1
    monkeypatch.setattr(experiment, "_measured", None)
    assert experiment.tune_show_once(tmp_path, rows) == text
