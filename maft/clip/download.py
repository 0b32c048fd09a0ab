"""Fetches CLIP weights through open_clip, or says which file to fetch by hand and where to put it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

from open_clip.pretrained import download_pretrained

from maft.errors import UserError


def download_weights(name: str, tag: str, config: Mapping[str, Any], cache_dir: str | Path | None = None) -> Path:
    """Path of the weights of an open_clip tag, downloaded unless they are already there.

    A copy in OpenAI's own folder (``~/.cache/clip``) is used before the network is tried; open_clip verifies its
    checksum.

    Raises:
        UserError: the download is impossible; the sentence names the file, its address and where to put it.
    """
    folder = Path(cache_dir).expanduser() if cache_dir else None
    url = config.get("url", "")
    archive = (folder or Path("~/.cache/clip").expanduser()) / Path(url).name if url else None
    at_hand = archive is not None and archive.is_file()
    try:
        return Path(
            download_pretrained(dict(config), prefer_hf_hub=not at_hand, cache_dir=str(folder) if folder else None)
        )
    except (URLError, OSError, RuntimeError, ValueError) as error:
        if archive is not None:
            advice = f"download {url} on another machine and put it at {archive}"
        else:
            page = str(config.get("hf_hub", "")).strip("/")
            advice = f"download the weights file of https://huggingface.co/{page} on another machine"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The {tag} weights of CLIP {name} could not be downloaded ({reason[:160]}): {advice}, "
            "or set MODEL.CLIP.PRETRAINED to the path of a weights file."
        ) from error
