"""Nouns of a caption: the candidate names that OVSeg mines regions for (Liang et al., CVPR 2023, section 3.2).

The tagger is HanTa (Wartena 2019, 2023): a maintained probabilistic tagger whose English model, trained on the British
National Corpus, lies inside its wheel, so that pip alone installs it. NLTK (which the paper used), spaCy, stanza and
flair fetch their models from elsewhere when they are first used; TextBlob ships a lexicon, which does not look at the
context and takes the sink of "a toilet and sink" for a verb.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from maft.errors import UserError

# The corpus' noun tags by Penn Treebank's, which the paper lists. NN0 is a noun of either number, such as sheep.
PENN_TAGS = {"NN0": "NN", "NN1": "NN", "NN2": "NNS", "NP0": "NNP"}

_TOKENS = re.compile(r"[^\W_]+(?:-[^\W_]+)*|['’]s\b|[^\w\s]")
_WORD = re.compile(r"[^\W\d_][^\W_]*(?:-[^\W_]+)*")


def caption_nouns(caption: str) -> tuple[str, ...]:
    """The nouns of one caption in lower case, in order, each once; not lemmatised ("dog" and "dogs" are two).

    Raises:
        UserError: the tagger is not installed.
    """
    return nouns_of(tag(caption))


def image_nouns(captions: Iterable[str]) -> tuple[str, ...]:
    """The nouns of all captions of an image, each once."""
    return tuple(dict.fromkeys(noun for caption in captions for noun in caption_nouns(caption)))


def tag(caption: str) -> list[tuple[str, str]]:
    """(word, tag) pairs in lower case: noun tags are Penn Treebank's (NN, NNS, NNP), others the tagger's own.

    Case is dropped before tagging: captions shout, and a capital at the start or in a title is not a name.
    """
    words = _TOKENS.findall(caption.lower())
    return [(word, PENN_TAGS.get(found, found)) for word, _, found in _tagger().tag_sent(words)] if words else []


def nouns_of(tagged: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The words tagged NN, NNS, NNP or NNPS in lower case, each once; signs and numbers are left out."""
    nouns = (word.lower() for word, found in tagged if found in ("NN", "NNS", "NNP", "NNPS"))
    return tuple(dict.fromkeys(noun for noun in nouns if _WORD.fullmatch(noun)))


@cache
def _tagger() -> Any:
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError as error:
        raise UserError("Finding the nouns of captions needs the tagger HanTa: run 'pip install HanTa'.") from error
    return HanoverTagger("morphmodel_en.pgz")
