"""Ships ``configs/`` inside the package; all metadata is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """An editable installation reads the configs where they are (maft/packaged.py)."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "maft" / "configs"
            # A build folder may be left over from an earlier state of the tree.
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / "configs", target)


# An editable installation by a path, not by a hook of imports: beside a clone named maft, Python would take the clone's
# folder for the package before it asked the hook.
setup(cmdclass={"build_py": BuildWithConfigs}, options={"editable_wheel": {"mode": "compat"}})
