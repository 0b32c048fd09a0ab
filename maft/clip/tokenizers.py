"""Texts to token rows, each tower by the tokenizer of its own config; nothing is truncated."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from maft.clip.hub import HUB, cached_file, fetching
from maft.errors import UserError, closest, first_line
from maft.files import read_json
from maft.miniature.tokenizer import WordTokenizer

EXTRA = "pip install 'maft[towers]'"
# Any one of these holds a vocabulary; a folder without any would give a tokenizer that knows no word.
_VOCABULARIES = (
    "tokenizer.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)
# Words whose pieces the tokenizer keeps.
_MOST_WORDS = 100_000
# Pieces are kept between calls, and the library's tokenizers change their settings as they run: one thread at a time.
_LOCK = threading.RLock()
_OPTIONS = ("clean", "strip_sep_token", "language")
_CLEANING = ("whitespace", "lower", "canonicalize")


class BytePairTokenizer(SimpleTokenizer):
    """CLIP's tokenizer with the special tokens spelt as OpenAI does, ``<|startoftext|>`` and ``<|endoftext|>``."""

    sot_token_id: int
    eot_token_id: int

    def __init__(self, context_length: int = 77) -> None:
        super().__init__(context_length=context_length)
        import regex

        spelt = {"<|startoftext|>": self.sot_token_id, "<|endoftext|>": self.eot_token_id}
        self.encoder.update(spelt)
        self.cache = {token: token for token in spelt}
        words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        self._special = dict(self.cache)
        self.pat = regex.compile("|".join([*map(regex.escape, spelt), words]), regex.IGNORECASE)

    def bpe(self, token: str) -> str:
        """The pieces of a word, kept for its next occurrence; of very many words none is kept for ever."""
        with _LOCK:
            if len(self.cache) > _MOST_WORDS:
                self.cache = dict(self._special)
            return super().bpe(token)


class HuggingFaceTokenizer:
    """A tokenizer of the transformers library behind open_clip's cleaning and padding, read at its first use.

    Args:
        source: a folder with its files, or the name of a repository: its cached copy, else a download.
        context_length: ids a row.
        name: of the tower, for messages.
        mode: open_clip's ``tokenizer_mode``.
        options: open_clip's ``tokenizer_kwargs``: ``clean``, ``strip_sep_token``, ``language``.

    Raises:
        UserError: an option is unknown. Options come with downloaded configs, and others would reach the library.
    """

    def __init__(
        self, source: str | Path, context_length: int, *, name: str, mode: str = "", options: Mapping[str, Any]
    ) -> None:
        for option in options:
            if option not in _OPTIONS:
                raise UserError(
                    f"text_cfg.tokenizer_kwargs of CLIP {name} has the option {option!r}, which is not supported: "
                    f"there are {', '.join(_OPTIONS)}.{closest(option, _OPTIONS)}"
                )
        if options.get("clean", "whitespace") not in _CLEANING or mode not in ("", "clips"):
            raise UserError(
                f"text_cfg of CLIP {name} asks for the cleaning {options.get('clean')!r} and the tokenizer_mode "
                f"{mode!r}: the known ones are {', '.join(_CLEANING)}, and clips or none."
            )
        self.source, self.context_length, self.name = source, context_length, name
        self.mode, self.options = mode, dict(options)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """How many ids each text needs, with those that the tokenizer adds."""
        tokenizer = self.loaded.tokenizer
        cleaned = [self.loaded.clean_fn(text) for text in texts]
        clips = self.mode == "clips"
        with self._reading():
            rows = tokenizer(cleaned, add_special_tokens=not clips, padding=False, truncation=False, verbose=False)
        return [len(ids) + 3 * clips for ids in rows.input_ids]

    def unknown_words(self, texts: Sequence[str]) -> tuple[str, ...]:
        """The words of which a piece is the token that stands for what is unknown; none where there is no such."""
        tokenizer = self.loaded.tokenizer
        words = list(dict.fromkeys(word for text in texts for word in self.loaded.clean_fn(text).split()))
        if tokenizer.unk_token_id is None or not words:
            return ()
        with self._reading():
            rows = tokenizer(words, add_special_tokens=False, padding=False, truncation=False, verbose=False)
        unknown = tokenizer.unk_token_id
        return tuple(word for word, ids in zip(words, rows.input_ids, strict=True) if unknown in ids)

    def rows(self, texts: Sequence[str]) -> Tensor:
        """(n, context length) int64, padded as the tokenizer does."""
        loaded = self.loaded
        with self._reading():
            return loaded(list(texts))

    @property
    def loaded(self) -> HFTokenizer:
        """open_clip's tokenizer.

        Raises:
            UserError: a library or a file is missing or of no use.
        """
        with _LOCK:
            return self._loaded

    @cached_property
    def _loaded(self) -> HFTokenizer:
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise UserError(f"The tokenizer of CLIP {self.name} needs the transformers package: {EXTRA}.") from error
        if isinstance(self.source, Path) or self._at_hand(self.source):
            return self._load(local_files_only=True)
        with fetching(self.source, f"the tokenizer of CLIP {self.name}", self._advice()):
            tokenizer = self._load()
            # Without a vocabulary the library makes a tokenizer that knows no word.
            if not self._at_hand(self.source):
                raise OSError("it holds no vocabulary")
            return tokenizer

    @staticmethod
    def _at_hand(repository: str) -> bool:
        return any(cached_file(repository, file) for file in _VOCABULARIES)

    def _load(self, **where: Any) -> HFTokenizer:
        if self._is_sentencepiece() and find_spec("sentencepiece") is None:
            raise UserError(f"The tokenizer of CLIP {self.name} needs the sentencepiece package: {EXTRA}.")
        with self._reading():
            tokenizer = HFTokenizer(
                str(self.source),
                self.context_length,
                tokenizer_mode=self.mode,
                trust_remote_code=False,
                **self.options,
                **where,
            )
            if tokenizer.tokenizer.pad_token_id is None:
                raise ValueError("it names no padding token; is tokenizer_config.json missing?")
            return tokenizer

    def _is_sentencepiece(self) -> bool:
        """Whether its vocabulary, as far as it is at hand, is one of sentencepiece alone."""
        if isinstance(self.source, Path):
            found = [file for file in _VOCABULARIES if (self.source / file).is_file()]
        else:
            found = [file for file in _VOCABULARIES if cached_file(self.source, file)]
        return bool(found) and all(file.endswith(".model") for file in found)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with _LOCK:
                yield
        except ImportError as error:
            raise UserError(
                f"The tokenizer of CLIP {self.name} ({self.source}) needs another package "
                f"({first_line(error)[:120]}): {EXTRA}."
            ) from error
        # The library wraps tokenizers written in Rust, whose errors are of no class of their own.
        except Exception as error:
            raise UserError(
                f"The tokenizer of CLIP {self.name} cannot be read from {self.source} ({first_line(error)[:120]}): "
                f"{self._advice()}."
            ) from error

    def _advice(self) -> str:
        if isinstance(self.source, Path):
            return "put tokenizer.json and tokenizer_config.json of the model's page into that folder"
        return (
            f"fetch tokenizer.json, tokenizer_config.json and, where there is one, the .model file from "
            f"{HUB}/{self.source}/tree/main into the Hugging Face cache (hf download {self.source}), or into the "
            "folder of the CLIP if it has one"
        )


