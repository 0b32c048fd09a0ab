"""The app in a real browser: Debian's Chromium, driven by playwright, on the shipped model.

``MAFT_SCREENSHOTS=docs/images python -m pytest tests/app/test_browser.py`` writes the pictures of the documentation.
"""

import json
import os
import re
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from maft.app.models import Models
from maft.app.photos import Limits, drawn_examples, encoded
from maft.app.words import OWN
from maft.errors import UserError
from maft.index import Index
from maft.miniature import miniature_classes, render_scene
from maft.predictor import Predictor

pytest.importorskip("gradio", reason="gradio is not installed")

GO = "Label the picture"
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
LINES = "document.querySelector('[data-part=lines]').toDataURL()"
# Whether an answer to clicks, which has no segments, has so many instances.
COUNTED = """async (number) => { const { href } = document.querySelector('[data-part=json]');
    const found = href && await (await fetch(href)).json();
    return found && found.segments === null && found.instances.length === number }"""
# Among other things an apple, which is unseen in training, a window and a fan, on grass and a cloud.
SCENE = 4
WORDS, THINGS = "apple\nwindow\nfan\ngrass\ncloud", "apple\nwindow\nfan"


@pytest.fixture(scope="module")
def server(predictor, on_sam, index_folder):
    from maft.app.server import serve

    def missing():
        raise UserError("The weights are not here: fetch them.")

    frozen = partial(Predictor.from_config, "quickstart/frozen_clip")
    models = Models({"miniature": lambda: predictor, "frozen CLIP": frozen, "missing": missing, "SAM": lambda: on_sam})
    page = serve(
        models,
        drawn_examples(),
        Limits(megabytes=1, megapixels=2),
        host="127.0.0.1",
        port=None,
        indices={"scenes": Index(index_folder)},
    )
    yield page
    page.close()


@pytest.fixture()
def visit(browser, server):
    """Opens the page as a new visitor; at the end no visitor asked another host or met an error of a script."""
    contexts, hosts, errors = [], set(), []

    def opened(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.local_url)
        page.wait_for_selector(".maft-examples img")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert hosts <= {urlsplit(server.local_url).hostname, None}
    assert errors == []


def part(page, name):
    return page.locator(f'[data-part="{name}"]')


def choose(page, file="scene.png", data=None):
    data = encoded(Image.fromarray(render_scene(SCENE, "val").image), "PNG") if data is None else data
    part(page, "file").set_input_files({"name": file, "mimeType": "image/jpeg", "buffer": data})


def fill(page, field, text):
    page.locator(f"#maft-{field} textarea").fill(text)


def label(page):
    page.get_by_role("button", name=GO).click()


def legend(page):
    """Names and texts of the classes found, once they are there."""
    part(page, "legend").locator("button").first.wait_for()
    return part(page, "legend").locator("button span").all_inner_texts()


def photographed(page, name, **options):
    """Kept for the documentation where a folder is named."""
    if folder := os.environ.get("MAFT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", **options)


def colour_at(page, x, y):
    """RGBA of the labels' canvas at a share of its width and height."""
    script = """([x, y]) => { const canvas = document.querySelector('[data-part="colours"]');
        const [u, v] = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
        return [...canvas.getContext('2d').getImageData(u, v, 1, 1).data]; }"""
    return page.evaluate(script, [x, y])


def place_of(name):
    """x and y, as shares, of a point well inside a class of the scene."""
    mask = render_scene(SCENE, "val").sem_seg == miniature_classes().names.index(name)
    rows, columns = mask.nonzero()
    middle = np.argmin(np.abs(rows - rows.mean()) + np.abs(columns - columns.mean()))
    return (columns[middle] + 0.5) / 96, (rows[middle] + 0.5) / 96


def tip(page, x, y):
    """What is said of a point of the picture, given in shares, with the mouse on it."""
    part(page, "lines").scroll_into_view_if_needed()
    box = part(page, "lines").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    return part(page, "tip").inner_text()


