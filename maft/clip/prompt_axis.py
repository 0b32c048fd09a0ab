"""Texts under every template by itself, for classifiers that learn what each template says (MaskCLIP++)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.clip.encoder import CLIPEncoder
from maft.clip.vocabulary import Source, VocabularyEncoder
from maft.structures import Vocabulary


class PromptEncoder(VocabularyEncoder):
    """Embeddings of a vocabulary with the templates as an axis of their own, kept as `VocabularyEncoder` keeps means.

    Args:
        templates: a named set, or a list of templates with ``{}``.
        synonyms: see `VocabularyEncoder`; "average" takes the mean over the synonyms under each template.
    """

    def __init__(self, embed_dim: int, text_width: int, *, templates: str | Sequence[str], synonyms: str) -> None:
        super().__init__(embed_dim, text_width, templates=templates, synonyms=synonyms, void=False)

    def under_every_template(self, vocabulary: Vocabulary, clip: CLIPEncoder) -> tuple[Tensor, Tensor]:
        """Rows (T, P, D) of unit length of the vocabulary's texts under P templates, and the class (T,) of each.

        Raises:
            UserError: a text is longer than CLIP's context.
        """
        text = super().forward(vocabulary, clip)
        return text.embeddings, text.row_class

    def drawn(self, vocabulary: Vocabulary, clip: CLIPEncoder) -> Tensor:
        """(C, P, D) of unit length: one synonym of every class, drawn by Python's random numbers.

        They have gradients where the text tower trains, and are kept otherwise.

        Raises:
            UserError: a text is longer than CLIP's context.
        """
        texts = [_drawn(self._synonyms(vocabulary, index)) for index in range(len(vocabulary))]
        if torch.is_grad_enabled() and any(parameter.requires_grad for _, parameter in clip.text_parameters()):
            return self._learning(texts, clip).unflatten(0, (len(texts), -1))
        self._keep_only(clip.text_version())
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(clip.device.type, enabled=False):
            return self._of_unit_length(self._kept_rows(texts, clip, self.templates))

    def _learning(self, texts: Sequence[str], clip: CLIPEncoder) -> Tensor:
        tokens = clip.tokenize([template.replace("{}", text) for text in texts for template in self.templates])
        return F.normalize(clip.encode_text(tokens).float(), dim=-1)

    def _encode(self, text: str, clip: CLIPEncoder, source: Source) -> Tensor:
        return self._prompts(text, clip, source).flatten()

    def _of_unit_length(self, rows: Tensor) -> Tensor:
        return F.normalize(rows.unflatten(1, (len(self.templates), -1)), dim=-1)


def _drawn(synonyms: Sequence[str]) -> str:
    return synonyms[random.randrange(len(synonyms))] if len(synonyms) > 1 else synonyms[0]
