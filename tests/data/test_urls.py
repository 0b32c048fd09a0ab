"""Pictures from the web, fetched from a server on this machine that stands for it."""

import ipaddress
import shutil
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from maft.data import urls
from maft.data.urls import fetched, is_public, is_url
from maft.errors import UserError

NAME = "pictures.example"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/redirect/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/redirect/").replace("%3A", ":"))
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x" * 1000)
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif self.path == "/announced":
            self.send_response(200)
            self.send_header("Content-Length", str(10**9))
            self.end_headers()
        elif self.path in ("/a.png", "/%C3%A4%20b.png?width=3"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())
        else:
            self.send_error(404, "Not Found")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("the openssl command, which makes a certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}", "-addext",
         f"subjectAltName=DNS:{NAME}", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *rest: None  # clients that hang up are part of the tests
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], folder / "cert.pem"
    server.shutdown()
    server.server_close()


@pytest.fixture
def site(server, monkeypatch):
    """The address of the server, whose name resolves to it and which counts as public: the rest is as everywhere."""
    port, certificate = server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    resolve = urls.socket.getaddrinfo

    def getaddrinfo(name, *rest, **options):
        return resolve("127.0.0.1" if name == NAME else name, *rest, **options)

    monkeypatch.setattr(urls.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(urls, "is_public", lambda address: str(address) == "127.0.0.1" or is_public(address))
    return f"https://{NAME}:{port}"


def test_a_picture_is_fetched_also_by_way_of_a_redirection(site):
    assert fetched(f"{site}/a.png") == b"/a.png"
    assert fetched(f"{site}/redirect//a.png") == b"/a.png"
    assert fetched(f"{site}/redirect/{site}/a.png") == b"/a.png"
    assert fetched(f"{site}/ä b.png?width=3") == b"/%C3%A4%20b.png?width=3"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/none.png", "answers 404 Not Found: check the address"),
        ("/loop", "redirects more than 5 times"),
        ("/redirect/https://10.0.0.1/a.png", r"10\.0\.0\.1 lies at 10\.0\.0\.1, which is not public"),
        ("/redirect/http://example.org/a.png", "give one of https://"),
        ("/redirect/file:///etc/passwd", "give one of https://"),
        ("/endless", "is larger than 0 MiB"),
        ("/announced", "is larger than 0 MiB"),
        ("/slow", r"cannot be fetched \(it took more than 0.5 seconds\)"),
    ],
)
def test_answers_that_are_no_picture(site, path, sentence):
    start = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        fetched(site + path, most_bytes=20_000, seconds=0.5)
    assert time.monotonic() - start < 3


def test_the_certificate_must_be_of_the_name(site):
    with pytest.raises(UserError, match=r"cannot be fetched \(.*certificate verify failed"):
        fetched(site.replace(NAME, "localhost") + "/a.png")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "[::1]", "[fe80::1]",
     "[fd00::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "100.64.0.1"],
)  # fmt: skip
def test_private_addresses_are_refused_however_they_are_written(host):
    with pytest.raises(UserError, match="which is not public"):
        fetched(f"https://{host}/a.png")


def test_each_address_of_a_name_must_be_public(monkeypatch):
    found = [(2, 1, 6, "", (address, 443)) for address in ("93.184.215.14", "192.168.1.1")]
    monkeypatch.setattr(urls.socket, "getaddrinfo", lambda *rest, **options: found)
    with pytest.raises(UserError, match=r"rebound\.example lies at 192\.168\.1\.1"):
        fetched("https://rebound.example/a.png")


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a.png", "https://", "https://me:secret@example.org/", "https://h:99999/", "https://h:0/"],
)
def test_other_addresses_are_refused(url):
    assert is_url(url)
    with pytest.raises(UserError, match="give one of https:// and a host, without a password"):
        fetched(url)


def test_public_addresses():
    for address in (
        "93.184.215.14",
        "2606:2800:21f:cb07:6820:80da:af6b:8b2c",
        "::ffff:93.184.215.14",
        "64:ff9b::5db8:d70e",
    ):
        assert is_public(ipaddress.ip_address(address))
    for address in (
        "224.0.0.1", "ff02::1", "::", "::ffff:10.0.0.1", "2001:db8::1", "255.255.255.255", "fec0::1",
        "64:ff9b:1::7f00:1", "::ffff:0:127.0.0.1", "::127.0.0.1", "192.0.0.8", "3fff::1", "5f00::1", "100::1",
    ):  # fmt: skip
        assert not is_public(ipaddress.ip_address(address))
    assert not is_url("a.png") and not is_url("https.png") and is_url("HTTPS://example.org")
