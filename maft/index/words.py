"""The part of a model that asking needs: what encodes words and compares them with what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maft.clip import CLIPEncoder, VocabularyEncoder
from maft.errors import UserError, shown
from maft.index.stored import StoredImage
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary


class _Reads(TorchDispatchMode):
    """Notes the memory of every tensor that an operation reads."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor))
        self.places.update(one.untyped_storage().data_ptr() for one in given)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def asked_tensors(model: OpenVocabSegmentor, image: StoredImage, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The parameters and buffers of a model that asking reads, by their names in the model.

    These are the text towers, the vocabulary encoders, and what the classifier's ``compare`` and the proposer's
    ``class_logits`` read when they are called with the image; buffers that no checkpoint holds are among them.

    Args:
        image: any that the model has seen.
        vocabulary: any words.
    """
    with _Reads() as reads:
        model.scored(image.proposals, vocabulary)
        if image.embedded is not None:
            model.named(image.embedded, vocabulary)
    found = {
        name: tensor
        for name, tensor in _tensors(model).items()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in reads.places
    }
    return {name: tensor.detach() for name, tensor in (_text_side(model) | found).items()}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that several modules share under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _text_side(model: OpenVocabSegmentor) -> dict[str, Tensor]:
    """What encodes words, all but the image towers of every CLIP; rows that were kept read none of it."""
    parts = [module for module in model.modules() if isinstance(module, (CLIPEncoder, VocabularyEncoder))]
    seeing = [module.visual for module in parts if isinstance(module, CLIPEncoder)]
    text = {id(tensor) for module in parts for tensor in _tensors(module).values()}
    text -= {id(tensor) for module in seeing for tensor in _tensors(module).values()}
    return {name: tensor for name, tensor in _tensors(model).items() if id(tensor) in text}


def asking_model(
    cfg: CfgNode, tensors: Mapping[str, Tensor], place: str, *, proposer: bool = True
) -> OpenVocabSegmentor:
    """A model that names what was seen (`OpenVocabSegmentor.named`, ``scored``, ``combine``), and sees nothing itself.

    Its image tower, backbone and decoders have shapes and no memory; running them fails.

    Args:
        cfg: config of the model.
        tensors: see `asked_tensors`, on the device that is to ask.
        place: where they come from, for messages.
        proposer: whether the proposer's ``class_logits`` are asked; otherwise it is not built, which may need files.

    Raises:
        UserError: the model cannot be built, or the tensors are not its own.
    """
    if not proposer:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.PROPOSER.NAME = "GroundTruth"
    with torch.device("meta"):
        model = OpenVocabSegmentor(cfg)
    model.requires_grad_(False).eval()
    expected = _tensors(model)
    for name, tensor in tensors.items():
        if name not in expected or expected[name].shape != tensor.shape:
            raise UserError(f"{place} holds {shown(name)}, which its model has not so: index the images again.")
        owner, _, leaf = name.rpartition(".")
        is_parameter = isinstance(expected[name], nn.Parameter)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, False) if is_parameter else tensor)
    if missing := [name for name, value in _text_side(model).items() if value.is_meta]:
        raise UserError(f"{place} lacks {missing[0]}, which words are encoded with: index the images again.")
    return model
