"""A tokenizer of whole words, for CLIPs whose vocabulary is a few dozen words."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from maft.errors import UserError
from maft.files import read_json

_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PAD = 0


class WordTokenizer:
    """Words to ids, called as open_clip's tokenizers are.

    Text is lower-cased and stripped of accents; anything but letters and digits separates words and is dropped. A
    word outside the vocabulary is spelled letter by letter (see `unknown_words`). Ids: 0 padding, then the
    words, the characters a-z and 0-9, one id for any other character, start of text, end of text. The end has the
    highest id because open_clip reads a text's embedding at the position of its largest token.

    Args:
        words: the vocabulary, lower case, without duplicates.
        context_length: default length of the token rows.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self._word_id = {word: position for position, word in enumerate(self.words, start=1)}
        first = len(self.words) + 1
        self._character_id = {character: position for position, character in enumerate(_CHARACTERS, start=first)}
        self._other_character = first + len(_CHARACTERS)
        self.sot_token_id = self._other_character + 1
        self.eot_token_id = self._other_character + 2
        self.vocab_size = self._other_character + 3

    @classmethod
    def from_file(cls, path: str | Path) -> "WordTokenizer":
        """Read ``tokenizer.json``: ``{"words": [...], "context_length": n}``.

        Raises:
            UserError: the file is missing or is not such a table.
        """
        try:
            table = read_json(path)
        except OSError as error:
            raise UserError(f"Cannot read the tokenizer file {path}: {error.strerror}.") from error
        except ValueError as error:
            raise UserError(f"The tokenizer file {path} is not valid JSON: {error}.") from error
        words, length = (table.get("words"), table.get("context_length")) if isinstance(table, dict) else (None, None)
        if (
            not isinstance(words, list)
            or not all(isinstance(word, str) and re.fullmatch(f"[{_CHARACTERS}]+", word) for word in words)
            or len(set(words)) != len(words)
            or not isinstance(length, int)
            or length < 3
        ):
            raise UserError(
                f"The tokenizer file {path} needs a list 'words' of distinct lower-case words and an integer "
                "'context_length' of at least 3."
            )
        return cls(words, length)

    def to_json(self) -> dict[str, object]:
        """What :meth:`from_file` reads."""
        return {"words": list(self.words), "context_length": self.context_length}

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Token rows, int64 of shape (n, context_length): start, words, end, padding.

        A text that is too long loses its last words, never its end token.
        """
        texts = [texts] if isinstance(texts, str) else texts
        length = self.context_length if context_length is None else context_length
        rows = torch.full((len(texts), length), _PAD, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            body = self.encode(text)[: length - 2]
            row[: len(body) + 2] = torch.tensor([self.sot_token_id, *body, self.eot_token_id])
        return rows

    def unknown_words(self, texts: Sequence[str]) -> tuple[str, ...]:
        """The words of some texts that are outside the vocabulary, each once; texts without a word count as one."""
        words = (word for text in texts for word in _words(text) or [text])
        return tuple(dict.fromkeys(word for word in words if word not in self._word_id))

    def encode(self, text: str) -> list[int]:
        """Ids of a text without start, end and padding."""
        ids: list[int] = []
        for word in _words(text):
            if word in self._word_id:
                ids.append(self._word_id[word])
            else:
                ids.extend(self._character_id.get(character, self._other_character) for character in word)
        return ids


def _words(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain)
