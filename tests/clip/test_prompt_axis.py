"""Texts under every template by itself."""

import random

import pytest
import torch
import torch.nn.functional as F

from maft.clip import load_clip
from maft.clip.prompt_axis import PromptEncoder
from maft.clip.vocabulary import VocabularyEncoder
from maft.structures import Vocabulary

TEMPLATES = ("a photo of a {}.", "there is a {}", "{}")
NAMES = Vocabulary(("cat, tom", "dog", "brick, stone, tile"))


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny_vit")


def encoder(clip, synonyms="max"):
    return PromptEncoder(clip.embed_dim, clip.text_width, templates=TEMPLATES, synonyms=synonyms)


@torch.no_grad()
def test_templates_are_an_axis_of_unit_length_rows(clip):
    rows, row_class = encoder(clip).under_every_template(NAMES, clip)
    assert rows.shape == (6, 3, clip.embed_dim) and row_class.tolist() == [0, 0, 1, 2, 2, 2]
    expected = F.normalize(clip.encode_text(clip.tokenize(["there is a tom"])), dim=-1)[0]
    torch.testing.assert_close(rows[1, 1], expected)
    options = {"templates": TEMPLATES, "synonyms": "max", "void": False}
    mean = VocabularyEncoder(clip.embed_dim, clip.text_width, **options)(NAMES, clip).embeddings
    torch.testing.assert_close(F.normalize(rows.mean(1), dim=-1), mean)


@torch.no_grad()
def test_averaged_synonyms_keep_the_axis(clip):
    rows, row_class = encoder(clip, "average").under_every_template(NAMES, clip)
    each, _ = encoder(clip).under_every_template(NAMES, clip)
    assert row_class.tolist() == [0, 1, 2]
    torch.testing.assert_close(rows[0], F.normalize(each[:2].mean(0), dim=-1))


def test_texts_are_kept_and_drawn_by_python_s_random_numbers(clip, monkeypatch):
    one = encoder(clip)
    rows, _ = one.under_every_template(NAMES, clip)
    monkeypatch.setattr(clip, "encode_text", None)
    random.seed(3)
    expected = [rows[random.randrange(2)], rows[2], rows[3 + random.randrange(3)]]
    random.seed(3)
    torch.testing.assert_close(one.drawn(NAMES, clip), torch.stack(expected))
