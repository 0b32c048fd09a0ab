"""Runs the blocks of a page as a reader would, in a process that has imported everything already."""

from __future__ import annotations

import argparse
import importlib
import itertools
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from documentation.pages import ROOT, Block, blocks

SHELL, PYTHON = "bash", "python"
_OPERATORS = {"|", ">", ">>", "<", "&&", "||", ";", "&"}
# What ends a shell chunk: its folder and variables are those of the next.
_KEEP_STATE = '\ncode=$?; pwd > "$MAFT_STATE.folder"; env -0 > "$MAFT_STATE.variables"; exit $code\n'

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["maft.engine.training", "maft.predictor", "maft.conformance"])


def run_page(page: str, folder: Path, environment: dict[str, str], log: Path) -> int:
    """Runs a page in a process of its own.

    Args:
        page: path below the root.
        folder: where the reader is.
        environment: what differs from this process' own.
        log: file that stdout and stderr go to.

    Returns:
        The exit status: 0 when every block did what the convention asks for.
    """
    process = _forks.Process(target=_run, args=(list(blocks(page)), folder, environment, log))
    process.start()
    process.join()
    return process.exitcode or 0


def _run(page_blocks: list[Block], folder: Path, environment: dict[str, str], log: Path) -> None:
    # As in a process that a shell starts.
    multiprocessing.set_start_method(None, force=True)
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.pop("DETECTRON2_DATASETS", None)
    os.environ.update(environment)
    sys.path.insert(0, "")
    shared: dict[str, Any] = {"__name__": "__main__"}
    for block in page_blocks:
        print(f"--- {block.place}", flush=True)
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == SHELL:
            (check_shell if block.reason else _run_shell)(block)
        elif block.language == PYTHON:
            # Tracebacks name the line of the page.
            code = compile("\n" * block.line + block.text, block.page, "exec")
            if not block.reason:
                exec(code, shared)
        sys.stdout.flush()


def _run_shell(block: Block) -> None:
    for ours, chunk in itertools.groupby(statements(block.text), lambda line: _maft(line) is not None):
        if not ours:
            script = "\n".join(chunk)
            assert not block.more or not re.search(r"\bmaft ", script), (
                f"{block.place}: {block.more} fit plain lines alone"
            )
            _in_bash(script)
            continue
        for line in chunk:
            words = [os.path.expandvars(word) for word in _maft(line) or []]
            assert _forked([*words, *block.more]) == 0, f"{block.place}: {line}"


def statements(text: str) -> Iterator[str]:
    """The lines of a shell script, those that go on (by a backslash, or in quotes) joined."""
    begun = ""
    for line in text.replace("\\\n", "").splitlines():
        begun += line
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            begun += "\n"
            continue
        yield begun
        begun = ""
    if begun:
        yield begun


def _maft(line: str) -> list[str] | None:
    """The arguments of a line that runs ``maft`` and nothing else, with no more of the shell than plain variables."""
    if re.search(r"[`*]|\$[({]", line):
        return None
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None
    return words[1:] if words[:1] == ["maft"] and not _OPERATORS.intersection(words) else None


def _in_bash(text: str) -> None:
    state = Path(os.environ["MAFT_STATE"])
    subprocess.run(["bash", "-ec", text + _KEEP_STATE], check=True)
    os.chdir(state.with_suffix(".folder").read_text().rstrip("\n"))
    pairs = state.with_suffix(".variables").read_text().split("\0")
    os.environ.update(pair.split("=", 1) for pair in pairs if "=" in pair)


def _forked(words: list[str]) -> int:
    """Exit status of ``maft`` with these arguments, in a copy of this process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status: Any = 1
        try:
            from maft.cli import main

            sys.argv = ["maft", *words]
            main()
        except SystemExit as end:
            status = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_shell(block: Block) -> None:
    """What can be known of a block without running it.

    Raises:
        AssertionError, UserError: it is no shell, or one of its commands does not exist or understand its arguments.
    """
    done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert done.returncode == 0, f"{block.place}: {done.stderr}"
    for words in _programs(block):
        if words[0] == "maft":
            _check_command(words[1:], block)
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert all(f"\n{target}:" in makefile for target in targets), f"{block.place}: {targets} of make"
        elif words[0].startswith(("tools/", "datasets/prepare")):
            assert (ROOT / words[0]).is_file(), f"{block.place}: there is no {words[0]}"
            if words[0] == "tools/train_net.py":
                _check_command(["train", *words[1:]], block)


def _programs(block: Block) -> Iterator[list[str]]:
    """The commands of this project in a block, whatever starts them, up to the next operator of the shell."""
    for line in statements(block.text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        for start, word in enumerate(words):
            if word in ("maft", "make") or word.startswith(("tools/", "datasets/prepare")):
                yield list(itertools.takewhile(lambda w: w not in _OPERATORS, words[start:]))
                break


def _check_command(words: list[str], block: Block) -> None:
    if not words or words[0].startswith("-"):
        return
    name = f"maft.cli.{words[0]}"
    assert importlib.util.find_spec(name), f"{block.place}: there is no command maft {words[0]}"
    if any("$@" in word for word in words):
        # A function of the shell has the rest.
        return
    try:
        tool = importlib.import_module(name).parser()
        commands = any(action.nargs == argparse.PARSER for action in tool._actions)
        arguments = (tool.parse_args if commands else tool.parse_intermixed_args)(words[1:])
    except SystemExit as end:
        # --help ends here.
        assert not end.code, block.place
        return
    if words[0] in ("train", "evaluate") and getattr(arguments, "index", None) is None:
        from maft.cli.arguments import config_and_overrides
        from maft.config import load_config

        load_config(*config_and_overrides(tool, arguments))
    models = getattr(arguments, "model", None) or []
    for model in [models] if isinstance(models, str) else models:
        from maft.zoo import names

        assert model in names() or "/" in model, f"{block.place}: {model} is not in the zoo"
