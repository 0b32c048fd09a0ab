"""Install Detectron2 into the Python that runs this file: ``python tools/install_detectron2.py [--checkout DIR]``.

Detectron2 has no release under its own name on the Python index. ``sal-detectron2`` there is upstream Detectron2 in a
wheel tagged for CPython 3.10; its Python part runs on any supported version, and the compiled operators it carries are
not needed here. A Detectron2 that can be imported already is left alone. Needs nothing but pip.
"""

import argparse
import importlib
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# The one wheel that was tested. Whoever may publish under its name cannot change what is installed here.
REQUIREMENT = "sal-detectron2==0.7.2 --hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"


def install_from_index() -> None:
    # --no-deps: its metadata wants numpy<2, which it does not need and newer Pythons cannot have.
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    command += ["--implementation", "cp", "--python-version", "3.10", "--target", sysconfig.get_path("purelib")]
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "detectron2.txt"  # pip takes hashes from a file alone
        requirements.write_text(REQUIREMENT + "\n")
        run([*command, "--requirement", str(requirements)])


def install_from_checkout(folder: Path) -> None:
    if not (folder / "detectron2" / "__init__.py").is_file() or not (folder / "setup.py").is_file():
        sys.exit(f"error: {folder} is not a Detectron2 checkout: it has no setup.py and detectron2/__init__.py")
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "install", "--quiet", "setuptools", "wheel"])
    # Its setup.py imports the installed torch, which an isolated build would not see.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--use-pep517"]
    run([*pip, "install", *options, "--editable", str(folder)])
    # Both provide the package detectron2, and the copy in site-packages would win over the checkout.
    run([*pip, "uninstall", "--quiet", "--yes", "sal-detectron2"])


def run(command: list[str]) -> None:
    print("  $", " ".join(command), flush=True)
    if status := subprocess.run(command).returncode:
        sys.exit(f"error: installing Detectron2 failed (pip's exit status {status}); its message is above")


def location() -> str | None:
    importlib.invalidate_caches()
    try:
        return str(Path(importlib.import_module("detectron2").__file__ or "").parent)
    except ImportError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--checkout", type=Path, metavar="DIR", help="an upstream checkout to install instead")
    args = parser.parse_args()
    present = location()
    if present and not args.checkout:
        print(f"Detectron2 is there already: {present}")
        return
    if args.checkout:
        install_from_checkout(args.checkout.resolve())
    else:
        install_from_index()
    # A new process: an editable install reaches sys.path only when Python starts.
    check = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import detectron2.engine as e; print('Detectron2:', e.__file__)"],
    )
    if check.returncode:
        sys.exit("error: Detectron2 was installed but cannot be imported; the reason is above")


if __name__ == "__main__":
    main()
