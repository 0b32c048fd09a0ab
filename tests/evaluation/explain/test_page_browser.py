"""The page of an explanation in a real browser, opened from the disk.

``MAFT_SCREENSHOTS=docs/images python -m pytest tests/evaluation/explain/test_page_browser.py`` writes the pictures of
the documentation, of all 200 scenes.
"""

import os
from pathlib import Path

import pytest

from maft.evaluation.explain.page import write_page

from .explained import explained
from .hand_made import explanation

WIDTHS = "[document.documentElement.scrollWidth, window.innerWidth]"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_page(folder / "explanation.html", explanation(folder))
    return folder / "explanation.html"


@pytest.fixture()
def visit(browser, file):
    """Opens the page; at the end no script had an error, nothing was refused and nothing else was asked for."""
    contexts, asked, said = [], [], []

    def opened(media=None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        page.emulate_media(media=media)
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert {address for address in asked if not address.startswith("data:")} == {file.as_uri()}
    assert said == []


@pytest.mark.parametrize(("width", "media"), [(1280, None), (375, None), (794, "print")])
def test_the_page_is_no_wider_than_its_window_and_shows_its_pictures(visit, width, media):
    page = visit(media, viewport={"width": width, "height": 800})
    scrolled, there = page.evaluate(WIDTHS)
    assert scrolled <= there
    assert page.title() == "Explanation of 54.8 % mIoU on miniature_val"
    loaded = page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)")
    assert len(loaded) == 6 and all(loaded)
    for details in page.locator("summary").all():
        details.click()
    scrolled, there = page.evaluate(WIDTHS)
    assert scrolled <= there


def test_a_table_is_sorted_by_the_heading_that_is_clicked(visit):
    page = visit(viewport={"width": 1280, "height": 800})
    page.get_by_text("classes in numbers").click()
    table = page.locator("#classes ~ details table")
    assert "script" in table.locator("tbody th").first.inner_text()
    heading = table.get_by_role("button", name="IoU")
    heading.click()
    assert "script" not in table.locator("tbody th").first.inner_text()
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("IoU")
    heading.click()
    assert "script" in table.locator("tbody th").first.inner_text()


def test_a_script_in_a_name_would_not_run_even_unescaped(browser, file, tmp_path):
    text = file.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title='run'</script>", 1)
    (tmp_path / "bad.html").write_text(text, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "bad.html").as_uri())
    assert page.title() != "run"
    page.close()


def test_a_real_explanation_is_shown_and_photographed_for_the_documentation(browser, tmp_path):
    folder = os.environ.get("MAFT_SCREENSHOTS")
    file = explained(tmp_path, 200 if folder else 4) / "explanation.html"
    for name, width, size in (("desktop", 1100, 1), ("phone", 375, 2)):
        page = browser.new_page(viewport={"width": width, "height": 760}, device_scale_factor=size)
        page.goto(file.as_uri())
        scrolled, there = page.evaluate(WIDTHS)
        assert scrolled <= there
        if folder:
            page.screenshot(path=Path(folder) / f"explain_{name}.png")
        if folder and name == "desktop":
            for place in ("masks", "worst"):
                page.evaluate(f"document.getElementById('{place}').scrollIntoView()")
                page.screenshot(path=Path(folder) / f"explain_{place}.png")
        page.close()
