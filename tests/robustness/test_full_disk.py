"""A real file system of 20 MB that fills up: one sentence that names the file, and with space the same result."""

import os
import shutil
import subprocess

import pytest
from engine.tiny_run import write_images
from robustness.forked import Script
from robustness.programs import PROGRAMS, contents, difference, draw

PAGE = 4096
EVERY = bool(os.environ.get("MAFT_KILL"))
# In pages: the lock, the config, the log, the numbers, TensorBoard's file, and parts of each checkpoint.
TRAINING = range(23) if EVERY else (0, 3, 4, 5, 15)
OTHERS = range(0, 40, 2) if EVERY else (8,)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    draw(folder)
    write_images(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def disk(tmp_path_factory, datasets):
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    try:
        (folder / "datasets").symlink_to(datasets)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def run(disk, datasets, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "words.txt"

    def run(*arguments, first=None):
        environment = {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
        script = Script(*arguments, log=log, environment=environment, first=first)
        return script.status(), script.words()

    return run


def fill(disk, pages):
    state = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(state.f_bavail * state.f_frsize - pages * PAGE))


def is_one_sentence(status, words, disk):
    """Whether a run has ended with one sentence about one file on the disk."""
    sentences = [line for line in words.splitlines() if line.startswith("error: ")]
    return (
        status == 1
        and "Traceback" not in words
        and len(sentences) == 1
        and f"{disk}/" in sentences[0]
        and "No space left on device" in sentences[0]
    )


def check(disk, run, output, pages, arguments, *, prepare=lambda folder: None, first=None):
    """Runs on an empty disk, on one with so many free pages, and on that one again when there is space.

    It ends with the first number of pages that are enough.
    """
    prepare(output)
    status, words = run(*arguments, first=first)
    assert status == 0, words
    expected = contents(output)
    for free in pages:
        shutil.rmtree(output)
        prepare(output)
        fill(disk, free)
        try:
            status, words = run(*arguments, first=first)
            if status == 0 and free != pages[0]:
                break
            assert is_one_sentence(status, words, disk), f"{free} free pages, status {status}: {words}"
            assert not list(output.rglob("*.tmp*")), f"{free} free pages"
            left = contents(output)
        finally:
            (disk / "filler").unlink()
        # These grow and change, or are of the half-finished evaluation; all others are whole.
        stable = {
            path for path in left if not path.endswith(("metrics.json", "last_checkpoint", "_0_of_1.safetensors"))
        }
        assert {path: left[path] for path in stable} == {path: expected.get(path) for path in stable}, free
        status, words = run(*arguments, first=first)
        assert status == 0, words
        assert not difference(contents(output), expected), f"{free} free pages"
    shutil.rmtree(output)


def test_a_training(disk, run, datasets):
    output = disk / "tiny"
    check(
        disk,
        run,
        output,
        TRAINING,
        ("tests/engine/tiny_run.py", datasets / "tiny", output, "--resume", "SOLVER.KEEP_CHECKPOINTS", 0),
    )


@pytest.mark.parametrize("program", PROGRAMS[1:], ids=lambda program: program.name)
def test_evaluation_mining_and_preparation(disk, run, program):
    output = disk / program.name
    check(disk, run, output, OTHERS, program.arguments(disk), prepare=program.prepare, first=program.first)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tools/extract_part.py", "configs/quickstart/proposer.safetensors", "{}/part.safetensors", "--parts",
         "proposer."),
        ("tools/check_data.py", "miniature_val", "--sheet", "{}/pictures.png"),
        ("tools/demo.py", "--config-file", "configs/quickstart/maft.yaml", "--input",
         "{}/../datasets/miniature/val/images/000000.png", "--output", "{}", "MODEL.DEVICE", "cpu"),
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_other_tools(disk, run, arguments):
    output = disk / "other"
    check(
        disk, run, output, range(0, 20, 4) if EVERY else (0,), [word.replace("{}", str(output)) for word in arguments],
        prepare=lambda folder: folder.mkdir(exist_ok=True),
    )  # fmt: skip
