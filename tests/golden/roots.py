"""Where the complete recordings lie: one or several folders, each with one folder a system."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MAFT_GOLDEN"


class Recordings:
    """The folders that ``MAFT_GOLDEN`` names, separated like those of ``PATH``; false when it is not set."""

    def __init__(self) -> None:
        self.roots = [Path(root) for root in os.environ.get(VARIABLE, "").split(os.pathsep) if root]
        for root in self.roots:
            assert root.is_dir(), f"{VARIABLE} names {root}, which is not a folder"

    def __bool__(self) -> bool:
        return bool(self.roots)

    def __truediv__(self, path: str) -> Path:
        """A path below the first root that has it."""
        return next((root / path for root in self.roots if (root / path).exists()), self.roots[0] / path)

    def systems(self) -> list[Path]:
        """The folders of all systems."""
        return [path for root in self.roots for path in sorted(root.iterdir()) if path.is_dir()]
