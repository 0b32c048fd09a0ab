"""What a segmentor is assembled from, as its config names it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from maft.backbones import backbone_from_config
from maft.clip import VocabularyEncoder, load_clip
from maft.clip.prompt_learner import PromptLearner
from maft.clip.vocabulary import LEARNED
from maft.config import chosen, component_options
from maft.data.catalog import vocabulary as catalogue_vocabulary
from maft.interfaces import BuildContext
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS, Registry


def segmentor_parts(cfg: CfgNode, clip_weights: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Arguments of `maft.segmentor.OpenVocabSegmentor`.

    Args:
        clip_weights: replace those that ``MODEL.CLIP.PRETRAINED`` names.

    Raises:
        UserError: a component does not exist, cannot be built with its options, or does not fit the CLIP.
    """
    model, names = cfg.MODEL, cfg.MODEL.VOCABULARY
    clip = load_clip(model.CLIP.NAME, model.CLIP.PRETRAINED, weights=clip_weights)
    training = catalogue_vocabulary(cfg.DATASETS.TRAIN[0], names.CLASS_NAMES) if cfg.DATASETS.TRAIN else None
    context = BuildContext(
        clip=clip,
        num_classes=len(training) if training else 0,
        backbone=lambda: backbone_from_config(cfg),
        pretrained_clip=partial(load_clip, model.CLIP.NAME, model.CLIP.PRETRAINED) if clip_weights else None,
    )

    def built(registry: Registry[Any], node: CfgNode) -> Any:
        options = component_options(registry, node)
        return next((registry.build(name, options, context) for name in chosen(registry, node)), None)

    def encoder(**options: Any) -> VocabularyEncoder:
        shared = {"synonyms": names.SYNONYMS, "cache_dir": names.CACHE_DIR}
        if LEARNED in (options["templates"], options.get("test_templates")):
            shared["prompts"] = PromptLearner(clip, **{key.lower(): names.PROMPTS[key] for key in names.PROMPTS})
        return VocabularyEncoder(
            clip.embed_dim, clip.text_width, logit_scale=model.CLASSIFIER.LOGIT_SCALE, **shared, **options
        )

    of_queries = ("TEMPLATES", "TEST_TEMPLATES", "VOID", "TRAIN_VOID", "NORMALIZE_VOID")
    of_regions = names.CLASSIFIER_TEMPLATES
    return {
        "clip": clip,
        "vocabulary_encoder": encoder(**{key.lower(): names[key] for key in of_queries}),
        "classifier_vocabulary_encoder": encoder(templates=of_regions, void=False) if of_regions else None,
        "proposer": built(PROPOSERS, model.PROPOSER),
        "classifier": built(CLASSIFIERS, model.CLASSIFIER),
        "ensemble": built(ENSEMBLES, model.ENSEMBLE),
        "losses": {name: LOSSES.build(name, options, context) for name, options in model.LOSSES.items()},
        "freeze_proposer": model.PROPOSER.FROZEN,
        "dropout_when_frozen": model.PROPOSER.DROPOUT_WHEN_FROZEN,
        "freeze_classifier": model.CLASSIFIER.FROZEN,
        "inference": {key.lower(): value for key, value in model.INFERENCE.items()},
        "vocabulary": training,
    }
