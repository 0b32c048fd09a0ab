"""Every config key this project adds to Detectron2's, with its meaning.

Component options are not listed here: they live under the component's own name and are checked against its
constructor when the config is read (see `maft.registry`).
"""

from __future__ import annotations

from detectron2.config import CfgNode, get_cfg


def add_maft_config(cfg: CfgNode) -> None:
    """Adds our keys and their defaults to a Detectron2 config, in place."""
    # Modules, or paths of .py files, that register components of one's own; imported before anything is checked.
    cfg.IMPORTS = []
    _add_model(cfg)
    _add_data(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_model(cfg: CfgNode) -> None:
    model = cfg.MODEL
    model.META_ARCHITECTURE = "OpenVocabSegmentor"
    model.MASK_ON = False

    model.CLIP = CfgNode()
    # open_clip architecture name, a folder with open_clip_config.json, or a shipped tower: tiny_vit, tiny_convnext.
    model.CLIP.NAME = "ViT-B-16-quickgelu"
    # open_clip tag (openai, laion2b_...), a weights file, "" for a folder's own weights, or random.
    model.CLIP.PRETRAINED = "openai"

    model.VOCABULARY = CfgNode()
    # Which class strings of a dataset are fed to CLIP: plain, maft, ovseg or fcclip.
    model.VOCABULARY.CLASS_NAMES = "maft"
    # Prompt template set: single, vild (14) or imagenet (80).
    model.VOCABULARY.TEMPLATES = "vild"
    # Comma-separated synonyms of a class: whole (one string), average or max (best synonym).
    model.VOCABULARY.SYNONYMS = "whole"
    # A learned no-object embedding beside the classes.
    model.VOCABULARY.VOID = True
    # Whether that embedding has gradients.
    model.VOCABULARY.TRAIN_VOID = True
    # Which classes count as seen at test: split (the dataset's), overlap (shares a synonym with training) or none.
    model.VOCABULARY.SEEN = "split"
    # Folder for text embeddings that outlive the process; "" keeps them in memory only.
    model.VOCABULARY.CACHE_DIR = ""

    # For MODEL.BACKBONE.NAME build_swin_backbone; MODEL.BACKBONE.FREEZE_AT counts the patch embedding as stage 1.
    swin = model.SWIN = CfgNode()
    swin.EMBED_DIM = 96
    swin.DEPTHS = [2, 2, 6, 2]
    swin.NUM_HEADS = [3, 6, 12, 24]
    swin.WINDOW_SIZE = 7
    swin.PATCH_SIZE = 4
    swin.MLP_RATIO = 4.0
    swin.QKV_BIAS = True
    swin.PATCH_NORM = True
    # A learned absolute position embedding, made for square images of this size.
    swin.APE = False
    swin.PRETRAIN_IMG_SIZE = 224
    swin.DROP_PATH_RATE = 0.3
    swin.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Recompute the blocks in the backward pass to save memory.
    swin.USE_CHECKPOINT = False

    # The ResNets of detectron2's DeepLab project: three-convolution stem ("deeplab") or one ("basic"), dilations.
    model.RESNETS.STEM_TYPE = "basic"
    model.RESNETS.RES4_DILATION = 1
    model.RESNETS.RES5_MULTI_GRID = [1, 2, 4]

    # What a training starts from, entries {FILE, TAKE, INTO, MAY_LACK}: see maft.checkpoint.loading. MODEL.WEIGHTS
    # names a whole trained model; where that is set, they are read for what it lacks alone.
    model.START_FROM = []

    model.PROPOSER = CfgNode(new_allowed=True)
    model.PROPOSER.NAME = "Mask2Former"
    # A frozen proposer has no gradients and no losses, and stays in eval mode.
    model.PROPOSER.FROZEN = False
    # The official MAFT release leaves dropout on in its frozen generator during stage 2.
    model.PROPOSER.DROPOUT_WHEN_FROZEN = False

    model.CLASSIFIER = CfgNode(new_allowed=True)
    # A registered mask classifier, or none: the proposer's own class scores are used.
    model.CLASSIFIER.NAME = "none"
    # Multiplied with the cosine of mask and text embeddings; classifiers on dense CLIP features use CLIP's own factor.
    model.CLASSIFIER.LOGIT_SCALE = 100.0
    # A frozen classifier takes no part in training (evaluation of frozen CLIP, stage-1 training).
    model.CLASSIFIER.FROZEN = False

    model.ENSEMBLE = CfgNode(new_allowed=True)
    # How class scores of proposer and classifier are joined.
    model.ENSEMBLE.NAME = "ClassifierAlone"

    # For MODEL.META_ARCHITECTURE RegionCLIP: CLIP is fine-tuned on mined regions and their nouns.
    region = model.REGION_CLIP = CfgNode()
    # What trains beside the temperature: tower (the image tower), prompts (mask prompts alone) or all.
    region.TRAIN = "tower"
    # How often patches outside a region are replaced by mask prompts; 0 trains without prompts.
    region.MASK_PROMPT_DEPTH = 0

    # One node per registered loss that is used, holding its options.
    model.LOSSES = CfgNode(new_allowed=True)

    inference = model.INFERENCE = CfgNode()
    inference.SEMANTIC = True
    inference.PANOPTIC = False
    inference.INSTANCE = False
    # Resize masks to the output size before classes and masks are combined (official behaviour with panoptic on).
    inference.RESIZE_BEFORE = False
    # Return label maps without the (classes, height, width) score maps: hundreds of classes need little memory then.
    inference.LABELS_ONLY = True
    # Subtracted from the semantic score of seen classes before the argmax (ZegFormer: 0.1 on COCO and VOC).
    inference.SEEN_PENALTY = 0.0
    # Semantic, as OVSeg's demo (0.35): every class has its best proposal alone, its mask cut at this value; 0 is off.
    inference.BEST_MASKS_ABOVE = 0.0
    # Panoptic: a segment needs this score, and this share of its own mask left after overlaps are resolved.
    inference.OBJECT_MASK_THRESHOLD = 0.0
    inference.OVERLAP_THRESHOLD = 0.8
    # Instance: how many (mask, class) pairs are kept per image.
    inference.MAX_INSTANCES = 100


def _add_data(cfg: CfgNode) -> None:
    data = cfg.INPUT
    data.FORMAT = "RGB"
    # Training mapper: semantic (one mask per label present), panoptic (one mask per segment) or region_pairs
    # (regions and nouns of tables that DATASETS.TRAIN names as pairs:/path/pairs.tsv).
    data.MAPPER = "semantic"
    # Side of the square that training images are padded to; 0 pads to the batch maximum.
    data.PADDED_SIZE = 0
    # SSD colour augmentation.
    data.COLOR_AUG_SSD = False
    # A random crop in which one category covers a larger share is drawn again (at most 10 times); 1.0 accepts any.
    data.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # How label maps are resized: pillow (nearest, pixel centres) or torch (nearest, floor), as official releases do.
    data.LABEL_RESIZE = "pillow"
    # Options of region_pairs: side in pixels (CLIP's input size), where the mask comes from (alpha: the region file's
    # alpha channel; colour: the official rule for official data files), and the sentence around a noun, its place
    # marked by {}; "" is the noun alone (a config cannot say "{}": it would be read as an empty node).
    data.REGIONS = CfgNode()
    data.REGIONS.SIZE = 224
    data.REGIONS.MASK = "alpha"
    data.REGIONS.TEMPLATE = ""
    # Large-scale jitter: output size (0 = off) and scale range.
    data.LARGE_SCALE_JITTER = CfgNode()
    data.LARGE_SCALE_JITTER.SIZE = 0
    data.LARGE_SCALE_JITTER.SCALE = [0.1, 2.0]


def _add_solver(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    solver.OPTIMIZER = "ADAMW"
    solver.BETAS = [0.9, 0.999]
    solver.EPS = 1e-8
    solver.LR_SCHEDULER_NAME = "WarmupPolyLR"
    # Poly decay: exponent and the rate it ends on, as a share of the base rate.
    solver.POLY_POWER = 0.9
    solver.END_FACTOR = 0.0
    # [part of a module name, factor] pairs; the factors of every match multiply.
    solver.LR_MULTIPLIERS = []
    solver.WEIGHT_DECAY_EMBED = 0.0
    solver.WEIGHT_DECAY_NORM = 0.0
    # [part of a parameter name, weight decay] pairs; the first match wins over the rules by module type.
    solver.WEIGHT_DECAY_OVERRIDES = [
        ["relative_position_bias_table", 0.0],
        ["absolute_pos_embed", 0.0],
        ["void_embedding", 0.0],
    ]
    # open_clip's rule for fine-tuning CLIP: biases, scales and other tensors under two dimensions are not decayed.
    solver.DECAY_ONLY_MATRICES = False
    # Type of automatic mixed precision when SOLVER.AMP.ENABLED: float16 or bfloat16.
    solver.AMP.DTYPE = "float16"
    # Micro-batches per optimiser step; IMS_PER_BATCH stays the global batch.
    solver.ACCUMULATE = 1
    # Submodules or methods that go through torch.compile: proposer.backbone, proposer.pixel_decoder, proposer.decoder,
    # classifier, or of IP-CLIP, whose tower (classifier.visual) is not called as a whole, classifier.encode_proposals.
    solver.COMPILE = []
    # Several processes: allow trainable parameters that take no part in some steps (costs a graph walk per step).
    solver.FIND_UNUSED_PARAMETERS = False
    # Iterations between log lines, metrics.json entries and TensorBoard scalars.
    solver.LOG_PERIOD = 20
    # How many periodic checkpoints are kept; 0 keeps all.
    solver.KEEP_CHECKPOINTS = 2
    # Iterations between prediction pictures in TensorBoard; 0 turns them off.
    solver.PICTURE_PERIOD = 0


def _add_test(cfg: CfgNode) -> None:
    test = cfg.TEST
    # How many side-by-side pictures (image, ground truth, prediction) an evaluation writes.
    test.VISUALIZE = 0
    # Continue a half-finished evaluation found in OUTPUT_DIR.
    test.RESUME = False
    # generalized: all classes compete; unseen_only: only the unseen ones.
    test.PROTOCOL = "generalized"
    # Published numbers this config reproduces: [dataset, metric, value], printed beside the measured ones.
    test.EXPECTED = []
    # The table and row of the paper that this config reproduces.
    test.REPRODUCES = ""


def default_config() -> CfgNode:
    """Detectron2's defaults with ours added."""
    cfg = get_cfg()
    add_maft_config(cfg)
    return cfg
