"""What mkdocs asks for while it builds the site: pages made of other files, and links between them.

The repository's own pages (MODEL_ZOO.md, datasets/README.md and so on) are pages of the site, too. Links are written as
they work in the repository; here those to a page lead to that page, and those to source files, which the site does not
have, become their text.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from pages.config_keys import config_keys_page

ROOT = Path(__file__).resolve().parent.parent
# Page of the site -> file of the repository that it is.
FROM_REPOSITORY = {
    "model_zoo.md": "MODEL_ZOO.md",
    "datasets.md": "datasets/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)]*)?\)")
# References in docstrings are written for Sphinx.
_ROLE = re.compile(r":(?:func|class|meth|mod|attr):<code>~?")


def on_config(config: Any) -> None:
    # Notebooks would draw the miniature world beside themselves.
    os.environ.setdefault("DETECTRON2_DATASETS", str(ROOT / "datasets"))
    # tqdm remarks in red that it cannot draw its bars as widgets.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")


def on_files(files: Files, config: Any) -> Files:
    for page, source in FROM_REPOSITORY.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    defaults = (ROOT / "maft/defaults.yaml").read_text(encoding="utf-8")
    files.append(File.generated(config, "config_keys.md", content=config_keys_page(defaults)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    return site_links(markdown, page.file.src_uri, {file.src_uri for file in files})


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    return _ROLE.sub("<code>", html)


def site_links(markdown: str, page: str, known: set[str]) -> str:
    """The links of a page as the site has them.

    Args:
        markdown: the page, with links that hold in the repository.
        page: its path in the site's sources, such as ``faq.md``.
        known: the paths of all sources of the site.
    """
    here = posixpath.dirname(FROM_REPOSITORY.get(page, f"docs/{page}"))
    moved = {source: name for name, source in FROM_REPOSITORY.items()} | {"README.md": "index.md"}

    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            return match[0]
        source = posixpath.normpath(posixpath.join(here, target))
        name = moved.get(source, source.removeprefix("docs/"))
        if name in known and (source in moved or source.startswith("docs/")):
            link = posixpath.relpath(name, posixpath.dirname(page) or ".")
            return f"{match['image']}[{match['text']}]({link}{match['anchor'] or ''})"
        # What is neither is left to mkdocs: a page that is made for the site alone, or a link that leads to nothing.
        return match["text"] if (ROOT / source).exists() else match[0]

    return _LINK.sub(replace, markdown)
