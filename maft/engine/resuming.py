"""What a resumed run says and tidies before it goes on."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from maft.config_files import read_config_file
from maft.errors import UserError, shown
from maft.files import write_text_atomic

# They say where a run happens and what it starts from, not how it trains.
_WITHOUT_EFFECT = (
    "OUTPUT_DIR", "IMPORTS", "MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.START_FROM", "DATALOADER.", "TEST.", "TRACKERS."
)  # fmt: skip

logger = logging.getLogger(__name__)


def log_changes(file: Path, cfg: CfgNode) -> None:
    """Logs one line for each key whose value in the config beside a checkpoint differs from the config's of now.

    The values of now hold; a checkpoint without a config has nothing to compare.
    """
    try:
        before = dict(config_leaves(read_config_file(file)))
    except UserError as error:
        logger.warning("It cannot be said what has changed since the checkpoint: %s", error)
        return
    now = dict(config_leaves(cfg))
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old != new and not key.startswith(_WITHOUT_EFFECT):
            logger.warning("%s was %s in the checkpoint and is %s from here on.", key, shown(old), shown(new))


def config_leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value of a config, tuples as lists."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from config_leaves(value, f"{prefix}{name}.")
        else:
            # A dumped config has lists where a read one may have tuples.
            yield f"{prefix}{name}", json.loads(json.dumps(value))


def drop_metrics_from(file: Path, iteration: int) -> None:
    """Drops the lines that an interrupted run wrote after the checkpoint it is resumed from."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(errors="replace").splitlines():
        # A killed process may leave half a line.
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            if json.loads(line).get("iteration", 0) < iteration:
                kept.append(line + "\n")
    write_text_atomic(file, "".join(kept))
