"""Names of FC-CLIP, MAFT+ and Mask-Adapter, which share one model in three stages."""

from __future__ import annotations

from maft.checkpoint.key_map import KeyMap, Rule
from maft.checkpoint.official.clip import RULES as CLIP_RULES
from maft.checkpoint.official.mask2former import RULES as MASK2FORMER_RULES
from maft.checkpoint.official.maskformer import CRITERION

# Relative to `maft.classifiers.maft_plus.ContentDependentTransfer`.
TRANSFER_RULES: tuple[Rule, ...] = (
    (r"cross_atten\.multihead_attn\.(.*)", r"attention.\1"),
    (r"cross_atten\.MLP\.(.*)", r"mlp.\1"),
    (r"cross_atten\.norm\.(.*)", r"norm.\1"),
)

# Relative to `maft.classifiers.mask_adapter.MaskAdapterHead`; its official blocks count from one.
HEAD_RULES: tuple[Rule, ...] = (
    (r"mask_downscaling\.0\.(.*)", r"mask_conv1.\1"),
    (r"mask_downscaling\.1\.(.*)", r"mask_norm1.\1"),
    (r"mask_downscaling\.3\.(.*)", r"mask_conv2.\1"),
    (r"mask_downscaling\.4\.(.*)", r"mask_norm2.\1"),
    (r"mask_downscaling\.6\.(.*)", r"mask_projection.\1"),
    (r"(fuse\..*)", r"\1"),
    *(
        (rf"cnext{block + 1}\.{official}(.*)", rf"blocks.{block}.{ours}\1")
        for block in range(3)
        for official, ours in (
            ("gamma", "gamma"),
            (r"dwconv\.", "conv_dw."),
            (r"norm\.", "norm."),
            (r"pwconv1\.", "mlp.fc1."),
            (r"pwconv2\.", "mlp.fc2."),
        )
    ),
    (r"(norm\..*)", r"\1"),
    (r"final\.(.*)", r"to_maps.\1"),
)

KEY_MAP = KeyMap.nested(
    [
        ("backbone.clip_model.", "clip.", CLIP_RULES),
        # MAFT+'s teacher is CLIP as pre-trained, which the model is built from.
        ("backbone_t.", "", ((r".*", None),)),
        ("sem_seg_head.", "proposer.", MASK2FORMER_RULES),
        CRITERION,
        ("void_embedding.", "vocabulary_encoder.", ((r"weight", "void_embedding"),)),
        ("cdt.", "classifier.text_transfer.", TRANSFER_RULES),
        ("mask_adapter.", "classifier.head.", HEAD_RULES),
    ]
)