def click_on(page, x, y):
    """Clicks the picture at a point given in shares."""
    part(page, "photo").scroll_into_view_if_needed()
    box = part(page, "photo").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_photo_words_result_and_files(visit, server):
    page = visit()
    choose(page)
    part(page, "photo").wait_for()
    fill(page, "words", WORDS)
    fill(page, "things", THINGS)
    label(page)
    assert set(legend(page)) == set(WORDS.split())
    assert "unseen" in part(page, "legend").locator("button", has_text="apple").inner_text()
    assert "unseen" not in part(page, "legend").locator("button", has_text="window").inner_text()
    # The name of what the pointer is on, and its outline.
    x, y = place_of("apple")
    assert re.fullmatch(r"apple · \d+ %", tip(page, x, y))
    photographed(page, "app_desktop", full_page=True)
    with_names = page.evaluate(LINES)
    part(page, "names").uncheck()
    assert page.evaluate(LINES) != with_names
    part(page, "names").check()
    # Switching a class off and on again, without the server.
    assert colour_at(page, x, y)[3] == 255
    button = part(page, "legend").locator("button", has_text="apple")
    button.click()
    assert colour_at(page, x, y)[3] == 0 and button.get_attribute("aria-pressed") == "false"
    with page.expect_download() as download:
        part(page, "labels").click()
    with Image.open(download.value.path()) as image:
        stored = np.asarray(image)
    assert image.mode == "P" and stored.shape == (96, 96)
    assert set(np.unique(stored)) == {1, 2, 3, 4, 255}, "class 0 is switched off"
    button.click()
    assert colour_at(page, x, y)[3] == 255
    with page.expect_download() as download:
        part(page, "json").click()
    table = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert table["class_names"] == WORDS.split() and table["instances"]
    with page.expect_download() as download:
        part(page, "overlay").click()
    with Image.open(download.value.path()) as image:
        assert image.size[0] >= 320
    # Opacity and threshold work on what is here: the model is not asked again.
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    part(page, "opacity").fill("20")
    assert page.evaluate("document.querySelector('[data-part=colours]').style.opacity") == "0.2"
    sure = int(re.search(r"\d+", tip(page, x, y)).group())
    assert sure < 100
    part(page, "threshold").fill(str(sure + 1))
    assert colour_at(page, x, y)[3] == 0
    assert tip(page, x, y) == "none of these"
    part(page, "threshold").fill("0")
    assert asked == []
    for view in ("Panoptic", "Instances"):
        page.get_by_role("radio", name=view).click()
        page.wait_for_function(f"document.querySelector('[data-view={view.lower()}]').ariaChecked === 'true'")
        assert re.fullmatch(r"fan · \d+ %", tip(page, *place_of("fan")))
    assert list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.*")) == [], "nothing of a visitor is on the disk"


def test_mistakes_are_said_beside_their_field(visit, caplog):
    page = visit()
    label(page)
    error = part(page, "error")
    error.wait_for()
    assert "There is no picture yet" in error.inner_text()
    choose(page, "holiday.jpg", b"this is a text")
    page.wait_for_function("document.querySelector('[data-part=error]').textContent.includes('is no picture')")
    choose(page, "large.png", encoded(Image.new("RGB", (2000, 1500)), "PNG"))
    page.wait_for_function("document.querySelector('[data-part=error]').textContent.includes('3.0 megapixels')")
    choose(page, "heavy.png", b"x" * (2**20 + 1))
    page.wait_for_function("document.querySelector('[data-part=error]').textContent.includes('this app takes 1')")
    choose(page)
    part(page, "photo").wait_for()
    assert error.is_hidden()
    fill(page, "words", "")
    label(page)
    wrong = page.locator(".maft-error:visible")
    wrong.wait_for()
    assert wrong.all_inner_texts() == ["There are no words: write at least one class, each on a line of its own."]
    above, below = page.locator("#maft-words").bounding_box(), wrong.bounding_box()
    assert 0 <= below["y"] - above["y"] - above["height"] < 40, "it stands under its field"
    fill(page, "words", "grass\ncloud\nzebra")
    fill(page, "things", "dog")
    label(page)
    page.wait_for_function("document.body.innerText.includes(\"The thing 'dog' is none of the class names\")")
    assert wrong.count() == 1
    photographed(page, "app_error")
    fill(page, "things", "")
    label(page)
    assert "grass" in legend(page)
    assert wrong.count() == 0 and "never seen: zebra" in page.locator(".maft-remark").inner_text()
    assert page.locator(".toast-wrap *").count() == 0
    assert not [record for record in caplog.records if record.exc_info], "no traceback on the server"


