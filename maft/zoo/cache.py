"""Released checkpoints, fetched and converted once: a folder each below ``MAFT_CACHE``/models."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path

from maft import __version__
from maft.downloads import cache_folder, download, one_at_a_time
from maft.errors import UserError
from maft.files import read_json, remove_unfinished, sha256, unwritable, write_json_atomic
from maft.zoo.table import Entry

# The last file that is written: what stands in it is whole.
ORIGIN = "origin.json"

logger = logging.getLogger(__name__)


def folder_of(entry: Entry) -> Path:
    """Where a released model is kept, and where its official file may be put by hand."""
    return cache_folder() / "models" / entry.name


def is_here(entry: Entry) -> bool:
    """Whether a released model has been fetched and converted."""
    return all((folder_of(entry) / file).is_file() for file in ("model.safetensors", "config.yaml", ORIGIN))


def converted(entry: Entry, checksum: str = "") -> Path:
    """The folder of a released model as a checkpoint of ours; fetched and converted at the first call.

    The official file is taken from the folder where it lies there already. No release states a checksum: that of the
    first file is kept in ``origin.json``, and every later one is compared with it, as the converted one is at each use.

    Args:
        checksum: SHA-256 that the official file must have; empty for what the table says.

    Raises:
        UserError: the file cannot be had, is another one than it should be, or does not fit its model.
    """
    if not entry.file:
        raise UserError(
            f"{entry.name} cannot be fetched automatically, because its links do not tell which file is which: "
            f"download the one that you mean from {' or '.join(entry.links)} and run maft convert FILE FOLDER "
            "--config-file CONFIG."
        )
    folder = folder_of(entry)
    if not is_here(entry):
        with one_at_a_time(folder):
            if not is_here(entry):
                _fetch_and_convert(entry, folder, checksum)
    origin = _origin(folder)
    if checksum and checksum != origin.get("sha256"):
        raise UserError(
            f"{folder} was made from a file with the SHA-256 {origin.get('sha256')}, not {checksum}: remove the folder "
            "to fetch it again."
        )
    weights = folder / "model.safetensors"
    if sha256(weights) != origin.get("model_sha256"):
        raise UserError(f"{weights} is not what was written there: remove it, and it is made again.")
    return folder


def _fetch_and_convert(entry: Entry, folder: Path, checksum: str) -> None:
    remove_unfinished(folder / "model.safetensors")
    file, before = folder / entry.file, _origin(folder)
    ours = not file.is_file()
    expected = checksum or entry.sha256 or before.get("sha256", "")
    logger.warning(
        "%s: %s%s, from %s. Licence of the weights: %s (%s).%s",
        entry.name, entry.file, f", {entry.size}" if entry.size else "", entry.links[0] if ours else folder,
        entry.licence, entry.stated_in,
        "" if expected else " No checksum is published: this file's is kept, and later ones are compared with it.",
    )  # fmt: skip
    if ours:
        # It and what is converted from it lie side by side for a moment.
        download(entry.links[0], file, f"download {entry.file} by hand and put it into {folder}", copies=2)
    found = sha256(file)
    if expected and found != expected:
        where = "removed" if ours else "left where it is"
        if ours:
            file.unlink()
        unlike, accept = "", ""
        if expected == before.get("sha256"):
            unlike = f", unlike the one of {before.get('date')}"
            accept = f", and remove {folder / ORIGIN} to accept another one"
        raise UserError(
            f"{entry.file} of {entry.name} has the SHA-256 {found}, not {expected}{unlike}: it is damaged or was "
            f"replaced, and is {where}; ask its authors{accept}."
        )
    # What follows needs the model; a failed download is told before its imports.
    from maft.zoo.conversion import convert

    try:
        written = convert(file, folder, entry.config, entry.overrides)
    except UserError as error:
        # A full disk says nothing against the file.
        if not ours or unwritable(error):
            raise
        # It would count as put there by hand, and never be fetched again.
        file.unlink()
        raise UserError(
            f"{str(error).rstrip('.')}; it came from {entry.links[0]} and is removed, and the next call fetches it "
            "again."
        ) from error
    write_json_atomic(
        folder / ORIGIN,
        {
            "name": entry.name,
            "file": entry.file,
            "sha256": found,
            "link": entry.links[0],
            "stated_in": entry.stated_in,
            "licence": entry.licence,
            "date": date.today().isoformat(),
            "converted_by": f"maft {__version__}",
            "model_sha256": sha256(written.weights),
        },
    )
    if ours:
        file.unlink()


def _origin(folder: Path) -> dict[str, str]:
    """What was noted of a model; empty before it is made, or when somebody wrote something else there."""
    try:
        noted = read_json(folder / ORIGIN)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / ORIGIN} cannot be read ({error}): remove the folder to fetch it again.") from error
    return noted if isinstance(noted, dict) else {}
