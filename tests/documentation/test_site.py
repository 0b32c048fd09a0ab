"""The site builds without a warning, its links lead somewhere, and a reader's browser asks nobody else."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from documentation.pages import ROOT
from pages.config_keys import config_keys_page
from site_hooks import site_links


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; notebooks are executed by their own test."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "MAFT_DOCS_EXECUTE": "false", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


class Links(HTMLParser):
    """What a page refers to, and the names of its places."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.places = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.add((tag, value))
            elif name == "id":
                self.places.add(value)


def test_every_link_of_the_site_leads_somewhere(site):
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 20
    broken = []
    for path, links in pages.items():
        for _, target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[file].places if file in pages else set()
            if not file.exists() or (parts.fragment and file in pages and unquote(parts.fragment) not in known):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert not broken


def test_a_page_shows_what_it_promises(site):
    words = re.sub(r"<[^>]+>", "", (site / "api/predictor.html").read_text(encoding="utf-8"))
    assert "from_pretrained" in words and ":class:" not in words
    keys = (site / "config_keys.html").read_text(encoding="utf-8")
    assert "MODEL.VOCABULARY.TEMPLATES" in keys


@pytest.fixture
def address(site):
    """Of a server that shows the site."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def test_the_browser_asks_no_other_host_and_finds_words(address):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    from playwright.sync_api import sync_playwright

    asked, errors = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("photos", "notebooks/predict", "api/predictor", "index"):
            page.goto(f"{address}{name}.html")
            page.wait_for_load_state("networkidle")
        # The page empties its search field when its script starts, which on a busy machine may be after it was filled.
        page.wait_for_selector(".md-search-result__meta:text('Type to start')", state="attached", timeout=120_000)
        # Keys are what it listens to: a value that is put there is seen by chance alone.
        page.locator("input[name=query]").press_sequentially("confidence")
        page.wait_for_selector(".md-search-result__item a[href*='photos.html']", timeout=120_000)
        browser.close()
    assert not errors
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_every_config_key_has_its_row():
    text = (ROOT / "maft/defaults.yaml").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", config_keys_page(text), re.MULTILINE)
    assert {key: yaml.safe_load(value) for key, value in rows} == dict(leaves(yaml.safe_load(text)))


def test_comments_explain_the_keys_below_them():
    page = config_keys_page("A:\n  # What | b\n  # is.\n  B: 1\n  C: 2\n# About.\nD:\n  E: x\n")
    assert "| `A.B` | `1` | What \\| b is. |" in page and "| `A.C` | `2` |  |" in page
    assert "## D\n\nAbout.\n" in page


def test_links_lead_to_pages_and_source_files_become_text():
    known = {"index.md", "model_zoo.md", "datasets.md", "faq.md", "api/zoo.md", "images/a.png", "config_keys.md"}
    for page, given, expected in (
        ("faq.md", "[zoo](../MODEL_ZOO.md#a)", "[zoo](model_zoo.md#a)"),
        ("faq.md", "[code](../maft/registry.py)", "code"),
        ("faq.md", "[keys](config_keys.md)", "[keys](config_keys.md)"),
        ("faq.md", "[read](../README.md)", "[read](index.md)"),
        ("api/zoo.md", "[data](../../datasets/README.md)", "[data](../datasets.md)"),
        ("model_zoo.md", "[questions](docs/faq.md)", "[questions](faq.md)"),
        ("datasets.md", "![picture](../docs/images/a.png)", "![picture](images/a.png)"),
        ("faq.md", "[nothing](nothing.md)", "[nothing](nothing.md)"),
    ):
        assert site_links(given, page, known) == expected
