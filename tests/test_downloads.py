"""Files come whole, continue where they were cut, and one sentence says why they do not come."""

import os
import shutil
import threading
from collections import namedtuple

import pytest
import requests
from file_server import FileServer

from maft.downloads import cache_folder, download, one_at_a_time
from maft.errors import UserError

CONTENT = os.urandom(3 << 20)


@pytest.fixture
def url(file_server):
    file_server.files["/model.pth"] = CONTENT
    return f"{file_server.url}/model.pth"


@pytest.fixture
def once(monkeypatch):
    monkeypatch.setattr("maft.downloads._RETRIES", 0)


def test_a_connection_that_breaks_is_taken_up_again_within_a_call(file_server, url, tmp_path, capsys):
    file_server.cuts = [1 << 20]
    download(url, tmp_path / "model.pth", "x")
    assert (tmp_path / "model.pth").read_bytes() == CONTENT
    assert file_server.asked[1] == ("/model.pth", f"bytes={1 << 20}-")
    # No progress where nobody watches.
    assert capsys.readouterr() == ("", "")


def test_the_next_call_goes_on_where_the_last_was_cut(file_server, url, tmp_path, once):
    file_server.cuts = [2 << 20]
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*received 2097152 bytes.*\): try again"):
        download(url, tmp_path / "model.pth", "try again")
    assert not (tmp_path / "model.pth").exists()
    download(url, tmp_path / "model.pth", "x")
    assert (tmp_path / "model.pth").read_bytes() == CONTENT
    assert file_server.asked[-1] == ("/model.pth", f"bytes={2 << 20}-")


def test_what_is_there_is_not_fetched(file_server, url, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"mine")
    download(url, tmp_path / "model.pth", "x")
    assert (tmp_path / "model.pth").read_bytes() == b"mine"


def test_what_has_no_room_is_not_fetched(url, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9 << 20, 5 << 20, 4 << 20))
    with pytest.raises(UserError, match=r"model\.pth needs 0\.01 GB more .* 0\.00 GB are free.* MAFT_CACHE"):
        download(url, tmp_path / "model.pth", "x", copies=2)
    assert not (tmp_path / "model.pth").exists()
    download(url, tmp_path / "model.pth", "x")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/gone.pth", r"/gone\.pth cannot be downloaded \(404 .*\): ask$"),
        ("/page", r"/page gives a web page and not the file.*: ask$"),
    ],
)
def test_what_is_no_file(file_server, tmp_path, once, path, sentence):
    file_server.files["/page"] = "<html>Quota exceeded</html>"
    with pytest.raises(UserError, match=sentence.replace("ask$", r"ask\.$")):
        download(file_server.url + path, tmp_path / "model.pth", "ask")
    assert not (tmp_path / "model.pth").exists()


def test_addresses_without_a_host_or_https_are_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"cannot be downloaded \(no connection to nowhere\.invalid\): ask\."):
        download("https://nowhere.invalid/model.pth", tmp_path / "model.pth", "ask")
    with pytest.raises(UserError, match="is no https:// address"):
        download("http://example.org/model.pth", tmp_path / "model.pth", "ask")


@pytest.mark.parametrize("cut", [[], [1 << 20]])
def test_no_redirection_leads_to_plain_http(file_server, url, tmp_path, cut):
    # Also when it goes on: the first answer is the file, cut, and the second leads elsewhere.
    file_server.cuts = cut
    with FileServer() as plain:
        plain.files["/other.pth"] = b"other weights"
        file_server.redirections = {"/model.pth": [*(None for _ in cut), f"{plain.url}/other.pth"]}
        with pytest.raises(UserError, match=r"leads to http://.*/other\.pth, which is no https:// address\): ask\."):
            download(url, tmp_path / "model.pth", "ask")
        assert not plain.asked
        plain.shutdown()
    assert not (tmp_path / "model.pth").exists()


class TestGoogleDrive:
    """The client's own requests, sent to this machine."""

    LINK = "https://drive.google.com/file/d/1abcDEF/view"

    @pytest.fixture(autouse=True)
    def drive(self, file_server, monkeypatch, once):
        plain = requests.Session.request
        monkeypatch.setattr("maft.downloads.check_reachable", lambda _: None)
        monkeypatch.setattr(
            requests.Session,
            "request",
            lambda session, method, url, **options: plain(
                session, method, url.replace("https://drive.google.com", file_server.url), **options
            ),
        )

    def test_the_warning_about_large_files_is_passed(self, file_server, tmp_path):
        file_server.files["/uc?id=1abcDEF"] = (
            '<html><form id="download-form" action="https://drive.google.com/download" method="get">'
            '<input type="hidden" name="id" value="1abcDEF"><input type="hidden" name="confirm" value="t"></form>'
        )
        file_server.files["/download?id=1abcDEF&confirm=t"] = CONTENT
        file_server.cuts = [100_000, 1 << 20]
        with pytest.raises(UserError, match="received 1048576 bytes"):
            download(self.LINK, tmp_path / "model.pth", "x")
        download(self.LINK, tmp_path / "model.pth", "x")
        assert (tmp_path / "model.pth").read_bytes() == CONTENT
        assert file_server.asked[-1][1] == f"bytes={1 << 20}-"

    def test_a_quota_is_named(self, file_server, tmp_path):
        file_server.files["/uc?id=1abcDEF"] = (
            '<html><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>'
        )
        with pytest.raises(
            UserError, match=r"1abcDEF/view gives a web page and not the file, as Google Drive.*: ask\."
        ):
            download(self.LINK, tmp_path / "model.pth", "ask")


def test_a_folder_is_one_process_at_a_time(tmp_path, caplog):
    order = []

    def second():
        with one_at_a_time(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with one_at_a_time(tmp_path):
        thread.start()
        while not caplog.messages:
            thread.join(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and "waiting for it" in caplog.messages[0]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/cache cannot be written to .*: set MAFT_CACHE"),
        one_at_a_time(tmp_path / "file" / "cache"),
    ):
        pass


def test_the_cache_is_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "maft"
    monkeypatch.setenv("MAFT_CACHE", "~/models")
    assert cache_folder().name == "models" and cache_folder().is_absolute()
