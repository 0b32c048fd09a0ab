"""Files of the Hugging Face hub: the cached copy, or a download that is announced, or a sentence on what to fetch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from maft.downloads import check_reachable
from maft.errors import UserError, first_line, shown

# HF_ENDPOINT names another one.
HUB = constants.ENDPOINT

log = logging.getLogger(__name__)


def is_offline() -> bool:
    """Whether the hub's own variable (HF_HUB_OFFLINE) forbids the network."""
    return bool(constants.HF_HUB_OFFLINE)


def cached_file(repository: str, file: str) -> Path | None:
    """The cached copy of a file; None when there is none.

    Raises:
        UserError: no repository can have that name.
    """
    try:
        kept = try_to_load_from_cache(repository, file)
    except HFValidationError as error:
        raise UserError(
            f"{shown(repository)} names no repository of the Hugging Face hub, as org/name does."
        ) from error
    return Path(kept) if isinstance(kept, str) else None


def hub_file(repository: str, files: Sequence[str], purpose: str, advice: str) -> Path:
    """The first of some files that a repository has, downloaded unless one is in the cache.

    Args:
        purpose: what it is; begins the sentences about it.
        advice: what to do when it cannot be had; ends the sentence.

    Raises:
        UserError: none is in the cache and none can be downloaded.
    """
    if kept := next(filter(None, (cached_file(repository, file) for file in files)), None):
        return kept
    with fetching(repository, f"{purpose} ({files[0]})", advice):
        for file in files[:-1]:
            with suppress(EntryNotFoundError):
                return Path(hf_hub_download(repository, file))
        return Path(hf_hub_download(repository, files[-1]))


@contextmanager
def fetching(repository: str, purpose: str, advice: str) -> Iterator[None]:
    """Announces a download from a repository in the log, and turns its failure into one sentence.

    Raises:
        UserError: the network is forbidden, the hub out of reach, or the file not there.
    """
    try:
        if is_offline():
            raise OSError("HF_HUB_OFFLINE is set")
        # The hub's client retries an unknown host for most of a minute.
        check_reachable(HUB)
        log.info("Fetching %s from %s.", purpose, repository)
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{purpose[:1].upper()}{purpose[1:]} is not at hand and could not be downloaded from {repository} "
            f"({first_line(error)[:120]}): {advice}."
        ) from error
