"""Set up the project's environment: a virtual environment, the dependencies, Detectron2 and the project itself.

``make install`` runs this file. It needs nothing but a Python 3.10 to 3.13, prints what it does, may be interrupted
and repeated, and returns at once when nothing has changed since it last succeeded.
"""

from __future__ import annotations  # an older Python must get as far as the sentence that says so

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 10), (3, 13))
STAMP_NAME = "maft-setup.json"
# As pip does without being told: where Python may not write, every start would compile all imports anew, for 10 s.
UV_INSTALL = ("pip", "install", "--compile-bytecode", "--python")
LOCK = "requirements.lock"
WHAT_DECIDES = ("pyproject.toml", "setup.py", "tools/setup_env.py", "maft/installing.py", LOCK)


def say(message: str) -> None:
    print(f"[setup] {message}", flush=True)


def fail(message: str) -> NoReturn:
    sys.exit(f"error: {message}")


def run(*command: str, may_fail: bool = False) -> bool:
    print("  $", " ".join(command), flush=True)
    status = subprocess.run(command, cwd=ROOT).returncode
    if status and not may_fail:
        fail(f"`{' '.join(command[:4])} ...` ended with exit status {status}; its message is above")
    return status == 0


def python_version(python: str) -> tuple[int, ...] | None:
    """Version of an interpreter, None if it does not run."""
    code = "import sys; print(*sys.version_info[:3])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    return tuple(map(int, answer.stdout.split())) if answer.returncode == 0 else None


def checked_interpreter(python: str) -> tuple[int, ...]:
    version = python_version(python)
    if version is None:
        fail(f"the interpreter {python} does not run; name one that does with PYTHON=")
    if not SUPPORTED[0] <= version[:2] <= SUPPORTED[1]:
        fail(f"{python} is Python {dotted(version)}, but 3.10 to 3.13 is needed; name another with PYTHON=")
    return version


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def make_environment(venv: Path, python: str | None) -> tuple[str, tuple[int, ...]]:
    """Create ``venv`` unless it works already; returns its interpreter and that one's version."""
    interpreter = str(venv / "bin" / "python")
    present = python_version(interpreter)
    if present:
        checked_interpreter(interpreter)
        if python and (wanted := checked_interpreter(python))[:2] != present[:2]:
            fail(
                f"{venv} is Python {dotted(present)}, but PYTHON={python} is {dotted(wanted)}; "
                f"delete {venv} first, or set up elsewhere with VENV="
            )
    else:
        source = python or sys.executable
        version = checked_interpreter(source)
        say(f"creating {venv} with Python {dotted(version)} ({source})")
        if not python and version[:2] != (3, 11):
            say("no python3.11 here: this version is supported as well (choose with PYTHON=)")
        if venv.exists() and not (venv / "pyvenv.cfg").is_file() and any(venv.iterdir()):
            fail(f"{venv} is there and is no virtual environment; name another folder with VENV=")
        # --clear: an environment whose creation was interrupted is no use to anybody.
        if not run(source, "-m", "venv", "--clear", str(venv), may_fail=True):
            fail(f"{source} cannot create virtual environments; on Debian: apt install python3-venv")
    if subprocess.run([interpreter, "-c", "import pip"], capture_output=True).returncode:
        run(interpreter, "-m", "ensurepip")
    running = python_version(interpreter)
    if running is None:
        fail(f"{interpreter} does not run; delete {venv} and try again")
    return interpreter, running


def find_uv(interpreter: str, installer: str, locked: bool) -> str | None:
    """The uv to install with, installed into the environment if need be; None for pip."""
    if installer == "pip":
        return None
    own = Path(interpreter).with_name("uv")
    uv = shutil.which("uv") or (str(own) if own.is_file() else None)
    if uv is None:
        say("installing uv, which installs the rest much faster than pip")
        if install_uv(interpreter, locked):
            uv = str(own)
    if uv is None and (installer == "uv" or locked):
        fail("uv is not here and cannot be installed; " + ("LOCKED=1 needs it" if locked else "use INSTALLER=pip"))
    return uv


def install_uv(interpreter: str, locked: bool) -> bool:
    pip = (interpreter, "-m", "pip", "install", "--quiet")
    if not locked:
        return run(*pip, "uv", may_fail=True)
    with locked_requirement("uv") as requirement:
        return run(*pip, "--require-hashes", "--requirement", requirement, may_fail=True)


