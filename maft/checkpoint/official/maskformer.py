"""Names of the official MaskFormer head (``sem_seg_head.`` of ZSSeg and OVSeg), without that prefix."""

from maft.checkpoint.key_map import Rule

_DECODER = r"predictor\.transformer\.decoder"
_ENCODER = r"predictor\.transformer\.encoder"

RULES: tuple[Rule, ...] = (
    # The official pyramid counts its levels from the highest resolution: 1 is res2.
    *((rf"pixel_decoder\.adapter_{n}\.(.+)", rf"pixel_decoder.lateral.res{n + 1}.\1") for n in range(1, 4)),
    *((rf"pixel_decoder\.layer_{n}\.(.+)", rf"pixel_decoder.output.res{n + 1}.\1") for n in range(1, 5)),
    (r"(pixel_decoder\.mask_features\.(?:weight|bias))", r"\1"),
    (_DECODER + r"\.layers\.(\d+\..+)", r"transformer.decoder.\1"),
    (_DECODER + r"\.norm\.(weight|bias)", r"transformer.decoder_norm.\1"),
    (_ENCODER + r"\.layers\.(\d+\..+)", r"transformer.encoder.\1"),
    (_ENCODER + r"\.norm\.(weight|bias)", r"transformer.encoder_norm.\1"),
    (r"predictor\.((?:query_embed|input_proj|class_embed|mask_embed)\..+)", r"\1"),
)
