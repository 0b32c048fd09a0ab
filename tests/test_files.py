import errno
import json
import logging
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from maft.errors import UserError
from maft.files import (
    atomic_path,
    changing,
    held,
    raise_errors,
    read_json,
    remove_unfinished,
    write_json_atomic,
    write_text_atomic,
    writing,
)


def test_the_file_appears_only_at_the_end_and_parents_are_created(tmp_path):
    target = tmp_path / "a" / "b" / "picture.png"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        assert not temporary.exists()
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["picture.png"]


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path):
    target = tmp_path / "table.json"
    target.write_text("old")

    def fail_half_way():
        with atomic_path(target) as temporary:
            temporary.write_text("ha")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail_half_way()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.json"]


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "forgotten.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        write_text_atomic(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "output").write_text("")
    with pytest.raises(UserError, match=r"cannot write to folder .*output/run") as error:
        write_text_atomic(tmp_path / "output" / "run" / "a.txt", "x")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="locked: Permission denied"):
        write_text_atomic(folder / "a.txt", "x")


def test_a_folder_as_target_is_refused(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        write_text_atomic(tmp_path, "x")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_user_error(tmp_path):
    target = tmp_path / "a.txt"

    def fill():
        with atomic_path(target) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x")

    with pytest.raises(UserError, match="No space left"):
        fill()
    assert os.listdir(tmp_path) == []


def test_json_is_readable_and_keeps_letters(tmp_path):
    write_json_atomic(tmp_path / "a.json", {"name": "café", "area": 3})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "café" in text
    assert json.loads(text) == {"name": "café", "area": 3}


def test_unserialisable_json_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json_atomic(tmp_path / "a.json", {"x": object()})
    assert os.listdir(tmp_path) == []


def test_only_what_is_unfinished_is_removed_and_only_where_it_is_said(tmp_path):
    kept = [".git/x", ".notes.tmp", "other/.a.0123abcd.tmp.png", "a.0123abcd.tmp", "mine/b.png"]
    left = [".a.0123abcd.tmp.json", ".b.c.0123abcd.tmp", ".model_final.0123abcd.tmp/x", "mine/deep/.b.0123abcd.tmp.png"]
    for name in kept + left:
        write_text_atomic(tmp_path / name, "x")
    with held(tmp_path, "mine"):
        pass
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*kept, ".lock"}


def test_whoever_changes_a_file_waits_for_others_and_leaves_no_lock(tmp_path):
    file = tmp_path / "deep" / "count"

    def one_more(_):
        with changing(file):
            count = int(file.read_text()) if file.exists() else 0
            time.sleep(0.01)
            write_text_atomic(file, str(count + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one_more, range(8)))
    assert file.read_text() == "8" and os.listdir(file.parent) == ["count"]


def test_what_is_unfinished_of_one_file_is_removed_alone(tmp_path):
    for name in ("a.json", ".a.0123abcd.tmp.json", ".b.0123abcd.tmp.json"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path / "a.json")
    assert sorted(os.listdir(tmp_path)) == [".b.0123abcd.tmp.json", "a.json"]


def _full():
    raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("error", [OSError(errno.EDQUOT, "x"), RuntimeError("I/O error: x (os error 28)")])
def test_whoever_meets_a_full_disk_it_is_one_sentence(error):
    sentence = r"^cannot write /a/b: (Disk quota exceeded|No space left on device); free some space or write elsewhere$"
    with pytest.raises(UserError, match=sentence), writing("/a/b"):
        raise error


def test_the_cause_of_an_error_counts():
    with pytest.raises(UserError, match="No space left"), writing("a"):
        try:
            _full()
        except OSError:
            raise RuntimeError("unexpected position") from None


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), ValueError("os error 2"), UserError("x")])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as caught, writing("a"):
        raise error
    assert caught.value is error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_ends_the_run(capsys):
    log = logging.Logger("test")
    log.addHandler(logging.FileHandler("/dev/full"))
    raise_errors(log.handlers[0])
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        log.warning("x")
    log.warning("a wrong %d", "format")
    assert capsys.readouterr().err.count("Traceback") == 1


def test_a_name_with_a_null_byte_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="null byte"):
        write_text_atomic(tmp_path / "a\0b" / "c", "")


def test_a_name_that_no_file_can_have_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        write_text_atomic(tmp_path / ("x" * 3000), "")


def test_json_that_is_nested_too_deeply_is_none(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")
