"""Evaluators, the loop that runs them, and the reports they end in."""

from maft.evaluation.cityscapes import CityscapesInstanceEvaluator
from maft.evaluation.instance import InstanceEvaluator
from maft.evaluation.mask_accuracy import MaskAccuracyEvaluator
from maft.evaluation.panoptic import PanopticEvaluator
from maft.evaluation.pictures import draw_predictions
from maft.evaluation.runner import check_evaluation, evaluate, evaluate_dataset, evaluate_index, index_config
from maft.evaluation.semantic import SemanticEvaluator

__all__ = [
    "CityscapesInstanceEvaluator",
    "InstanceEvaluator",
    "MaskAccuracyEvaluator",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "check_evaluation",
    "draw_predictions",
    "evaluate",
    "evaluate_dataset",
    "evaluate_index",
    "index_config",
]