@contextmanager
def locked_requirement(name: str) -> Iterator[str]:
    """A requirements file of one package's lines in the lock: its version and its hashes."""
    lines = (ROOT / LOCK).read_text().splitlines(keepends=True)
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{name}=="))
    end = next(index for index in range(start, len(lines)) if not lines[index].endswith("\\\n"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.txt"
        file.write_text("".join(lines[start : end + 1]))
        yield str(file)


def install_locked(interpreter: str, installer: str, extras: str) -> None:
    """Install exactly the files of the lock; a file with another hash ends the installation."""
    uv = find_uv(interpreter, installer, locked=True)
    assert uv is not None
    say(f"installing the versions of {LOCK} with {uv}")
    install = (uv, *UV_INSTALL, interpreter)
    chosen = [part for extra in extras.split(",") if extra for part in ("--extra", extra)]
    requirements = ("--requirement", "pyproject.toml", *chosen, "--constraint", LOCK)
    # setuptools builds the project; an isolated build would fetch its newest version.
    with locked_requirement("setuptools") as builder:
        run(*install, "--require-hashes", *requirements, "--requirement", builder)
    run(*install, "--no-deps", "--no-build-isolation", "--editable", ".")


def install_project(interpreter: str, installer: str, extras: str) -> None:
    project = f".[{extras}]" if extras else "."
    if uv := find_uv(interpreter, installer, locked=False):
        say(f"installing maft and its dependencies with {uv}")
        if run(uv, *UV_INSTALL, interpreter, "--editable", project, may_fail=installer == "auto"):
            return
        say("uv did not succeed (it ignores pip's configuration, for one): trying pip")
    say("installing maft and its dependencies with pip; the first time takes some minutes")
    run(interpreter, "-m", "pip", "install", "--quiet", "--editable", project)


def fingerprint(version: tuple[int, ...], extras: str, detectron2: str | None, locked: bool) -> dict[str, str]:
    """What the environment was made from; while it stays the same there is nothing to do."""
    digest = hashlib.sha256()
    for name in WHAT_DECIDES:
        digest.update((ROOT / name).read_bytes())
    return {
        "sources": digest.hexdigest(),
        "python": dotted(version),
        "extras": extras,
        "detectron2": detectron2 or "",
        "versions": "locked" if locked else "newest",
    }


def read_stamp(stamp: Path) -> dict[str, str] | None:
    try:
        return json.loads(stamp.read_text())
    except (OSError, ValueError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="where the environment lives")
    parser.add_argument("--python", help="interpreter of a new environment (default: the one that runs this)")
    parser.add_argument("--installer", choices=["auto", "uv", "pip"], default="auto")
    parser.add_argument("--extras", default="dev", help="optional dependencies of pyproject.toml, comma-separated")
    parser.add_argument("--locked", action="store_true", help=f"install exactly the files of {LOCK}, checked by hash")
    parser.add_argument("--detectron2", metavar="DIR", help="an upstream Detectron2 checkout to use")
    args = parser.parse_args()

    if args.locked and args.installer == "pip":
        fail("pip does not read the lock as constraints with hashes; leave out INSTALLER=pip or LOCKED=1")
    start = time.monotonic()
    venv = ROOT / args.venv
    detectron2 = str(Path(args.detectron2).resolve()) if args.detectron2 else None
    stamp = venv / STAMP_NAME
    interpreter, version = make_environment(venv, args.python)
    made_from = fingerprint(version, args.extras, detectron2, args.locked)
    if read_stamp(stamp) == made_from:
        say(f"{venv} is up to date (Python {dotted(version)})")
        return
    stamp.unlink(missing_ok=True)
    install = install_locked if args.locked else install_project
    install(interpreter, args.installer, args.extras)
    checkout = ("--checkout", detectron2) if detectron2 else ()
    run(interpreter, "tools/install_detectron2.py", *checkout)
    partial = stamp.with_suffix(".tmp")
    partial.write_text(json.dumps(made_from, indent=2))
    os.replace(partial, stamp)
    say(f"{venv} is ready after {time.monotonic() - start:.0f} s; `{args.venv}/bin/maft doctor` says more")


if __name__ == "__main__":
    main()
