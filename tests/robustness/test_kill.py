"""Runs that are killed (SIGKILL) at random moments and started again end with the bytes of an unbroken run.

A few moments in every test run, ``make kill-test N=20`` tries N of each program and every step of a checkpoint write.
"""

import os
import random
import shutil
import signal
import time

import pytest
from engine.tiny_run import write_images
from robustness.forked import Script
from robustness.programs import PROGRAMS, contents, difference, draw

ASKED = int(os.environ.get("MAFT_KILL", "0"))
SEED = int(os.environ.get("MAFT_KILL_SEED", "0")) or (random.SystemRandom().randrange(1, 10**6) if ASKED else 1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    draw(folder / "datasets")
    return folder


@pytest.fixture(scope="module")
def script(work):
    def start(*arguments, first=None, **environment):
        environment |= {"DETECTRON2_DATASETS": str(work / "datasets"), "OMP_NUM_THREADS": "1"}
        return Script(*arguments, log=work / "words.txt", environment=environment, first=first)

    return start


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_killed_at_a_random_moment(program, work, script, capsys):
    draws = random.Random(f"{SEED} {program.name}")
    output = work / program.name

    def start():
        return script(*program.arguments(work), first=program.first)

    def unbroken():
        run, began = start(), time.monotonic()
        assert run.status() == 0, run.words()
        return time.monotonic() - began

    program.prepare(output)
    seconds = unbroken()
    expected = contents(output)
    kills = 0
    while kills < (ASKED or 1):
        shutil.rmtree(output)
        program.prepare(output)
        run, moment = start(), draws.uniform(0, seconds)
        time.sleep(moment)
        # Without its first process, the others have to end by themselves.
        if not run.kill(alone=bool(draws.getrandbits(1))):
            seconds = moment
            continue
        kills += 1
        where = f"seed {SEED}, kill {kills}, after {moment:.2f} s"
        assert not run.has_orphans(), where
        unbroken()
        assert not difference(contents(output), expected), where
    with capsys.disabled():
        print(f"\n{program.name}: {kills} kills, {kills} identical (seed {SEED}, {len(expected)} files compared)")


def test_killed_at_each_step_of_a_checkpoint_write(work, script, capsys):
    write_images(work / "images")
    output = work / "steps"

    def run(**environment):
        return script("tests/robustness/checkpoint_steps.py", work / "images", output, "--resume", **environment)

    unbroken = run()
    assert unbroken.status() == 0, unbroken.words()
    steps = int(unbroken.words().split()[-2])
    assert steps > 50
    expected = contents(output)
    chosen = range(steps) if ASKED else random.Random(SEED).sample(range(steps), 3)
    for step in chosen:
        shutil.rmtree(output)
        killed = run(DIE_AT=str(step))
        assert killed.status() == -signal.SIGKILL, f"step {step}: {killed.words()}"
        again = run()
        assert again.status() == 0, f"step {step}: {again.words()}"
        assert not difference(contents(output), expected), f"step {step}"
    with capsys.disabled():
        print(f"\ncheckpoint writes: {len(chosen)} of {steps} steps killed, {len(chosen)} identical")
