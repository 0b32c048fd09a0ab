"""The universal segmenters of the transformers library: its models that answer with masks and classes of queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.proposals.transformers_models import Family, Source, load_model, quietly, transformers_class
from maft.proposals.universal_images import Preparation, load_processor


@dataclass(frozen=True)
class UniversalFamily(Family):
    """What is common to the models of one type.

    Attributes:
        processor: class that prepares their images.
        class_head: where the model keeps the layer that scores classes.
    """

    processor: str = "EomtImageProcessor"
    class_head: str = "class_predictor"


# By ``model_type``.
FAMILIES = {
    "maskformer": UniversalFamily("MaskFormerForInstanceSegmentation", processor="MaskFormerImageProcessor"),
    "mask2former": UniversalFamily("Mask2FormerForUniversalSegmentation", processor="Mask2FormerImageProcessor"),
    "oneformer": UniversalFamily(
        "OneFormerForUniversalSegmentation",
        processor="OneFormerImageProcessor",
        class_head="model.transformer_module.decoder.class_embed",
    ),
    "eomt": UniversalFamily("EomtForUniversalSegmentation"),
    "eomt_dinov3": UniversalFamily("EomtDinov3ForUniversalSegmentation", "5.1"),
    "videomt": UniversalFamily("VideomtForUniversalSegmentation", "5.4", processor="VideomtVideoProcessor"),
}
# Pieces of an image that run together.
_VIEWS_AT_ONCE = 8
_EXAMPLE = "facebook/mask2former-swin-large-coco-panoptic"


@dataclass
class Layer:
    """Predictions of one decoder layer.

    Attributes:
        masks: (N, Q, h, w) logits, N views.
        scores: (N, Q, K + 1) logits of the model's own labels, no object last, or what its class head gives instead.
    """

    masks: Tensor
    scores: Tensor


class UniversalModel(nn.Module):
    """A model with the preparation of its images, and one way to run all families.

    Args:
        model: a model of transformers, see `FAMILIES`.
        preparation: of its images.
        task: tokens of OneFormer's task (1, L) int64; None for other families.

    Raises:
        UserError: another model.
    """

    task: Tensor | None

    def __init__(self, model: nn.Module, preparation: Preparation, task: Tensor | None = None) -> None:
        super().__init__()
        self.network: Any = model
        self.preparation = preparation
        self.family = FAMILIES[model.config.model_type]  # type: ignore[union-attr, index]
        self.register_buffer("task", task, persistent=False)
        if task is not None:
            # Texts of the training pictures' classes, which serve a loss of OneFormer's own.
            inner: Any = self.network.model
            inner.is_training, inner.text_mapper = False, None

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's own class names by number."""
        names = self.network.config.id2label
        return tuple(names[index] for index in sorted(names))

    def replace_class_head(self, make: Callable[[int], nn.Module]) -> None:
        """Scores classes by another layer, made for the width of the queries."""
        parent, _, name = self.family.class_head.rpartition(".")
        place = self.network.get_submodule(parent)
        setattr(place, name, make(getattr(place, name).in_features))

    def forward(self, pixels: Tensor) -> list[Layer]:
        """Predictions for prepared images (N, 3, h, w): of the last layer, in training those of earlier ones before."""
        if self.family.processor == "VideomtVideoProcessor":
            # Every image is a film of one frame, so that none is followed from another.
            output = self.network(pixel_values_videos=pixels[:, None])
            return [Layer(output.masks_queries_logits, output.class_queries_logits)]
        if self.family.processor == "EomtImageProcessor":
            return self._run_eomt(pixels)
        deep = self.training and self.network.config.use_auxiliary_loss
        options = {} if self.task is None else {"task_inputs": self.task.expand(len(pixels), -1)}
        output = self.network(
            pixel_values=pixels,
            # MaskFormer finds its earlier layers among the hidden states.
            output_hidden_states=self.network.config.use_auxiliary_loss,
            output_auxiliary_logits=deep,
            **options,
        )
        earlier = (output.auxiliary_predictions if self.task is not None else output.auxiliary_logits) if deep else None
        return [
            *(Layer(one["masks_queries_logits"], one["class_queries_logits"]) for one in earlier or ()),
            Layer(output.masks_queries_logits, output.class_queries_logits),
        ]

    def _run_eomt(self, pixels: Tensor) -> list[Layer]:
        parts = []
        for views in pixels.split(_VIEWS_AT_ONCE):
            with _recorded(self.network) as layers:
                self.network(pixel_values=views)
            parts.append(layers if self.training else layers[-1:])
        return [
            Layer(torch.cat([one.masks for one in layer]), torch.cat([one.scores for one in layer]))
            for layer in zip(*parts, strict=True)
        ]


@contextmanager
def _recorded(network: Any) -> Iterator[list[Layer]]:
    """Keeps every prediction of an EoMT, which hands only the last one on."""
    layers: list[Layer] = []
    predict = network.predict

    def predict_and_keep(tokens: Tensor) -> tuple[Tensor, Tensor]:
        masks, scores = predict(tokens)
        layers.append(Layer(masks, scores))
        return masks, scores

    network.predict = predict_and_keep
    try:
        yield layers
    finally:
        del network.predict


def load_universal(weights: str, task: str) -> UniversalModel:
    """A universal segmenter with its image processor.

    Args:
        weights: a folder with ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` (OneFormer's
            tokenizer too), or a Hugging Face hub id.
        task: OneFormer's panoptic, semantic or instance; panoptic for all others.

    Raises:
        UserError: see `maft.proposals.transformers_models.load_model`; images cannot be prepared as the folder says; or
            another model is asked for a task.
    """
    source = Source(weights, "MODEL.PROPOSER.Universal.PRETRAINED", "a model with masks of queries", _EXAMPLE)
    model = load_model(source, FAMILIES)
    family = FAMILIES[model.config.model_type]
    tokens = None
    if model.config.model_type == "oneformer":
        tokens = _task_tokens(source, task, model.config.task_seq_len)
    elif task != "panoptic":
        raise UserError(f"MODEL.PROPOSER.Universal.TASK is {task}, but only OneFormer is told a task: remove it.")
    processor = load_processor(source, family.processor, model.config)
    return UniversalModel(model, Preparation(processor, model.config, f"{source.node} {weights}"), tokens)


def _task_tokens(source: Source, task: str, length: int) -> Tensor:
    """(1, length) int64 as OneFormer's own processor makes them: the ids of the words, zero behind."""
    kind = transformers_class("CLIPTokenizer", "4.56", source)
    try:
        with quietly():
            tokenizer = kind.from_pretrained(source.weights)
    except Exception as error:
        raise UserError(
            f"{source.node} {source.weights} lacks the tokenizer that tells OneFormer its task: download vocab.json, "
            "merges.txt and tokenizer_config.json from its page on https://huggingface.co into the folder."
        ) from error
    read = tokenizer([f"the task is {task}"], padding="max_length", max_length=length, truncation=True)
    with torch.device("cpu"):
        return torch.tensor(read["input_ids"]) * torch.tensor(read["attention_mask"])
