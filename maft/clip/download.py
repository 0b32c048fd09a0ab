"""Fetches CLIP weights through open_clip, or says which file to fetch by hand and where to put it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

from huggingface_hub import try_to_load_from_cache
from open_clip.pretrained import download_pretrained

from maft.errors import UserError

_HUB = "https://huggingface.co"
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def download_weights(name: str, tag: str, config: Mapping[str, Any], cache_dir: str | Path | None = None) -> Path:
    """Path of the weights of an open_clip tag, downloaded unless they are already there.

    A copy in OpenAI's own folder (``~/.cache/clip``), whose checksum open_clip verifies, and one in the Hugging Face
    cache are used before the network is tried.

    Args:
        config: open_clip's entry for the tag ("url", "hf_hub").
        cache_dir: folder of downloads; default: the two above.

    Raises:
        UserError: the download is impossible; the sentence names the file, its address and where to put it.
    """
    folder = str(Path(cache_dir).expanduser()) if cache_dir else None
    url = str(config.get("url", ""))
    repository, _, file = str(config.get("hf_hub", "")).rpartition("/")
    archive = Path(folder or "~/.cache/clip").expanduser() / Path(url).name if url else None
    at_hand = archive is not None and archive.is_file()
    if not at_hand:
        for candidate in [file] if file else _HUB_FILES:
            kept = try_to_load_from_cache(repository, candidate, cache_dir=folder) if repository else None
            if isinstance(kept, str):
                return Path(kept)
    try:
        if not at_hand:
            # The hub's client retries an unknown host for most of a minute.
            _check_reachable(_HUB if repository else url)
        return Path(download_pretrained(dict(config), prefer_hf_hub=not at_hand, cache_dir=folder))
    except (URLError, OSError, RuntimeError, ValueError) as error:
        page = f"{_HUB}/{repository}/resolve/main/{file or _HUB_FILES[0]}"
        place = f" and put it at {archive}, or set" if archive else " and set"
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"The {tag} weights of CLIP {name} could not be downloaded ({reason}): fetch {url or page} on another "
            f"machine{place} MODEL.CLIP.PRETRAINED to the path of the file."
        ) from error


def _check_reachable(address: str) -> None:
    """Raises OSError when the host of ``address`` has no name here and no proxy could resolve it for us."""
    if any(os.environ.get(variable) for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    endpoint = os.environ.get("HF_ENDPOINT", address) if address == _HUB else address
    host = urlparse(endpoint).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"no connection to {host}") from error
