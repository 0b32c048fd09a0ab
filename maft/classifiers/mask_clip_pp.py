"""MaskCLIP++ (Zeng et al., 2024): CLIP tuned on true masks alone, by a mask prior in its image tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from maft.classifiers.mask_clip_pp_input import masks_on_grid, prepare
from maft.classifiers.mask_clip_pp_prior import (
    class_token_embeddings,
    has_official_batches,
    mean_under_masks,
    prior_bias,
    require_mask_prior,
    scale_shape,
)
from maft.classifiers.mask_clip_pp_similarity import LinearSimilarity, PseudoTextSimilarity, Similarity
from maft.classifiers.mask_clip_pp_tuning import (
    ImageRule,
    TextRule,
    tuned_image_parameters,
    tuned_text_parameters,
)
from maft.clip import CLIPEncoder, load_clip
from maft.clip.prompt_axis import PromptEncoder
from maft.clip.sources import RANDOM
from maft.clip.towers import ClassTokenTower
from maft.clip.towers.maps import ConvNeXtTower
from maft.clip.towers.resnet import ResNetTower
from maft.errors import UserError
from maft.interfaces import BuildContext, MaskClassifier
from maft.matching import ground_truth_proposals
from maft.options import Channels, Dropout, Fraction, Positive, PositiveLayers, Side
from maft.registry import CLASSIFIERS
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, Targets, TextClassifier

_NODE = "MODEL.CLASSIFIER.MaskCLIPpp"


@CLASSIFIERS.register()
class MaskCLIPpp(MaskClassifier):
    """One embedding for each soft mask from the image tower itself, and learned similarities to the prompts.

    Texts are read under every template by itself, by the text tower of the same CLIP. Without another one of its own
    it works with the shared CLIP and tunes that.

    Args:
        shared: the shared CLIP.
        own: a CLIP of its own, or None.
        own_clip: name of a CLIP of its own, as ``MODEL.CLIP.NAME`` takes it; empty: the shared one.
        own_pretrained: its weights, as ``MODEL.CLIP.PRETRAINED`` takes them.
        blocks: of a tower with a class token, how many of the last blocks see masks.
        mask_scale: what the logarithms of the factors inside a mask start from.
        mask_threshold: a cell belongs to a mask that exceeds it there; None: half the mask's own maximum.
        similarity: linear (class-token towers and ResNets as released), pseudo_text (ConvNeXt as released), or mean,
            the cosines of CLIP as it is, with nothing learned.
        similarity_width: channels of linear.
        similarity_heads: attention heads of pseudo_text.
        similarity_dropout: of the attention of pseudo_text, in training.
        templates: a named set of prompt templates, or a list of templates with ``{}``.
        synonyms: what commas in a class string mean (see ``MODEL.VOCABULARY.SYNONYMS``); in training one synonym of
            each class is drawn.
        test_size: short side of images at test and while nothing trains; None keeps their size, as training does.
        divisor: padded sizes are multiples of it; None: the stride of the tower.
        train: what trains of the image tower: attention (of EVA-02 query and value projections, of others the joint
            ones, and the position embedding), all, or none.
        train_text: what trains of the text tower: none, attention (joint projections and the position embedding), or
            attention_mlp_norms, the released EVA towers', in which LayerNorms and MLPs of the blocks train as well.
        train_similarity: whether what ``similarity`` learns and ``mask_scale`` train.
        official_batches: the released EVA towers' training: in a batch, mask tokens start from other tokens than the
            class token, and rotary positions shift where numbers of masks differ; alone an image is as in the paper.
        activation_checkpointing: recompute the blocks of a class-token tower in the backward pass to save memory.

    Raises:
        UserError: the mask prior is not defined for the tower, or an option does not fit it.
    """

    def __init__(
        self,
        shared: CLIPEncoder,
        own: CLIPEncoder | None = None,
        *,
        blocks: PositiveLayers = 3,
        mask_scale: Annotated[float, Field(ge=-100, le=10)] = -5.0,
        mask_threshold: Fraction | None = None,
        similarity: Literal["linear", "pseudo_text", "mean"] = "linear",
        similarity_width: Channels = 768,
        similarity_heads: Channels = 8,
        similarity_dropout: Dropout = 0.1,
        templates: str | Sequence[str] = "vild",
        synonyms: Literal["whole", "average", "max"] = "max",
        test_size: Side | None = None,
        divisor: Positive | None = None,
        train: ImageRule = "attention",
        train_text: TextRule = "none",
        train_similarity: bool = True,
        official_batches: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        clip = own or shared
        tower = clip.tower
        require_mask_prior(tower, clip.name)
        if isinstance(tower, ClassTokenTower) and blocks > len(tower.blocks):
            raise UserError(
                f"{_NODE}.BLOCKS is {blocks}, but the image tower of {clip.name} has {len(tower.blocks)} blocks."
            )
        if test_size is not None and test_size < tower.stride:
            raise UserError(
                f"{_NODE}.TEST_SIZE is {test_size}, less than one cell of the grid of {clip.name}, {tower.stride}."
            )
        if divisor is not None and divisor < tower.stride:
            raise UserError(
                f"{_NODE}.DIVISOR is {divisor}, less than one cell of the grid of {clip.name}, {tower.stride}."
            )
        if similarity == "pseudo_text" and not isinstance(tower, ConvNeXtTower):
            raise UserError(
                f"{_NODE}.SIMILARITY pseudo_text reads the map that a ConvNeXt pools, which the image tower of "
                f"{clip.name} ({tower.kind}) has not: set linear or mean."
            )
        if official_batches and not has_official_batches(tower):
            raise UserError(
                f"{_NODE}.OFFICIAL_BATCHES is what the release does with EVA towers, and the image tower of "
                f"{clip.name} ({tower.kind}) is none: remove it."
            )
        self.clip = own
        self.prompts = PromptEncoder(clip.embed_dim, clip.text_width, templates=templates, synonyms=synonyms)
        shape = scale_shape(tower, blocks)
        self.mask_scale = nn.Parameter(torch.full(shape, mask_scale)) if shape else None
        self.similarity: Similarity = (
            LinearSimilarity(len(self.prompts.templates), similarity_width)
            if similarity == "linear"
            else PseudoTextSimilarity(clip.embed_dim, similarity_heads, similarity_dropout)
            if similarity == "pseudo_text"
            else Similarity()
        )
        # What is left is the mask scale, whose start is all there is to it.
        self.brings_weights = similarity == "mean"
        self.mask_threshold, self.test_size = mask_threshold, test_size
        self.divisor = tower.stride if divisor is None else divisor
        self.image_rule, self.text_rule, self.train_similarity = train, train_text, train_similarity
        self.official_batches, self.activation_checkpointing = official_batches, activation_checkpointing

    @classmethod
    def from_options(
        cls, context: BuildContext, *, own_clip: str = "", own_pretrained: str = "", **options: Any
    ) -> Any:
        """Raises `UserError` where the CLIP of its own cannot be loaded."""
        if own_pretrained and not own_clip:
            raise UserError(f"{_NODE}.OWN_PRETRAINED is set without OWN_CLIP, whose weights it names: set both.")
        try:
            own = load_clip(own_clip, own_pretrained) if own_clip else None
        except UserError as error:
            raise UserError(f"{_NODE}.OWN_CLIP {own_clip} cannot be loaded: {error}") from error
        classifier = cls(context.clip, own, **options)
        # As released, files leave out a text tower that was not tuned.
        classifier.brought_parts = ["clip"] if own and own_pretrained != RANDOM else []
        return classifier

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What is learned beside CLIP, and what the rules tune of a CLIP of its own."""
        if self.train_similarity:
            yield from self.similarity.parameters()
            if self.mask_scale is not None:
                yield self.mask_scale
        if self.clip is not None:
            yield from self._tuned(self.clip)

    def trainable_clip_parameters(self, clip: CLIPEncoder) -> Iterator[nn.Parameter]:
        """What the rules tune of the shared CLIP, where it is the one that names masks."""
        return iter(()) if self.clip is not None else self._tuned(clip)

    def _tuned(self, clip: CLIPEncoder) -> Iterator[nn.Parameter]:
        yield from tuned_image_parameters(clip.visual, self.image_rule)
        yield from tuned_text_parameters(clip, self.text_rule)

    def training_proposals(self, proposals: Proposals, targets: list[Targets]) -> Proposals:
        """The true masks, whatever is proposed."""
        return ground_truth_proposals(targets)

    def embed(self, images: Images, proposals: Proposals, clip: CLIPEncoder) -> EmbeddedMasks:
        """Embeddings (B, Q, D); a mask without any value on the grid is not valid."""
        clip = self.clip or clip
        pixels, sizes = prepare(images, clip, None if self.training else self.test_size, self.divisor)
        embeddings, masks, dense = self.encode(pixels, sizes, images, proposals, clip)
        context = {} if dense is None else {"dense": list(dense)}
        return EmbeddedMasks(embeddings, masks.flatten(2).sum(-1) > 0, context)

    def compare(self, embedded: EmbeddedMasks, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Logits (B, Q, C), or (B, Q, C + 1) with void last.

        The void row of a ``text`` of the same CLIP counts as a text with one embedding under every template; with a
        CLIP of its own there is no void.

        Raises:
            UserError: ``text`` does not know the names it is of.
        """
        clip, embeddings = self.clip or clip, embedded.embeddings
        dense = torch.stack(embedded.context["dense"]) if "dense" in embedded.context else None
        prompts, row_class = self._prompts(text, clip)
        void = self.clip is None and text.void is not None
        if void:
            assert text.void is not None
            prompts = torch.cat([prompts, text.void.to(prompts.dtype).expand(1, prompts.shape[1], -1)])
        with torch.autocast(embeddings.device.type, enabled=False):
            scores = self.similarity(embeddings.float(), prompts, clip.temperature, dense)
        logits = text.class_maximum(scores, row_class)
        return Classification(logits, embeddings, embedded.valid, has_void=void)

    def encode(
        self,
        pixels: Tensor,
        sizes: Sequence[tuple[int, int]],
        images: Images,
        proposals: Proposals,
        clip: CLIPEncoder,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the image tower makes of masks.

        Args:
            pixels: (B, 3, H, W) as `prepare` gives them, with the ``sizes`` of the images in it.

        Returns:
            embeddings (B, Q, D), masks on the grid (B, Q, gh, gw), and dense embeddings (B, D, gh, gw) where they are
            read.
        """
        tower: Any = clip.tower
        padded = (int(pixels.shape[-2]), int(pixels.shape[-1]))

        def on(grid: tuple[int, int]) -> Tensor:
            return masks_on_grid(proposals, images, sizes, padded, grid)

        if isinstance(tower, ClassTokenTower):
            assert self.mask_scale is not None
            masks = on(tower.grid(*padded))
            embeddings = class_token_embeddings(
                tower,
                pixels,
                masks,
                self.mask_scale,
                self.mask_threshold,
                numbers=_numbers(proposals) if self.official_batches else None,
                checkpointing=self.activation_checkpointing,
            )
            return embeddings, masks, None
        features = tower.dense_features(pixels)["dense"]
        masks = on((features.shape[-2], features.shape[-1]))
        if isinstance(tower, ResNetTower):
            assert self.mask_scale is not None
            bias = prior_bias(masks, self.mask_scale, self.mask_threshold)
            return tower.pool_biased(features, bias), masks, None
        dense = tower.project_dense(features) if self.similarity.reads_map else None
        return mean_under_masks(tower, features, masks), masks, dense

    def _prompts(self, text: TextClassifier, clip: CLIPEncoder) -> tuple[Tensor, Tensor]:
        """(T, P, D) prompts of all texts, in training of one a class, and the class (T,) of each text."""
        if text.vocabulary is None:
            raise UserError("MaskCLIPpp reads class names itself, and these text embeddings are of no names.")
        if not self.training:
            return self.prompts.under_every_template(text.vocabulary, clip)
        rows = self.prompts.drawn(text.vocabulary, clip)
        return rows, torch.arange(len(rows), device=rows.device)


def _numbers(proposals: Proposals) -> list[int]:
    """How many masks each image has."""
    batch, most = proposals.masks.shape[:2]
    return [most] * batch if proposals.valid is None else proposals.valid.sum(1).tolist()
