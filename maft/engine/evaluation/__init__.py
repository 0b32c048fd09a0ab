"""Evaluators, the loop that runs them, and the reports they end in."""

from maft.engine.evaluation.instance import InstanceEvaluator
from maft.engine.evaluation.panoptic import PanopticEvaluator
from maft.engine.evaluation.pictures import draw_predictions
from maft.engine.evaluation.runner import check_evaluation, evaluate, evaluate_dataset
from maft.engine.evaluation.semantic import SemanticEvaluator

__all__ = [
    "InstanceEvaluator",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "check_evaluation",
    "draw_predictions",
    "evaluate",
    "evaluate_dataset",
]