def tokenizer_of(name: str, text: Mapping[str, Any], folder: Path | None = None) -> Any:
    """The tokenizer that a ``text_cfg`` asks for, by the rules of ``open_clip.get_tokenizer``.

    Args:
        name: of the tower, for messages.
        folder: the tower's own, whose tokenizer files come first.

    Raises:
        UserError: its options or its word table are wrong. What needs the transformers library or a file of
            Hugging Face says so when it is used.
    """
    length = int(text.get("context_length", 77))
    repository = str(text.get("hf_tokenizer_name") or "")
    if folder and (words := _word_table(folder / "tokenizer.json", bool(repository))):
        return words
    if not repository:
        return BytePairTokenizer(length)
    own = folder is not None and any((folder / file).is_file() for file in _VOCABULARIES)
    return HuggingFaceTokenizer(
        folder if own and folder else repository,
        length,
        name=name,
        mode=str(text.get("tokenizer_mode") or ""),
        options=text.get("tokenizer_kwargs") or {},
    )


def _word_table(file: Path, names_another: bool) -> WordTokenizer | None:
    """The word tokenizer of a file, None when it is missing or of the Hugging Face format.

    Args:
        names_another: the description names a tokenizer of Hugging Face, whose the file is unless it shows words.
    """
    if not file.is_file():
        return None
    try:
        table = read_json(file)
    except ValueError:
        table = None
    keys = table if isinstance(table, dict) else {}
    if "words" not in keys and (names_another or isinstance(keys.get("model"), dict)):
        return None
    return WordTokenizer.from_file(file)


def token_rows(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Token ids (n, context length) int64 on the CPU, padded.

    Args:
        tokenizer: a `HuggingFaceTokenizer`, or has ``encode(text) -> list[int]``, ``sot_token_id``, ``eot_token_id``
            and ``context_length``; its rows are padded with zeros.

    Raises:
        UserError: a text is longer than the context; nothing is truncated silently.
    """
    if isinstance(tokenizer, HuggingFaceTokenizer):
        for text, count in zip(texts, tokenizer.counts(texts) if texts else (), strict=True):
            _check_length(text, count, tokenizer.context_length)
        return tokenizer.rows(texts) if texts else torch.zeros(0, tokenizer.context_length, dtype=torch.long)
    rows = torch.zeros(len(texts), tokenizer.context_length, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        ids = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        _check_length(text, len(ids), tokenizer.context_length)
        row[: len(ids)] = torch.tensor(ids)
    return rows


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> tuple[str, ...]:
    """The words of some texts that a tokenizer has no ids of, each once, in their order.

    A `WordTokenizer` spells them letter by letter, one of Hugging Face has a token for all of them. Byte pairs write
    any word, so that CLIP's own tokenizer cannot tell.

    Args:
        tokenizer: see `token_rows`; may have ``unknown_words(texts)``.
    """
    ask = getattr(tokenizer, "unknown_words", None)
    return tuple(ask(texts)) if ask else ()


def shortened(text: str) -> str:
    """A text as a message shows it, of at most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def _check_length(text: str, count: int, most: int) -> None:
    if count > most:
        raise UserError(
            f"The text {shortened(text)!r} has {count} tokens and CLIP reads {most}: shorten the class name or its "
            "template."
        )
