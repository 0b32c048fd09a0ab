"""Class names to text embeddings, encoded once and kept by content."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from maft.checkpoint.key_map import some
from maft.clip.encoder import CLIPEncoder
from maft.clip.prompt_learner import PromptLearner
from maft.clip.text import TEXTS_PER_BATCH
from maft.clip.text_files import MOST_TEXTS, embedding_file, read_embeddings, write_embeddings
from maft.clip.tokenizers import shortened
from maft.errors import UserError
from maft.structures import TextClassifier, Vocabulary

log = logging.getLogger(__name__)

TEMPLATE_SETS = ("single", "vild", "imagenet", "zegformer_single", "zegformer_select", "zegformer_regions")


# In place of templates: prompts that were learned, or are being learned.
LEARNED = "learned"


def prompt_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates of a named set ("single" 1, "vild" 14, "imagenet" 80, ZegFormer's 1, 8 and 32), or a given list.

    "learned" stands for no template.

    Raises:
        UserError: the set is unknown, the list is empty, or a template lacks ``{}``.
    """
    if isinstance(templates, str):
        if templates == LEARNED:
            return (LEARNED,)
        if templates in TEMPLATE_SETS:
            file = files("maft.clip") / "templates" / f"{templates}.txt"
            return tuple(file.read_text(encoding="utf-8").splitlines())
        if "{}" not in templates:
            raise UserError(
                f"Unknown prompt template set {templates!r} under MODEL.VOCABULARY; the known ones are: "
                f"{', '.join((*TEMPLATE_SETS, LEARNED))}; a template of your own needs {{}} where the class name goes."
            )
        templates = [templates]
    if not templates:
        raise UserError("MODEL.VOCABULARY.TEMPLATES is an empty list: give at least one template with {} in it.")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"Prompt template {template!r} needs exactly one {{}} where the class name goes.")
    return tuple(templates)


# Vocabularies whose rows are kept ready; the rows of their texts are kept longer, `MOST_TEXTS` of them.
_MOST_TABLES = 4
SYNONYM_RULES = ("whole", "average", "max")

# Templates, or "learned" and the task.
Source = tuple[str, ...]
Key = TypeVar("Key")
Value = TypeVar("Value")

# Held for moments, while kept rows are looked up or put away: texts are encoded outside. One for all encoders, as a
# lock of its own would keep a module from being copied.
_LOCK = threading.Lock()


def _put_last(kept: dict[Key, Value], values: Mapping[Key, Value]) -> None:
    """Makes entries the last ones of a mapping, whose first ones are dropped first."""
    for key in values:
        kept.pop(key, None)
    kept.update(values)


def _keep_last(kept: dict[Key, Value], most: int) -> None:
    """Drops the first entries of a mapping."""
    for key in list(kept)[: max(0, len(kept) - most)]:
        del kept[key]


class LaterTexts(TextClassifier):
    """Texts that are encoded when their rows are first read.

    While a text tower trains, rows are good for one step, and MaskCLIP++ reads nothing but the names.
    """

    def __init__(self, encode: Callable[[], tuple[Tensor, Tensor]] | None = None, **fields: Any) -> None:
        vars(self).update(fields, encode=encode)

    def __getattr__(self, name: str) -> Any:
        if name not in ("embeddings", "row_class"):
            raise AttributeError(f"a TextClassifier has no {name}")
        self.embeddings, self.row_class = self.encode()
        return vars(self)[name]


