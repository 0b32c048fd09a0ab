"""A tiny training that counts the steps of its checkpoint writes, or dies (SIGKILL) at number ``DIE_AT`` of them.

``checkpoint_steps.py IMAGES OUTPUT_DIR [--resume]``. A step is a call that changes or reads the file system. Steps that
write weights leave half of their file.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

import torch

import maft.checkpoint.io
from maft.engine.checkpointer import Checkpointer


class Steps:
    """The steps done; they count while a checkpoint is written."""

    def __init__(self) -> None:
        self.done = 0
        self.die_at = int(os.environ.get("DIE_AT", -1))
        self.counting = False

    def step(self) -> None:
        if not self.counting:
            return
        if self.done == self.die_at:
            signal.raise_signal(signal.SIGKILL)
        self.done += 1

    def watch(self, module: object, name: str, place_of_path: int | None = None) -> None:
        """Makes calls of a function steps; where a path is among its arguments, half of that file is written."""
        function = getattr(module, name)

        def watched(*arguments: object, **options: object) -> object:
            if place_of_path is not None and self.counting and self.done == self.die_at:
                self.counting = False
                function(*arguments, **options)
                # Some take an open file.
                if hasattr(file := arguments[place_of_path], "flush"):
                    file.flush()
                file = getattr(file, "name", file)
                os.truncate(file, os.path.getsize(file) // 2)
                signal.raise_signal(signal.SIGKILL)
            self.step()
            return function(*arguments, **options)

        setattr(module, name, watched)

    def count_within(self, name: str) -> None:
        """Counts during a method of the checkpointer."""
        method = getattr(Checkpointer, name)

        def counted(*arguments: object) -> object:
            self.counting = True
            result = method(*arguments)
            self.counting = False
            return result

        setattr(Checkpointer, name, counted)


steps = Steps()
# Python tells of opening, renaming, removing, creating and listing; these it does not tell of.
sys.addaudithook(lambda event, _: steps.step() if event.startswith(("open", "os.", "shutil.")) else None)
steps.watch(os, "fsync")
steps.watch(torch, "save", 1)
steps.watch(maft.checkpoint.io, "save_file", 1)
steps.count_within("save")
steps.count_within("save_final")
try:
    runpy.run_path(str(Path(__file__).parents[1] / "engine/tiny_run.py"), run_name="__main__")
finally:
    print(steps.done, "steps")
