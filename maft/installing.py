"""Installs Detectron2 into the Python that runs this.

Detectron2 has no release under its own name on the Python index. ``sal-detectron2`` there is upstream Detectron2 in a
wheel tagged for CPython 3.10; its Python part runs on any supported version, and the compiled operators it carries are
not needed here.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from maft.errors import UserError

# The one wheel that was tested. Whoever may publish under its name cannot change what is installed here.
REQUIREMENT = "sal-detectron2==0.7.2 --hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"


def installer() -> list[str]:
    """The beginning of a command that installs into this Python: pip's, or uv's where the environment has no pip.

    Raises:
        UserError: there is neither.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise UserError(f'{sys.executable} has no pip, and uv is not here: run "{sys.executable} -m ensurepip" first.')


def install_from_index() -> None:
    """Installs the tested wheel from the Python index, checked by its hash.

    Raises:
        UserError: there is no installer, or it fails.
    """
    command = installer()
    # --no-deps: its metadata wants numpy<2, which it does not need and newer Pythons cannot have.
    command += ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--python-version", "3.10", "--target", sysconfig.get_path("purelib")]
    if "-m" in command:
        command += ["--implementation", "cp"]
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "detectron2.txt"  # hashes are taken from a file alone
        requirements.write_text(REQUIREMENT + "\n")
        _run([*command, "--requirement", str(requirements)])
    _check()
    print("pip may report that sal-detectron2 requires black, hydra-core and numpy<2: nothing here needs them.")


def install_from_checkout(folder: Path) -> None:
    """Installs an upstream checkout instead, editable.

    Raises:
        UserError: ``folder`` is no checkout, this Python has no pip, or pip fails.
    """
    if not (folder / "detectron2" / "__init__.py").is_file() or not (folder / "setup.py").is_file():
        raise UserError(f"{folder} is not a Detectron2 checkout: it has no setup.py and detectron2/__init__.py")
    pip = [sys.executable, "-m", "pip"]
    _run([*pip, "install", "--quiet", "setuptools", "wheel"])
    # Its setup.py imports the installed torch, which an isolated build would not see.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--use-pep517"]
    _run([*pip, "install", *options, "--editable", str(folder)])
    # Both provide the package detectron2, and the copy in site-packages would win over the checkout.
    _run([*pip, "uninstall", "--quiet", "--yes", "sal-detectron2"])
    _check()


def location() -> str | None:
    """The folder of the Detectron2 that this Python would import, None where there is none."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("detectron2")
    return str(Path(spec.origin).parent) if spec and spec.origin else None


def _run(command: list[str]) -> None:
    print("  $", " ".join(command), flush=True)
    if status := subprocess.run(command).returncode:
        raise UserError(f"installing Detectron2 failed (exit status {status} of the installer); its message is above")


def _check() -> None:
    # A new process: an editable install reaches sys.path only when Python starts.
    check = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import detectron2.engine as e; print('Detectron2:', e.__file__)"],
    )
    if check.returncode:
        raise UserError("Detectron2 was installed but cannot be imported; the reason is above")
