"""The app's own addresses, without Gradio."""

import io

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from maft.app.explanations import ExplanationPage
from maft.app.memory import Memory
from maft.app.photos import Limits, drawn_examples, encoded
from maft.app.routes import Policy, Routes


@pytest.fixture()
def memory():
    return Memory()


@pytest.fixture()
def client(memory):
    broken = [("broken", lambda: b"no picture")]
    routes = Routes(memory, drawn_examples(2) + broken, Limits(megabytes=1, megapixels=1)).all()
    return TestClient(Starlette(routes=routes, middleware=[Middleware(Policy)]))


def test_a_photo_comes_back_as_it_is_shown(client):
    reply = client.post("/maft/photos", content=encoded(Image.new("RGB", (800, 600), "red"), "PNG"))
    table = reply.json()
    assert (table["width"], table["height"], table["remark"]) == (800, 600, "")
    shown = client.get(f"/maft/photos/{table['photo']}")
    with Image.open(io.BytesIO(shown.content)) as image:
        assert image.size == (800, 600) and image.format == "JPEG"
    assert shown.headers["cache-control"] == "no-store"


def test_what_cannot_be_taken_is_answered_in_one_sentence(client):
    assert "is no picture" in client.post("/maft/photos", content=b"hello").json()["error"]
    assert "more than 1 MB" in client.post("/maft/photos", content=b"x" * (2**20 + 1)).json()["error"]
    # A body whose length nobody says in advance.
    chunks = (b"x" * 2**18 for _ in range(8))
    assert client.post("/maft/photos", content=chunks).status_code == 413


def test_pictures_that_arrive_at_once_are_bounded_together(client, monkeypatch):
    monkeypatch.setattr("maft.app.routes._MOST_WAITING", 0.5)
    reply = client.post("/maft/photos", content=(b"x" * 2**18 for _ in range(3)))
    assert reply.status_code == 503 and "Too many pictures" in reply.json()["error"]
    # What was refused no longer counts.
    for _ in range(5):
        assert client.post("/maft/photos", content=b"x" * 2**18).status_code == 422


def test_examples_that_are_not_there_are_said(client):
    for number in ("3", "-1", "x", "9" * 5000):
        assert client.get(f"/maft/examples/{number}").status_code == 404
        assert "no such example" in client.post(f"/maft/examples/{number}").json()["error"]


def test_other_ways_to_upload_are_closed():
    inner = Starlette(routes=[Route("/gradio_api/upload", lambda _: Response("stored"), methods=["POST"])])
    reply = TestClient(Policy(inner)).post("/gradio_api/upload", content=b"x")
    assert reply.status_code == 404


def test_examples(client):
    with Image.open(io.BytesIO(client.get("/maft/examples/1").content)) as image:
        assert max(image.size) == 160
    assert client.post("/maft/examples/1").json()["width"] == 96
    assert client.get("/maft/examples/2").status_code == 404
    assert "is no picture" in client.post("/maft/examples/2").json()["error"]


def test_regions_and_files_of_an_answer(client, memory, answer):
    token = memory.put(answer, answer.size)
    data = client.get(f"/maft/answers/{token}/regions/panoptic").content
    assert len(data) == 3 * 640 * 640
    file = client.get(f"/maft/answers/{token}/labels.png?none_below=0.5")
    assert 'filename="labels.png"' in file.headers["content-disposition"]
    with Image.open(io.BytesIO(file.content)) as image:
        np.testing.assert_array_equal(np.unique(np.asarray(image)), [0, 1, 255])
    assert client.get(f"/maft/answers/{token}/labels.png?none_below=7").status_code == 422


@pytest.mark.parametrize("address", ["photos/x", "answers/x/regions/semantic", "answers/x/labels.png"])
def test_what_is_not_kept_is_said(client, address):
    reply = client.get(f"/maft/{address}")
    assert reply.status_code == 404 and "no longer kept" in reply.json()["error"]


def test_photos_are_no_answers_and_answers_no_photos(client, memory, answer):
    photo = client.post("/maft/examples/0").json()["photo"]
    assert client.get(f"/maft/answers/{photo}/labels.png").status_code == 404
    assert client.get(f"/maft/photos/{memory.put(answer, 1)}").status_code == 404


def test_pages_may_ask_no_other_host(client):
    assert "connect-src 'self'" in client.post("/maft/examples/0").headers["content-security-policy"]


def test_an_explanation_is_served_with_the_policy_of_its_own_head_and_no_wider():
    digest = "'sha256-" + "A" * 43 + "='"
    own = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {digest}"
    stated = f'<meta http-equiv="Content-Security-Policy" content="{own}"><title>run</title>'.encode()
    pages = [ExplanationPage("run", stated), ExplanationPage("other", b"<title>other</title><script>1</script>")]
    routes = Routes(Memory(), [], Limits(megabytes=1, megapixels=1), pages).all()
    client = TestClient(Starlette(routes=routes, middleware=[Middleware(Policy)]))
    answer = client.get("/maft/explanations/0")
    assert answer.content == stated
    policy = answer.headers["content-security-policy"]
    assert policy == f"sandbox allow-scripts; frame-ancestors 'self'; {own}"
    assert "script-src 'none'" in client.get("/maft/explanations/1").headers["content-security-policy"]
    assert client.get("/maft/explanations/2").status_code == 404