class VocabularyEncoder(nn.Module):
    """Turns a vocabulary into the rows that name masks.

    The row of a text w is normalised(mean over the templates k of normalised(CLIP(k with w in it))), to unit length
    both times, as in all systems here. Embeddings are kept under the text, the templates and the weights of the text
    tower, so a class occurring in two datasets is encoded once; the 16,384 texts used last are kept. Each text goes
    through the tower by itself, so that its row does not depend, not even in its last bits, on the texts beside it.
    Several threads may use one encoder.

    Args:
        embed_dim: D.
        text_width: width of CLIP's text transformer; the no-object row starts with standard deviation
            text_width ** -0.5.
        templates: a named set, a list of templates with ``{}``, or "learned".
        prompts: learned prompts, whose embedding of a text is its row wherever templates are "learned".
        test_templates: those of evaluation mode; empty: the same.
        synonyms: what commas in a class string mean: "whole" keeps it as one text, "average" takes the mean over
            the prompts of all synonyms, "max" keeps one row per synonym and scores a class by the best.
        void: adds a learned no-object row.
        train_void: whether that row has a gradient.
        normalize_void: whether that row, like those of texts, has unit length; ZegFormer's has the length it learned.
        logit_scale: factor of the cosine.
        cache_dir: folder where embeddings outlive the process; empty keeps them in memory only.

    Raises:
        UserError: an option has an unknown value.
    """

    def __init__(
        self,
        embed_dim: int,
        text_width: int,
        *,
        templates: str | Sequence[str] = "vild",
        test_templates: str | Sequence[str] = "",
        prompts: PromptLearner | None = None,
        synonyms: str = "whole",
        void: bool = True,
        train_void: bool = True,
        normalize_void: bool = True,
        logit_scale: float = 100.0,
        cache_dir: str | Path = "",
    ) -> None:
        super().__init__()
        if synonyms not in SYNONYM_RULES:
            raise UserError(
                f"Unknown synonym rule {synonyms!r} in MODEL.VOCABULARY.SYNONYMS; choose one of: "
                f"{', '.join(SYNONYM_RULES)}."
            )
        self.train_templates = prompt_templates(templates)
        self.test_templates = prompt_templates(test_templates) if test_templates else self.train_templates
        if prompts is None and (LEARNED,) in (self.train_templates, self.test_templates):
            raise UserError("MODEL.VOCABULARY.TEMPLATES is learned, but this model has no learned prompts: name a set.")
        self.prompts = prompts
        self.synonyms = synonyms
        self.logit_scale, self.normalize_void = logit_scale, normalize_void
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.void_embedding: nn.Parameter | None = None
        if void:
            initial = torch.randn(1, embed_dim) * text_width**-0.5
            self.void_embedding = nn.Parameter(initial, requires_grad=train_void)
        self._text_version: tuple[Any, ...] = ()
        self._texts: dict[tuple[Source, str], Tensor] = {}
        self._tables: dict[tuple[Source, Vocabulary], tuple[Tensor, Tensor]] = {}

    @property
    def templates(self) -> Source:
        """Those of the mode that the module is in."""
        return self.train_templates if self.training else self.test_templates

    def forward(self, vocabulary: Vocabulary, clip: CLIPEncoder, task: str | None = None) -> TextClassifier:
        """The rows of a vocabulary on CLIP's device, in float32; only learned parts of them have a gradient.

        Args:
            task: for learned prompts with tasks, see `PromptLearner.choose_task`.

        Raises:
            UserError: a class name is longer than CLIP's context.
        """
        prompts = self.prompts if self.templates == (LEARNED,) else None
        source = self.templates if prompts is None else (LEARNED, prompts.choose_task(task))
        learning = prompts is not None and prompts.trains
        void: Tensor | None = self.void_embedding
        if void is not None and self.normalize_void:
            void = F.normalize(void, dim=-1)
        known: dict[str, Any] = {
            "num_classes": len(vocabulary),
            "void": void,
            "seen": torch.tensor(vocabulary.seen or [False] * len(vocabulary), device=clip.device),
            "logit_scale": self.logit_scale,
            "logit_bias": clip.logit_bias,
            "vocabulary": vocabulary,
        }
        if self.training and not learning and any(parameter.requires_grad for _, parameter in clip.text_parameters()):
            return LaterTexts(lambda: self._rows(vocabulary, clip, source, learning), **known)
        return TextClassifier(*self._rows(vocabulary, clip, source, learning), **known)

    def _rows(self, vocabulary: Vocabulary, clip: CLIPEncoder, source: Source, learning: bool) -> tuple[Tensor, Tensor]:
        """Unit-length rows (T, D) and the class of each (T,), kept unless they have gradients."""
        version = clip.text_version() if self.prompts is None else (*clip.text_version(), *self.prompts.version())
        key = source, vocabulary
        self._keep_only(version)
        with _LOCK:
            kept = None if learning else self._tables.get(key)
        if kept is None:
            # Kept rows serve training too, which refuses tensors made in inference mode; and they must not depend on
            # the precision of whoever happened to ask first.
            with (
                torch.inference_mode(False),
                torch.set_grad_enabled(learning),
                torch.autocast(clip.device.type, enabled=False),
            ):
                kept = self._table(vocabulary, clip, source, learning)
        if not learning:
            with _LOCK:
                _put_last(self._tables, {key: kept})
                _keep_last(self._tables, _MOST_TABLES)
        return kept

    def _keep_only(self, version: tuple[Any, ...]) -> None:
        """Forgets what texts of other weights than these gave."""
        with _LOCK:
            if version != self._text_version:
                self._texts, self._tables, self._text_version = {}, {}, version

    def _table(
        self, vocabulary: Vocabulary, clip: CLIPEncoder, source: Source, learning: bool
    ) -> tuple[Tensor, Tensor]:
        """Unit-length rows (T, D) and the class of each (T,)."""
        groups = [self._synonyms(vocabulary, index) for index in range(len(vocabulary))]
        texts = [text for group in groups for text in group]
        rows = self._learning_rows(texts, clip, source[1]) if learning else self._kept_rows(texts, clip, source)
        if not learning:
            _warn_of_twins(groups, rows, clip)
        lengths = torch.tensor([len(group) for group in groups])
        row_class = torch.repeat_interleave(torch.arange(len(groups)), lengths).to(rows.device)
        if self.synonyms == "average":
            # Rows are means over equally many prompts, so their sum points along the mean over all prompts.
            rows = rows.new_zeros(len(groups), rows.shape[1]).index_add(0, row_class, rows)
            row_class = torch.arange(len(groups), device=rows.device)
        return self._of_unit_length(rows), row_class

    def _synonyms(self, vocabulary: Vocabulary, index: int) -> tuple[str, ...]:
        """The texts of one class."""
        return (vocabulary.names[index],) if self.synonyms == "whole" else vocabulary.synonyms(index)

    def _of_unit_length(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1)

    def _kept_rows(self, texts: Sequence[str], clip: CLIPEncoder, source: Source) -> Tensor:
        """(n, D), of which those of new texts are encoded."""
        with _LOCK:
            rows = {text: self._texts[source, text] for text in dict.fromkeys(texts) if (source, text) in self._texts}
        if missing := [text for text in dict.fromkeys(texts) if text not in rows]:
            if unknown := clip.unknown_words(missing):
                log.warning(
                    "CLIP %s has never seen %s: masks named so are guesses. Use a model whose CLIP knows your words.",
                    clip.name,
                    some([shortened(word) for word in unknown]),
                )
            rows |= self._load_or_encode(missing, clip, source)
        with _LOCK:
            _put_last(self._texts, {(source, text): row for text, row in rows.items()})
            _keep_last(self._texts, MOST_TEXTS)
        return torch.stack([rows[text] for text in texts])

    def _load_or_encode(self, texts: Sequence[str], clip: CLIPEncoder, source: Source) -> dict[str, Tensor]:
        """By text, the (D,) mean over the templates of unit-length embeddings, not normalised again."""
        file = None if source[0] == LEARNED else self._cache_file(clip)
        kept = read_embeddings(file, clip.embed_dim) if file else {}
        fresh = [text for text in texts if text not in kept]
        progress = tqdm(fresh, desc="Encoding class names", unit="name", delay=2, leave=False, disable=None)
        kept.update((text, self._encode(text, clip, source)) for text in progress)
        found = {text: kept[text].to(clip.device, copy=True) for text in texts}
        if file and fresh:
            _put_last(kept, {text: kept[text] for text in texts})
            write_embeddings(file, kept)
        return found

    def _encode(self, text: str, clip: CLIPEncoder, source: Source) -> Tensor:
        """What is kept of a text: (D,) float32 on CLIP's device."""
        if source[0] == LEARNED:
            assert self.prompts is not None
            return self.prompts([text], clip, source[1])[0]
        return self._prompts(text, clip, source).mean(0)

    @staticmethod
    def _prompts(text: str, clip: CLIPEncoder, source: Source) -> Tensor:
        """(P, D) of unit length, one row a template."""
        tokens = clip.tokenize([template.replace("{}", text) for template in source])
        return F.normalize(clip.encode_text(tokens).float(), dim=-1)

    def _learning_rows(self, texts: Sequence[str], clip: CLIPEncoder, task: str) -> Tensor:
        """(n, D) with gradients to the learned prompts."""
        assert self.prompts is not None
        starts = range(0, len(texts), TEXTS_PER_BATCH)
        return torch.cat([self.prompts(texts[start : start + TEXTS_PER_BATCH], clip, task) for start in starts])

    def _cache_file(self, clip: CLIPEncoder) -> Path | None:
        if self.cache_dir is None:
            return None
        content = json.dumps([clip.text_digest(), self.templates])
        return embedding_file(self.cache_dir, hashlib.sha256(content.encode()).hexdigest()[:20])


def _warn_of_twins(groups: Sequence[Sequence[str]], rows: Tensor, clip: CLIPEncoder) -> None:
    """Says which texts of different classes the tokenizer writes alike, given all texts' rows (n, D)."""
    texts = [(text, index) for index, group in enumerate(groups) for text in group]
    first: dict[bytes, tuple[str, int]] = {}
    twins = []
    for (text, index), row in zip(texts, rows.cpu().numpy(), strict=True):
        other, its_index = first.setdefault(row.tobytes(), (text, index))
        if text != other and index != its_index and torch.equal(*clip.tokenize([other, text])):
            twins.append(f"{shortened(other)!r} and {shortened(text)!r}")
    if twins:
        log.warning(
            "CLIP %s reads %s as one text, so that masks of both get the first name: leave one out.",
            clip.name,
            some(twins, "; "),
        )
