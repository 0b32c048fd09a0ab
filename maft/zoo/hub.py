"""Trained models on the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

from maft.calibration import FILE as CALIBRATION
from maft.downloads import check_reachable
from maft.errors import UserError, shown
from maft.files import writing

# HF_ENDPOINT names another one.
HUB = constants.ENDPOINT
FILES = ("model.safetensors", "config.yaml")
# What maft calibrate measured of it.
MAY_HAVE = (CALIBRATION,)


def from_hub(repository: str, revision: str | None = None) -> Path:
    """The folder of a repository's model in the hub's own cache, fetched where it is not the newest; no code is.

    Raises:
        UserError: there is no such repository or revision, it holds no model of ours, or it is out of reach and not in
            the cache.
    """
    try:
        folder = Path(_snapshot(repository, revision))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{repository} is no folder here and not in the cache of the hub, which is out of reach: try again with a "
            f"connection to {HUB}, or download {' and '.join(FILES)} into a folder and give that."
        ) from error
    except HFValidationError as error:
        raise UserError(f"{shown(repository)} names no repository of the hub, as org/name does.") from error
    except GatedRepoError as error:
        raise UserError(
            f"{repository} is given to those alone who accepted its terms: do so on {HUB}/{repository}, and log in "
            "with hf auth login."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repository} has no revision {revision!r}: see {HUB}/{repository}/commits.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{repository} is no folder here and no repository of the hub, or a private one: check the name, or log in "
            "with hf auth login."
        ) from error
    lacking = [file for file in FILES if not (folder / file).is_file()]
    if lacking:
        raise UserError(f"{repository} of the hub is no model of maft: it lacks {' and '.join(lacking)}.")
    return folder


def _snapshot(repository: str, revision: str | None) -> str:
    reachable = not constants.HF_HUB_OFFLINE
    try:
        # The hub's client retries an unknown host for most of a minute.
        check_reachable(HUB)
    except OSError:
        reachable = False
    if not sys.stderr.isatty() and not are_progress_bars_disabled():
        disable_progress_bars()
    with writing(repository):
        return snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[*FILES, *MAY_HAVE],
            local_files_only=not reachable,
            endpoint=HUB,
        )
