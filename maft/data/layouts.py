"""Where other repositories keep what ours keeps elsewhere: layouts.json, our folder -> their folders."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

_TABLE: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_bytes())


def link_advice(missing: Path) -> str:
    """The command that links what another repository's layout has in place of a missing path; empty if it has nothing.

    Args:
        missing: a path below the folder of all datasets.
    """
    for path in (missing, *missing.parents):
        for ours, others in _TABLE.items():
            if path.parts[-ours.count("/") - 1 :] != Path(ours).parts or path.exists():
                continue
            root = Path(*path.parts[: -ours.count("/") - 1])
            for other in others:
                if (root / other / missing.relative_to(path)).exists():
                    return (
                        f"link it from the layout of another repository: mkdir -p {shlex.quote(str(path.parent))} && "
                        f"ln -s {shlex.quote(str((root / other).absolute()))} {shlex.quote(str(path))}"
                    )
    return ""
