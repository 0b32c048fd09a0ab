"""Whether the parts of a model answer as `maft.interfaces` says; asked once, of the first batch.

A component of one's own that returns another shape or numbers that are not finite would otherwise fail somewhere else,
or nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maft.errors import UserError, shown
from maft.structures import Classification, Proposals

_Check = Callable[[nn.Module, tuple[Any, ...], Any], None]


def check_answers(
    proposer: nn.Module, classifier: nn.Module | None, ensemble: object, losses: Iterable[nn.Module]
) -> None:
    """Has every part checked that it says what it does, and later its first answer in training and in evaluation.

    Raises:
        UserError: one has no forward.
    """
    losses = tuple(losses)
    for part in (proposer, *losses):
        check_forward(part)
    # What looks at masks and names them needs no forward of its own.
    if classifier is not None and not (_is_written(classifier, "embed") and _is_written(classifier, "compare")):
        check_forward(classifier)
    check_forward(ensemble, "__call__")
    proposer.register_forward_hook(_AtFirst(_check_proposer))
    if classifier is not None:
        classifier.register_forward_hook(_AtFirst(_check_classifier))
    for loss in losses:
        loss.register_forward_hook(_AtFirst(_check_loss))


def _check_proposer(part: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
    images, text, *_ = given
    # A proposer that scores with the texts of a vocabulary without void has no column for it.
    check_proposals(part, answer, len(images.sizes), text.num_classes, may_lack_void=text.void is None)


def _check_classifier(part: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
    _, proposals, text, *_ = given
    check_classification(part, answer, proposals, text.num_classes)


def _check_loss(part: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
    check_losses(part, answer)


class _AtFirst:
    """A forward hook that acts once in training and once in evaluation; no closure, so that models can be pickled."""

    def __init__(self, check: _Check) -> None:
        self.check = check
        self.modes: set[bool] = set()

    def __call__(self, module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
        if module.training not in self.modes:
            self.modes.add(module.training)
            self.check(module, given, answer)


def check_forward(part: object, method: str = "forward") -> None:
    """Refuses a component that does not say what it does.

    Raises:
        UserError: neither it nor a base class below those of `maft.interfaces` has the method.
    """
    if not _is_written(part, method):
        raise UserError(f"{type(part).__name__} has no {method}: write it as maft/interfaces.py describes it.")


def _is_written(part: object, method: str) -> bool:
    owner = next(cls for cls in type(part).__mro__ if method in vars(cls))
    return owner is not nn.Module and owner.__module__ != "maft.interfaces"


def check_proposals(
    proposer: object, proposals: Proposals, images: int, classes: int, *, may_lack_void: bool = False
) -> None:
    """Raises `UserError` unless there are (B, Q, h, w) masks without NaN and class scores of (B, Q, C + 1), if any."""
    name = type(proposer).__name__
    _check_type(name, proposals, Proposals)
    masks, scores = proposals.masks, proposals.class_logits
    if masks.ndim != 4 or len(masks) != images:
        raise UserError(f"{name} returns masks of shape {tuple(masks.shape)}, not ({images}, masks, height, width).")
    if not masks.isfinite().all():
        raise UserError(f"{name} returns masks that are not finite: are its weights?")
    columns = (classes, classes + 1) if may_lack_void else (classes + 1,)
    if scores is not None and tuple(scores.shape) not in [(*masks.shape[:2], count) for count in columns]:
        expected = (*masks.shape[:2], classes + 1)
        raise UserError(f"{name} returns class scores of shape {tuple(scores.shape)}, not {expected} (void last).")


def check_classification(classifier: object, answer: Classification, proposals: Proposals, classes: int) -> None:
    """Raises `UserError` unless the logits are (B, Q, C), or with void (B, Q, C + 1), and numbers where valid."""
    name = type(classifier).__name__
    _check_type(name, answer, Classification)
    expected = (*proposals.masks.shape[:2], classes + answer.has_void)
    if tuple(answer.logits.shape) != expected:
        void = "with void" if answer.has_void else "without void"
        raise UserError(f"{name} returns logits of shape {tuple(answer.logits.shape)}, not {expected} ({void}).")
    logits = answer.logits if answer.valid is None else answer.logits[answer.valid]
    # Minus infinity rules a class out.
    if (logits.isnan() | (logits == torch.inf)).any():
        raise UserError(f"{name} returns logits that are not finite for masks that it calls valid: are its weights?")


def check_losses(owner: object, terms: Mapping[str, Tensor]) -> None:
    """Raises `UserError` unless a component's losses are finite scalar tensors by name."""
    name = type(owner).__name__
    _check_type(name, terms, Mapping)
    for term, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim:
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
            raise UserError(f"{name} returns the loss {term!r} {what}, not a scalar tensor: take its mean or sum.")
        if not value.isfinite():
            raise UserError(f"{name} returns the loss {term!r} {value.item()} for the first batch: correct it.")


def _check_type(name: str, answer: Any, expected: type) -> None:
    if not isinstance(answer, expected):
        raise UserError(f"{name} returns {type(answer).__name__}, not {expected.__name__}: see maft/interfaces.py.")
