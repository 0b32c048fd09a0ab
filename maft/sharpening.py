"""Examples in scores: what the logits of a class lack at its examples is added to them, with any classifier.

Nothing is trained and no other class changes. Let l_k be the logits by which words name a mask and c a class with
examples. Known masks x_i are its examples and, of the masks that the model proposes in the same images, those that lie
elsewhere. With m_i the best logit of another class at x_i, what l_c lacks there for a lead of ``margin`` is

    r_i = max(0, m_i + margin - l_c(x_i))  at examples,    r_i = - max(0, l_c(x_i) + margin - m_i)  elsewhere,

nothing where words are right already. Kernel ridge regression on embeddings carries it to other masks:

    L_c(x) = l_c(x) + min(m(x), max(0, m(x) - caution t s(x))),    m(x) = sum_i a_i k(x, x_i),
    a = (K + ridge I)^-1 r,    k(x, y) = exp(- sharpness (1 - cos(x, y)) / d),

d being the mean of 1 - cos between examples and other masks, the unit in which this classifier tells masks apart:
cosines of images with images have another range than those with words, and another one for each tower. The kernel is
Tip-Adapter's (Zhang et al., ECCV 2022), which adds labels where this adds what is lacking.

One example says little of how far its class reaches. The regression is the mean of a Gaussian process (Rasmussen and
Williams, 2006, equations 2.25 and 2.26), whose deviation s(x)^2 = 1 - k(x)^T (K + ridge I)^-1 k(x) is small near known
masks alone, and the smaller the more of them there are; t, the root mean square of r at the examples, is its unit. What
is added is a lower bound: as much as is sure, and nothing where that is nothing.

The words of a class without a name say nothing. In the place of l_c stands, with v the mean of its examples, and with
the means over the other known masks of: u all logits, w the best one of each, and s the cosine with v,

    w + slope (w - u) (z(x) - level),    z(x) = (cos(x, v) - s) / (1 - s),

which is the logit of a typical right name for a mask that is so like the examples as ``level`` says, from 0 for
another mask to 1 for an example. In the proposer's own scores such a class is as probable as the best other class, so
that ensembles leave the choice to the classifier, and a mask that the proposer takes for no object stays none.

The constants, `Constants`, are one choice for all classifiers, made on seen classes in other scenes than those of any
table: ``tools/reproduce.py tune_show_once`` repeats it.

Shape letters: B images, Q proposals, C classes, W those with words, T texts, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError
from maft.examples import ExampleEmbeddings
from maft.structures import Classification, EmbeddedMasks, RowLogits, Vocabulary

Compare = Callable[[EmbeddedMasks], Classification]


@dataclass(frozen=True)
class Constants:
    """What the equations above leave open.

    Attributes:
        margin: in logits; e to this is how many times as probable as another one a class is at its examples.
        sharpness: how fast likeness falls with distance.
        ridge: the variance of what words lack at a known mask that says nothing of other masks, 1 being the rest of it.
        caution: how many deviations below the mean the bound lies.
        slope, level: of classes without words.
    """

    margin: float = 2.0
    sharpness: float = 8.0
    ridge: float = 0.1
    caution: float = 0.2
    slope: float = 1.25
    level: float = 0.8


CONSTANTS = Constants()


@torch.no_grad()
def sharpened(
    named: Classification,
    seen: EmbeddedMasks,
    vocabulary: Vocabulary,
    compare: Compare,
    constants: Constants = CONSTANTS,
) -> Classification:
    """What examples make of the names of masks.

    Args:
        named: of the W classes with words, as `compare` gives it.
        seen: the masks as the classifier saw them.
        vocabulary: C classes, whose examples have what this model saw of them.
        compare: names masks with the words of the W classes.
        constants: others are for choosing them.

    Returns:
        logits (B, Q, C), or (B, Q, C + 1) with void last.

    Raises:
        UserError: see `Vocabulary.looks`.
    """
    with torch.autocast(seen.embeddings.device.type, enabled=False):
        masks = F.normalize(seen.embeddings.float(), dim=-1)
        words = named.class_logits
        in_words = [index for index in range(len(vocabulary)) if vocabulary.has_words(index)]
        logits = words.new_zeros(*words.shape[:-1], len(vocabulary))
        logits[..., in_words] = words
        changes: dict[int, Tensor] = {}
        for index in (index for index, examples in enumerate(vocabulary.examples) if examples):
            looks = vocabulary.looks(index, masks.shape[-1], seen.context)
            own = in_words.index(index) if vocabulary.has_words(index) else None
            known = _KnownMasks.of(looks, compare, constants, masks.device)
            found = known.logits(masks, words, own, seen.valid)
            changes[index] = found if own is None else found - logits[..., index]
            logits[..., index] = found
    rows = None if named.rows is None else _sharpened_rows(named.rows, in_words, changes)
    void = named.logits[..., -1:] if named.has_void else named.logits[..., :0]
    return replace(named, logits=torch.cat([logits, void], dim=-1), rows=rows)


@dataclass(frozen=True)
class _KnownMasks:
    """Masks of example images of one class: n examples and other masks.

    Attributes:
        embeddings: (n, D) of unit length.
        words: (n, W) their logits.
        shows: (n,) bool, whether each is an example.
        constants: of the equations.
    """

    embeddings: Tensor
    words: Tensor
    shows: Tensor
    constants: Constants

    @classmethod
    def of(
        cls, looks: tuple[ExampleEmbeddings, ...], compare: Compare, constants: Constants, device: torch.device
    ) -> _KnownMasks:
        embeddings, words, shows = [], [], []
        for look in looks:
            seen = EmbeddedMasks(
                look.embeddings[None].to(device),
                torch.ones(1, len(look.embeddings), dtype=torch.bool, device=device),
                {name: [value.to(device)] for name, value in look.context.items()},
            )
            is_example = torch.arange(len(look.shares)) == 0
            used = (is_example | look.elsewhere).to(device)
            embeddings.append(F.normalize(seen.embeddings[0].float(), dim=-1)[used])
            words.append(compare(seen).class_logits[0].float()[used])
            shows.append(is_example.to(device)[used])
        return cls(torch.cat(embeddings), torch.cat(words), torch.cat(shows), constants)

    def logits(self, masks: Tensor, words: Tensor, own: int | None, valid: Tensor | None) -> Tensor:
        """(B, Q) logits of the class.

        Args:
            masks: (B, Q, D) of unit length.
            words: (B, Q, W) their logits.
            own: which of them are the class's own words; None: it has none.
            valid: (B, Q) bool; of others the embeddings say nothing.
        """
        others = [index for index in range(words.shape[-1]) if index != own]
        if not others:
            # A class that competes with nothing lacks nothing.
            return words[..., own]
        best = self.words[:, others].amax(-1)
        if own is None:
            known, start = self._stand_in(self.embeddings, best), self._stand_in(masks, best)
        else:
            known, start = self.words[:, own], words[..., own]
        margin = self.constants.margin
        lacking = torch.where(self.shows, (best + margin - known).clamp(min=0), -(known + margin - best).clamp(min=0))
        found = start + self._carried(masks, lacking)
        if valid is None:
            return found
        return torch.where(valid, found, words.mean(-1) if own is None else start)

    def _stand_in(self, masks: Tensor, best: Tensor) -> Tensor:
        """(..., D) -> (...), what stands in the place of the logits of words that a class has not."""
        typical, lowest = best[~self.shows].mean(), self.words[~self.shows].mean()
        mean = F.normalize(self.embeddings[self.shows].mean(0), dim=0)
        elsewhere = (self.embeddings[~self.shows] @ mean).mean()
        likeness = (masks @ mean - elsewhere) / (1 - elsewhere).clamp(min=1e-6)
        return typical + self.constants.slope * (typical - lowest) * (likeness - self.constants.level)

    def _carried(self, masks: Tensor, lacking: Tensor) -> Tensor:
        """(..., D) -> (...), what the known masks lack, at others, as far as it is sure."""
        among = self.embeddings @ self.embeddings.T
        unit = (1 - among[self.shows][:, ~self.shows]).mean().clamp(min=1e-6)

        def kernel(cosines: Tensor) -> Tensor:
            # A kernel matrix of near twins is close to singular.
            return torch.exp(-self.constants.sharpness * (1 - cosines.double()) / unit)

        system = kernel(among) + self.constants.ridge * torch.eye(len(among), dtype=torch.float64, device=among.device)
        inverse = torch.linalg.inv(system)
        likeness = kernel(masks @ self.embeddings.T)
        mean = likeness @ (inverse @ lacking.double())
        deviation = (1 - ((likeness @ inverse) * likeness).sum(-1)).clamp(min=0).sqrt()
        scale = lacking[self.shows].double().square().mean().sqrt()
        sure = (mean - self.constants.caution * scale * deviation).clamp(min=0)
        return torch.minimum(mean, sure).float()


def _sharpened_rows(rows: RowLogits, in_words: list[int], changes: dict[int, Tensor]) -> RowLogits:
    """The same for the logits of single texts: those of a class all change alike, and a class without any has a row.

    Args:
        rows: of the classes ``in_words``.
        changes: (B, Q) of each class with examples what its logits change by, of one without words the logits.
    """
    classes = torch.tensor(in_words, device=rows.row_class.device)[rows.row_class]
    shown = rows.logits.abs().sum(-1) > 0
    logits, elsewhere = rows.logits, rows.elsewhere
    for index, change in changes.items():
        change = change * shown
        if index in in_words:
            logits = logits + change[..., None] * (classes == index)
            continue
        logits = torch.cat([logits, change[..., None]], dim=-1)
        # Where no mask is, nothing speaks for a class that examples alone define.
        elsewhere = elsewhere and [torch.cat([one, one.amin(0, keepdim=True)]) for one in elsewhere]
        classes = torch.cat([classes, classes.new_tensor([index])])
    order = classes.argsort(stable=True)
    return RowLogits(logits[..., order], classes[order], elsewhere and [one[order] for one in elsewhere])


def with_wordless_classes(class_logits: Tensor | None, vocabulary: Vocabulary) -> Tensor | None:
    """The proposer's class scores with a neutral score of each class without words: that of the best other class.

    Args:
        class_logits: (B, Q, W) or, with void last, (B, Q, W + 1); or None.

    Returns:
        (B, Q, C) or (B, Q, C + 1), or None.
    """
    if class_logits is None or not vocabulary.words:
        return class_logits
    has_words = torch.tensor(vocabulary.words, device=class_logits.device)
    count = int(has_words.sum())
    scores = class_logits[..., :count]
    place = has_words.cumsum(0) - 1
    full = torch.where(has_words, scores[..., place.clamp(min=0)], scores.amax(-1, keepdim=True))
    return torch.cat([full, class_logits[..., count:]], dim=-1)


def check_no_examples(vocabulary: Vocabulary) -> None:
    """Raises `UserError` where a vocabulary has examples, of a model without a classifier to compare masks."""
    if vocabulary.examples:
        name = next(name for name, examples in zip(vocabulary.names, vocabulary.examples) if examples)
        raise UserError(
            f"The class {name!r} has examples, and this model has no mask classifier to compare masks with them: set "
            "MODEL.CLASSIFIER.NAME, or remove the examples."
        )
