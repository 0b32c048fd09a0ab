#!/usr/bin/env python3
"""Install the wheel of this tree as a stranger would, and try it in a folder that has no checkout.

For every Python and kind of environment: install the wheel, maft doctor --fix, maft demo (shortened), maft predict on a
drawn scene, maft train 20 iterations of a packaged config, and the app must answer. An environment takes 6 GB of disk
and is removed after its trial; the first one downloads as much.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from maft.errors import ToolParser, UserError, run_tool

ROOT = Path(__file__).resolve().parent.parent
SCENE = "datasets/miniature/val/images/000002.png"
# What a stranger does, in this order, with what has to be there afterwards.
STEPS = (
    (("doctor", "--fix"), None),
    (("configs", "quickstart"), None),
    (("demo", "--iterations", "20"), "output/demo/table.json"),
    (
        ("predict", SCENE, "--model", "miniature", "--words", "water", "plum", "anchor", "--output", "predicted"),
        "predicted/000002_labels.png",
    ),
    (
        ("train", "quickstart/maft", "SOLVER.MAX_ITER", "20", "DATASETS.TEST", "[]", "OUTPUT_DIR", "output/short"),
        "output/short/model_final/model.safetensors",
    ),
)


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def run(*command: str | Path, folder: Path, status: int = 0) -> str:
    """Runs a command in ``folder`` and returns what it wrote.

    Raises:
        UserError: it ended with another status.
    """
    start = time.monotonic()
    # Installers find their index and certificates in the environment; nothing else of a checkout should be seen.
    hidden = ("PYTHON", "VIRTUAL_ENV", "DETECTRON2", "MAFT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    kept["PATH"] = os.pathsep.join([str(Path(uv()).parent), os.defpath])
    result = subprocess.run(list(map(str, command)), cwd=folder, env=kept, capture_output=True, text=True)
    words = " ".join(Path(word).name if os.path.isabs(word) else word for word in map(str, command))
    say(f"{time.monotonic() - start:5.0f} s  {words}")
    if result.returncode != status:
        written = result.stdout[-3000:] + result.stderr[-3000:]
        raise UserError(f"{words} ended with status {result.returncode}, not {status}; it wrote:\n{written}")
    return result.stdout + result.stderr


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    if found := shutil.which("uv") or (str(beside) if beside.is_file() else None):
        return found
    raise UserError("uv is not here: install it, or leave uv out of --kinds.")


def install(kind: str, python: str, wheel: Path, extras: str, folder: Path) -> Path:
    """Makes an environment with the wheel in it and returns its folder of programs."""
    environment = folder / "environment"
    programs = environment / "bin"
    wanted = f"{wheel}[{extras}]" if extras else str(wheel)
    if kind == "uv":
        run(uv(), "venv", "--python", python, environment, folder=folder)
        run(uv(), "pip", "install", "--python", programs / "python", wanted, folder=folder)
    else:
        run(python, "-m", "venv", environment, folder=folder)
        run(programs / "python", "-m", "pip", "install", "--quiet", wanted, folder=folder)
    return programs


def try_out(programs: Path, folder: Path, app: bool) -> None:
    """Does what a stranger would in an empty folder.

    Raises:
        UserError: a step fails or leaves nothing.
    """
    maft = programs / "maft"
    refused = run(maft, "train", "quickstart/maft", folder=folder, status=1)
    if refused != 'error: Detectron2 is not installed: run "maft doctor --fix"\n':
        raise UserError(f"without Detectron2, maft train says: {refused}")
    for words, result in STEPS:
        written = run(maft, *words, folder=folder)
        if result and not (folder / result).is_file():
            raise UserError(f"maft {' '.join(words)} left no {result}; it wrote:\n{written[-3000:]}")
    if app:
        ask_the_app(maft, folder)


def ask_the_app(maft: Path, folder: Path) -> None:
    """Starts the app and asks for its page, for two minutes at most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "app.log").open("w+") as log:
        server = subprocess.Popen([str(maft), "app", "--port", str(port)], cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while server.poll() is None and time.monotonic() < deadline:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                        say(f"the app answers: {answer.status}, {len(answer.read())} bytes")
                        return
                except OSError:
                    time.sleep(1)
            log.seek(0)
            raise UserError(f"the app does not answer; it wrote:\n{log.read()[-3000:]}")
        finally:
            server.terminate()
            server.wait()


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=["python3.10", "python3.13"], metavar="PYTHON")
    parser.add_argument("--kinds", nargs="+", default=["uv", "venv"], choices=["uv", "venv"])
    parser.add_argument("--without-app", action="store_true", help="leave out the extra [app] and its step")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", work, str(ROOT)]
        if subprocess.run(build, stdout=subprocess.DEVNULL).returncode:
            raise UserError("the wheel cannot be built; the reason is above")
        (wheel,) = Path(work).glob("*.whl")
        for python in arguments.pythons:
            for kind in arguments.kinds:
                say(f"{kind}, {python}")
                with tempfile.TemporaryDirectory(dir=work) as empty:
                    folder = Path(empty)
                    extras = "" if arguments.without_app else "app"
                    try_out(install(kind, python, wheel, extras, folder), folder, not arguments.without_app)
    say("all trials went well")


if __name__ == "__main__":
    run_tool(main)
