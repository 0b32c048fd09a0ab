"""Where a GPU has no memory left, a sentence says which options need less."""

import pytest
import torch
from engine import tiny_run

from maft.engine.memory import evaluation_advice, training_advice, within_memory
from maft.errors import UserError

PYTORCH = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which\nmore"


def test_the_sentence_has_what_was_asked_for_and_the_advice():
    sentence = (
        r"^The memory of the GPU does not suffice for the training "
        r"\(CUDA out of memory\. Tried to allocate 2\.00 GiB\): leave more\.$"
    )
    with pytest.raises(UserError, match=sentence), within_memory("the training", "leave more"):
        raise torch.cuda.OutOfMemoryError(PYTORCH)


def test_other_faults_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^else$"), within_memory("the training", "leave more"):
        raise RuntimeError("else")


def test_a_training_names_the_options_that_are_left(tmp_path):
    advice = training_advice(tiny_run.config(tmp_path), processes=1)
    for option in ("SOLVER.ACCUMULATE 2 ", "SOLVER.AMP.DTYPE bfloat16", "SOLVER.ACTIVATION_CHECKPOINTING"):
        assert option in advice
    assert "SOLVER.SHARDED" not in advice
    used = tiny_run.config(
        tmp_path, "SOLVER.ACCUMULATE", 4, "SOLVER.AMP.ENABLED", True,
        "SOLVER.ACTIVATION_CHECKPOINTING", ["backbone"],
    )  # fmt: skip
    assert training_advice(used, processes=1).startswith("smaller crops (INPUT.CROP.SIZE")
    assert "SOLVER.ACCUMULATE" not in training_advice(tiny_run.config(tmp_path), processes=4)
    assert "SOLVER.SHARDED True" in training_advice(tiny_run.config(tmp_path), processes=4)


def test_an_evaluation_names_the_options_that_are_left(tmp_path):
    assert evaluation_advice(tiny_run.config(tmp_path)).startswith("INPUT.MIN_SIZE_TEST below 800")
    used = tiny_run.config(tmp_path, "MODEL.INFERENCE.LABELS_ONLY", False, "TEST.AUG.ENABLED", True)
    advice = evaluation_advice(used)
    assert "LABELS_ONLY True" in advice and "TEST.AUG.MIN_SIZES" in advice
