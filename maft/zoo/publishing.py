"""A trained model goes to the Hugging Face hub: weights, config, and a card that says what they are."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from maft.config_files import read_config_file
from maft.downloads import check_reachable
from maft.errors import UserError, first_line, shown
from maft.files import read_json
from maft.zoo.cache import ORIGIN
from maft.zoo.card import model_card
from maft.zoo.hub import FILES, HUB, MAY_HAVE


def push_to_hub(folder: str | os.PathLike[str], repository: str, *, licence: str = "", private: bool = False) -> str:
    """Publishes a checkpoint that training or `maft.zoo.conversion` wrote, and returns the address of its page.

    Weights, config and card go up in one commit. Paths of this machine are taken out of the config, and code that it
    names in ``IMPORTS`` stays here.

    Args:
        folder: holds model.safetensors and config.yaml; of a training's ``model_final`` the last results go into the
            card.
        repository: ``org/name``, made where there is none.
        licence: identifier of the hub, such as ``apache-2.0``; empty states none.
        private: whether only its owners may see a repository that is made.

    Raises:
        UserError: the folder holds no whole model, the hub refuses or is out of reach, or the repository exists and is
            public though a private one was asked for.
    """
    source = Path(folder)
    if lacking := [file for file in FILES if not (source / file).is_file()]:
        raise UserError(
            f"{source} is no checkpoint folder, it lacks {' and '.join(lacking)}: give model_final of a training, or "
            "what maft convert wrote."
        )
    cfg = _public(read_config_file(source / FILES[1]), source)
    evaluations = []
    if source.name == "model_final":
        evaluations = [read_json(file) for file in sorted(source.parent.glob("inference/*/results.json"))]
    origin = read_json(source / ORIGIN) if (source / ORIGIN).is_file() else None
    card = model_card(cfg, evaluations, repository, licence, origin)
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        check_reachable(HUB)
        api = HfApi(endpoint=HUB)
        url = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(url.repo_id).private:
            raise UserError(f"{url} exists and is public: make it private there, or leave out private.")
        with tempfile.TemporaryDirectory() as staged:
            _link(source / FILES[0], Path(staged, FILES[0]))
            Path(staged, FILES[1]).write_text(yaml.safe_dump(cfg, sort_keys=False), encoding="utf-8")
            for name in MAY_HAVE:
                if (source / name).is_file():
                    shutil.copyfile(source / name, Path(staged, name))
            card.save(Path(staged, "README.md"))
            api.upload_folder(repo_id=url.repo_id, folder_path=staged, commit_message="Model, config and card")
    except HFValidationError as error:
        raise UserError(f"{shown(repository)} names no repository of the hub, as org/name does.") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        advice = (
            "log in with hf auth login, and use a name of yours or of an organisation that lets you write"
            if status in (401, 403) or isinstance(error, LocalTokenNotFoundError)
            else "mend what it says, or try again with a connection"
        )
        raise UserError(f"{repository} could not be published ({first_line(error)[:160]}): {advice}.") from error
    return str(url)


def _public(cfg: dict[str, Any], source: Path) -> dict[str, Any]:
    """The config without what is this machine's alone."""
    model = cfg.get("MODEL", {})
    if model.get("WEIGHTS") or model.get("START_FROM", True):
        raise UserError(
            f"{source / FILES[1]} takes weights from other files (MODEL.WEIGHTS or MODEL.START_FROM): publish a "
            "checkpoint that training or maft convert wrote, which holds all of them."
        )
    model["VOCABULARY"]["CACHE_DIR"] = ""
    # Files of components are known by their absolute paths.
    imports = [Path(name).name if name.endswith(".py") else name for name in cfg["IMPORTS"]]
    return {**cfg, "OUTPUT_DIR": "output", "IMPORTS": imports}


def _link(source: Path, target: Path) -> None:
    """Shows the weights where they are staged; a copy where the file system has no links."""
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
