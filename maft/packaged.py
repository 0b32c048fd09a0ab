"""The files that are shipped beside the code: ``configs/`` of the repository is ``maft/configs`` in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

from maft.errors import UserError, closest


def configs() -> Path:
    """The folder of the packaged configs."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Names of the packaged configs, such as ``quickstart/maft``, sorted."""
    files = (file.relative_to(configs()) for file in configs().glob("*/*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files if file.parts[0] != "_base_")


def located(path: str | os.PathLike[str]) -> Path:
    """A path as it is, unless it is a ``configs/...`` that the working folder lacks and the package has."""
    given = Path(path)
    if given.parts[:1] == ("configs",) and not os.path.exists(given):
        packaged = configs().joinpath(*given.parts[1:])
        return packaged if packaged.exists() else given
    return given


def packaged_config(name: str | os.PathLike[str]) -> Path | None:
    """The file of a packaged config by its name or its path ``configs/...``; None where there is none."""
    own = Path(name)
    inside = Path(*own.parts[1:]) if own.parts[:1] == ("configs",) else own
    file = configs() / f"{inside.as_posix().removesuffix('.yaml')}.yaml"
    return file if ".." not in inside.parts and os.path.isfile(file) else None


def config_file(name: str | os.PathLike[str]) -> Path:
    """The file of a config: a path, or the name of a packaged one, such as ``quickstart/maft``.

    Raises:
        UserError: there is neither such a file nor such a name.
    """
    if os.path.isfile(name):
        return Path(name)
    if file := packaged_config(name):
        return file
    raise UserError(
        f"Config file {name} does not exist, and no packaged config has this name: check --config-file; maft configs "
        f"lists the names.{closest(Path(name).as_posix(), config_names())}"
    )
