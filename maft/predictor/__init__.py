"""An image and class names in, what was found out: the door for `maft predict`, the app and notebooks."""

from maft.data.pixels import ImageLike
from maft.predictor.loaded import Running
from maft.predictor.prediction import Instance, Prediction
from maft.predictor.predictor import Predictor
from maft.predictor.words import thing_flags

__all__ = ["ImageLike", "Instance", "Prediction", "Predictor", "Running", "thing_flags"]
