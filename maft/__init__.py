"""Mask-based open-vocabulary segmentation on Detectron2: MAFT, OVSeg, Mask-Adapter and their relatives."""

import warnings

# Said by recent torch while libraries beneath us are imported; nothing a user of ours can act on.
warnings.filterwarnings("ignore", message=".torch.jit.script. is deprecated", category=FutureWarning)

__version__ = "0.1.0.dev0"