def test_on_a_phone_the_result_is_under_the_photo(visit):
    page = visit(**PHONE)
    page.locator(".maft-examples button").nth(SCENE).click()
    part(page, "photo").wait_for()
    label(page)
    assert "grass" in legend(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is cut off at the side"
    result, words = part(page, "lines").bounding_box(), page.locator("#maft-words").bounding_box()
    assert result["width"] > 300 and result["y"] + result["height"] < words["y"]
    page.wait_for_function("document.querySelector('[data-part=stage]').getBoundingClientRect().top < 200")
    part(page, "lines").tap()
    part(page, "tip").wait_for()
    assert "%" in part(page, "tip").inner_text()
    photographed(page, "app_phone")


def test_two_visitors_at_once_get_their_own_answers(visit):
    one, other = visit(), visit()
    for page, words in ((one, "brick\nbadge"), (other, "grass\ncactus\nbee")):
        choose(page)
        part(page, "photo").wait_for()
        fill(page, "words", words)
        fill(page, "things", "")
    other.locator("#maft-model input").click()
    other.get_by_role("option", name="frozen CLIP").click()
    label(one)
    label(other)
    assert set(legend(one)) <= {"brick", "badge"}
    assert set(legend(other)) <= {"grass", "cactus", "bee"}


def test_vocabularies_fill_the_words(visit):
    page = visit()
    page.locator("#maft-vocabulary input").click()
    page.get_by_role("option", name="miniature: the 6 unseen classes").click()
    unseen = miniature_classes().unseen[0]
    page.wait_for_function(
        f"document.querySelector('#maft-words textarea').value.split('\\n').length === {len(unseen)}"
    )
    assert set(page.locator("#maft-words textarea").input_value().split("\n")) == set(unseen)
    title = page.locator("#maft-vocabulary input")
    assert title.input_value() == "miniature: the 6 unseen classes"
    # Words of one's own: the things of the vocabulary are no mistake of the visitor's.
    choose(page)
    part(page, "photo").wait_for()
    fill(page, "words", f"{unseen[0]}\ngrass\n")
    page.locator("#maft-words textarea").press_sequentially("my own thing")
    page.wait_for_function(f"document.querySelector('#maft-vocabulary input').value === '{OWN}'")
    label(page)
    assert "grass" in legend(page)
    assert page.locator(".maft-error:visible").count() == 0
    assert page.locator("#maft-things textarea").input_value() in (unseen[0], "")
    assert "common." not in page.locator("body").inner_text()


def test_a_model_that_cannot_say_its_words_is_an_error_beside_them(visit):
    page = visit()
    title, trained = page.locator("#maft-vocabulary input"), "what this model was trained on"
    title.click()
    page.get_by_role("option", name=trained).click()
    page.wait_for_function("document.querySelector('#maft-words textarea').value.split('\\n').length === 18")
    page.locator("#maft-model input").click()
    page.get_by_role("option", name="missing").click()
    page.wait_for_function(f"document.querySelector('#maft-vocabulary input').value === '{OWN}'")
    title.click()
    page.get_by_role("option", name=trained).click()
    page.locator(".maft-error:visible").wait_for()
    assert "The weights are not here" in page.locator(".maft-error:visible").inner_text()
    assert page.locator(".toast-wrap *").count() == 0


def test_a_click_finds_and_names_its_object(visit):
    page = visit()
    choose(page)
    part(page, "photo").wait_for()
    fill(page, "words", WORDS)
    # A click means nothing to a model that finds all at once.
    click_on(page, *place_of("apple"))
    assert part(page, "bar").is_hidden() and page.locator(".maft-error:visible").count() == 0
    page.locator("#maft-model input").click()
    page.get_by_role("option", name="SAM").click()
    label(page)
    legend(page)
    assert "Click an object to find it" in part(page, "note").inner_text()
    # The second while the answer to the first is under way.
    for number in (1, 2):
        click_on(page, 0.2 * number, 0.5)
    page.wait_for_function(COUNTED, arg=2)
    page.wait_for_selector("[data-view=instances][aria-checked=true]")
    page.wait_for_selector("[data-view=panoptic]:disabled")
    # The button asks about the whole picture again, in the view of before.
    label(page)
    page.wait_for_selector("[data-view=semantic][aria-checked=true]")
    page.wait_for_selector("[data-view=panoptic]:enabled")
    click_on(page, 0.5, 0.5)
    page.wait_for_function(COUNTED, arg=1)


def test_an_outline_is_drawn_added_as_an_example_and_removed(visit):
    page = visit()
    choose(page)
    page.get_by_role("tab", name="Show it once").click()
    page.get_by_role("button", name="Add example").click()
    page.get_by_text("Nothing is marked yet").wait_for()
    page.get_by_label("Draw its outline").check()
    page.wait_for_function("document.querySelector('[data-part=stage]').dataset.marking === 'outline'")
    part(page, "photo").scroll_into_view_if_needed()
    box = part(page, "photo").bounding_box()
    corners = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ((0.3, 0.3), (0.6, 0.3), (0.4, 0.6))
    ]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner)
    page.mouse.up()
    page.get_by_text("This is marked").wait_for()
    page.locator("#maft-shown-name").locator("input, textarea").fill("mug")
    page.get_by_role("button", name="Add example").click()
    page.get_by_role("button", name="Remove mug").click()
    page.get_by_role("button", name="Remove mug").wait_for(state="detached")


def test_a_bound_says_its_thresholds_and_labels_the_picture(visit):
    page = visit()
    choose(page)
    page.get_by_role("tab", name="None of these").click()
    page.get_by_text("Calibrated on miniature_val").wait_for()
    page.get_by_role("button", name="Label, or none of these").click()
    assert legend(page)


def test_an_index_is_asked_and_a_missing_word_is_said_beside_the_field(visit):
    page = visit()
    page.get_by_role("tab", name="Ask").click()
    page.get_by_role("button", name="Find").click()
    page.get_by_text("There is no word to find").wait_for()
    page.locator("#maft-ask-words").locator("textarea").fill("apple\ncloud")
    page.get_by_role("button", name="Find").click()
    page.locator(".maft-found img").first.wait_for()
    page.get_by_text("There is no word to find").wait_for(state="detached")
    if folder := os.environ.get("MAFT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "app_ask.png")
