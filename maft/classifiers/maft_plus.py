"""MAFT+ (Jiao et al., ECCV 2024): mask pooling with a tuned CLIP trunk and texts that adapt to the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from maft.classifiers.dense_features import require_dense_features
from maft.classifiers.mask_pooling import MaskPooling
from maft.classifiers.text_transfer import ContentDependentTransfer, build_text_transfer
from maft.clip import CLIPEncoder
from maft.clip.dense import dense_features
from maft.errors import UserError
from maft.registry import CLASSIFIERS, BuildContext
from maft.structures import Images, TextClassifier


@CLASSIFIERS.register()
class MAFTPlus(MaskPooling):
    """Mask pooling whose vision and text sides are tuned together (section 3).

    Args:
        text_transfer: adapts the texts to each image.
        load_teacher: gives the image tower as pre-trained, for representation compensation; called when the first
            training step asks for it. The teacher is not part of checkpoints.
        rows_in_memory_order: the official reshape of the dense features that the transfer reads, with which the
            released weights were trained; see `maft.clip.dense.project_dense`.
    """

    def __init__(
        self,
        text_transfer: ContentDependentTransfer,
        load_teacher: Callable[[], nn.Module],
        *,
        rows_in_memory_order: bool = False,
    ) -> None:
        super().__init__()
        self.text_transfer = text_transfer
        self.rows_in_memory_order = rows_in_memory_order
        self._load_teacher = load_teacher
        # In a tuple it is no submodule: evaluation does without it, and checkpoints hold one tower.
        self._teacher: tuple[nn.Module, ...] = ()

    @classmethod
    def from_options(
        cls,
        context: BuildContext,
        *,
        text_transfer: str = "post_norm",
        transfer_heads: int = 8,
        rows_in_memory_order: bool = False,
    ) -> MAFTPlus:
        """The teacher is a copy of ``context.clip``'s tower, or where that is a checkpoint's, the original CLIP's.

        Raises:
            UserError: CLIP is a ViT, or the form of the transfer is unknown.
        """
        require_dense_features(context.clip, "MAFTPlus")
        option = "MODEL.CLASSIFIER.MAFTPlus.TEXT_TRANSFER"
        transfer = build_text_transfer(text_transfer, context.clip.embed_dim, transfer_heads, option)
        if transfer is None:
            raise UserError(f"{option} is none: use the classifier MaskPooling for texts that do not adapt.")
        return cls(transfer, _pretrained_tower(context), rows_in_memory_order=rows_in_memory_order)

    @property
    def teacher(self) -> nn.Module:
        """The image tower as pre-trained, frozen and in eval mode."""
        if not self._teacher:
            self._teacher = (self._load_teacher().eval().requires_grad_(False),)
        return self._teacher[0]

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The text transfer."""
        return self.text_transfer.parameters()

    def trainable_clip_parameters(self, clip: CLIPEncoder) -> Iterator[nn.Parameter]:
        """The trunk of the image tower; its head, which projects into the joint space, stays."""
        head = ("trunk.head.", "head.", "attnpool.")
        return (parameter for name, parameter in clip.visual.named_parameters() if not name.startswith(head))

    def texts(self, text: TextClassifier, dense: Tensor, clip: Any) -> TextClassifier:
        """Texts adapted to each image."""
        return self.text_transfer(text, clip.project_dense(dense, rows_in_memory_order=self.rows_in_memory_order))

    @torch.no_grad()
    def teacher_features(self, images: Images, clip: CLIPEncoder) -> Tensor:
        """The pre-trained tower's dense features (B, C, H/32, W/32)."""
        teacher = self.teacher.to(images.pixels.device)
        return dense_features(teacher, images.normalized(clip.pixel_mean, clip.pixel_std))["dense"]


def _pretrained_tower(context: BuildContext) -> Callable[[], nn.Module]:
    if context.pretrained_clip is not None:
        load = context.pretrained_clip
        return lambda: load().visual
    # Copied now, before training changes it.
    tower = deepcopy(context.clip.visual)
    return lambda: tower
