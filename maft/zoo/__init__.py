"""Trained models by name: released by the authors of the methods, on the Hugging Face hub, or shipped."""

from __future__ import annotations

import re
from pathlib import Path

from maft.errors import UserError
from maft.zoo.table import entries, entry

__all__ = ["MINIATURE", "names", "pretrained"]

# It knows 24 drawn things and nothing of photographs.
MINIATURE = "miniature"
_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})?")


def names() -> tuple[str, ...]:
    """The names that `pretrained` takes beside ids of the hub."""
    return (MINIATURE, *(name for name, row in entries().items() if row.file))


def pretrained(source: str, *, revision: str | None = None) -> Path:
    """The folder of a trained model, model.safetensors and config.yaml; fetched and converted where it is not yet.

    Args:
        source: one of `names`, which may end in ``#sha256=`` and the checksum of the released file, or the id
            ``org/name`` of a repository of the Hugging Face hub.
        revision: branch, tag or commit of the repository; the newest by default.

    Raises:
        UserError: there is no such model, or it cannot be fetched: the sentence says from where and to where.
    """
    name, _, checksum = source.partition("#sha256=")
    if checksum and ("/" in name or name == MINIATURE):
        raise UserError(
            f"{name} is no released file, which a checksum is of: leave it out; of the hub, give a revision."
        )
    if "#" in name or not _CHECKSUM.fullmatch(checksum):
        raise UserError(f"The checksum of {source} is none: write #sha256= and 64 hexadecimal digits.")
    if "/" in name:
        from maft.zoo.hub import from_hub

        return from_hub(name, revision)
    if revision is not None:
        raise UserError(f"{name} has no revisions, only repositories of the hub have: leave out {revision!r}.")
    if name == MINIATURE:
        return Path(__file__).with_name("miniature")
    from maft.zoo.cache import converted

    return converted(entry(name), checksum.lower())
