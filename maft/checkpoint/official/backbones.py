"""ImageNet weights of a backbone alone, as Detectron2 (``R-103.pkl``) and Swin publish them."""

from __future__ import annotations

from maft.checkpoint.key_map import KeyMap
from maft.checkpoint.official.resnet import RULES as RESNET_RULES
from maft.checkpoint.official.swin import RULES as SWIN_RULES

# With or without the prefix of a whole model.
_PREFIX = r"(?:backbone\.)?"
# The ImageNet classifier, Swin's last norm, which its four-scale form replaces, and counters of batch statistics.
_HEADS = r"(?:(?:stem\.)?fc\..*|linear\..*|head\..*|norm\.(?:weight|bias)|.*\.num_batches_tracked)"

KEY_MAP = KeyMap(
    [(_PREFIX + pattern, target) for pattern, target in ((_HEADS, None), *RESNET_RULES, *SWIN_RULES)],
)
