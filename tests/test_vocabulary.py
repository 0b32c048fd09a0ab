"""Vocabularies with examples, and the file that holds them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from maft.errors import UserError
from maft.examples import Example, ExampleEmbeddings
from maft.structures import Vocabulary

WORDS = Vocabulary(("cat, kitten", "dog"), (True, False))


def example(number=0, size=(6, 11)):
    draws = np.random.default_rng(number)
    mask = np.zeros(size, bool)
    mask[1:3, 2:9] = True
    return Example(draws.integers(0, 256, (*size, 3), dtype=np.uint8), mask)


def look(number=0, **context):
    torch.manual_seed(number)
    return ExampleEmbeddings(torch.randn(3, 4), torch.tensor([1.0, 0.5, 0.0]), context)


def test_examples_are_equal_by_their_pixels():
    assert example() == example() and hash(example()) == hash(example()) and example() != example(1)
    moved = example().mask.copy()
    moved[0, 0] = True
    assert Example(example().image, moved) != example()
    assert example().with_look("a", look()) == example()


@pytest.mark.parametrize(
    ("image", "mask", "sentence"),
    [
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), bool), "mask is empty"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), bool), "covers its whole image"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((2, 9), bool), "9x2 pixels and its image 5x4"),
        (np.zeros((4, 5, 3), np.float32), np.ones((4, 5), bool), r"not \(4, 5, 3\) of float32"),
        (np.zeros((4, 5), np.uint8), np.ones((4, 5), bool), r"not \(4, 5\) of uint8"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.uint8), "is an array .* of bool"),
        ("cat.png", np.ones((4, 5), bool), "not <class 'str'>"),
    ],
)
def test_bad_examples_are_refused(image, mask, sentence):
    with pytest.raises(UserError, match=sentence):
        Example(image, mask)


def test_nobody_changes_the_pixels_of_an_example():
    pixels = np.zeros((4, 5, 3), np.uint8)
    shown = Example(pixels, np.eye(4, 5, dtype=bool))
    pixels[:] = 9
    assert not shown.image.any()
    with pytest.raises(ValueError, match="read-only"):
        shown.mask[0, 0] = False


@pytest.mark.parametrize("words", [True, False])
def test_a_class_that_is_added_and_removed_leaves_an_equal_vocabulary(words):
    grown = WORDS.add("my mug", [example()], words=words)
    assert grown.names[-1] == "my mug" and grown.seen == (True, False, False) and grown != WORDS
    for back in (grown.remove("My  mug"), grown.without_examples()):
        assert back == WORDS and hash(back) == hash(WORDS)
    assert grown.in_words().names == (("cat, kitten", "dog", "my mug") if words else WORDS.names)


def test_a_class_that_is_sharpened_keeps_its_place_and_its_words():
    grown = WORDS.add("cat, kitten", [example(), example(1)])
    assert grown.names == WORDS.names and grown.in_words() == WORDS and grown.of(0) == (example(), example(1))
    assert grown.remove("cat") == grown.without_examples() == WORDS


def test_each_class_is_removed_by_itself():
    both = WORDS.add("mug", [example()], words=False).add("dog", [example(1)])
    assert both.remove("mug") == WORDS.add("dog", [example(1)])
    assert both.remove("dog") == WORDS.add("mug", [example()], words=False)
    assert both.remove("dog").remove("mug") == both.without_examples() == WORDS


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda: WORDS.add("mug", []), "list of 1 to 5"),
        (lambda: WORDS.add("mug", ["mug.png"]), "list of 1 to 5"),
        (lambda: WORDS.add("mug", [example(i) for i in range(6)]), "'mug' has 6 examples, and 5 are the most"),
        (lambda: WORDS.add("mug", [example(), example()]), "the same example twice"),
        (lambda: WORDS.add("dog", [example()]).add("dog", [example(1)]), "'dog' has examples already"),
        (lambda: WORDS.add("dog", [example()], words=False), "'dog' is there by its words"),
        (lambda: WORDS.remove("dog"), "no examples to remove"),
        (lambda: WORDS.remove("dgo"), "no class 'dgo'. Did you mean dog"),
        (lambda: Vocabulary(("a", "b"), words=(True, False)), "'b' has neither words nor examples"),
        (lambda: Vocabulary(("a",), None, ((example(),),), (False,)), "No class of the vocabulary has words"),
        (lambda: Vocabulary(("a", "b"), None, ((example(),),)), "2 names but 'examples' of 1"),
        (lambda: WORDS.add("mug", [example()]).seen_by("a"), "has not looked at the examples of 'mug'"),
        (lambda: WORDS.add("mug", [example()]).looks(2, 4), "It is open what this model saw"),
    ],
)
def test_what_cannot_be_is_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        change()


def test_what_another_model_saw_is_left_aside():
    first, second = look(1), look(2)
    grown = WORDS.add("mug", [example().with_look("a", first).with_look("b", second)])
    assert grown.seen_by("a").looks(2, 4) == (first,) and grown.seen_by("b").looks(2, 4) == (second,)
    assert WORDS.seen_by("a") is WORDS


names = st.lists(st.text("abcö ,", min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=names, flags=st.booleans(), shots=st.integers(1, 5), words=st.booleans(), width=st.integers(9, 17))
def test_what_is_saved_is_loaded(tmp_path, names, flags, shots, words, width):
    try:
        vocabulary = Vocabulary(tuple(names), tuple(len(name) % 2 == 0 for name in names) if flags else None)
    except UserError:
        return
    shown = [example(i, (5, width)).with_look("f" * 64, look(i, dense=torch.ones(2, 3, 3))) for i in range(shots)]
    grown = vocabulary.add("my mug", shown, words=words)
    for one in (vocabulary, grown):
        one.save(tmp_path / "v.safetensors")
        assert Vocabulary.load(tmp_path / "v.safetensors") == one
    for kept, given_one in zip(Vocabulary.load(tmp_path / "v.safetensors").of(len(names)), shown, strict=True):
        np.testing.assert_array_equal(kept.image, given_one.image)
        found, expected = kept.look("f" * 64), given_one.look("f" * 64)
        assert torch.equal(found.embeddings, expected.embeddings) and torch.equal(found.shares, expected.shares)
        assert torch.equal(found.context["dense"], expected.context["dense"])


@pytest.fixture
def parts(tmp_path):
    """Tensors and metadata of a vocabulary file, and a function that writes them to one."""
    file = tmp_path / "v.safetensors"
    WORDS.add("mug", [example().with_look("a", look())]).save(file)
    with safe_open(str(file), "pt") as content:
        tensors, metadata = {name: content.get_tensor(name) for name in content.keys()}, content.metadata()  # noqa: SIM118

    def write(tensors, metadata):
        save_file(tensors, str(file), metadata)
        return file

    return tensors, metadata, write


def changed(metadata, **values):
    return {"maft.vocabulary": json.dumps(json.loads(metadata["maft.vocabulary"]) | values)}


def changed_class(metadata, **values):
    classes = json.loads(metadata["maft.vocabulary"])["classes"]
    classes[-1] |= values
    return changed(metadata, classes=[{key: one for key, one in of.items() if one != "gone"} for of in classes])


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != f"example.0.{name}"}


def cut_to_itself(tensors):
    return {f"example.0.{name}.a": tensors[f"example.0.{name}.a"][:1] for name in ("embeddings", "shares")}


JPEG = np.frombuffer(b"\xff\xd8\xff\xe0" + bytes(60), np.uint8).copy()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t, m: (t, {"format": "pt"}), "is a safetensors file, but no vocabulary"),
        (lambda t, m: (t, changed(m, version=9)), "of version 9, and this program reads version 1"),
        (lambda t, m: (t, {"maft.vocabulary": "[" * 9000}), "damaged .it is nested too deeply"),
        (lambda t, m: (t, {"maft.vocabulary": "[3]"}), "damaged .its metadata are no JSON object"),
        (lambda t, m: (t, {"maft.vocabulary": '{"version": 1}'}), "damaged .it has no 'classes'"),
        (lambda t, m: (t, changed(m, classes=[3])), "its classes are no list"),
        (lambda t, m: (t, changed_class(m, examples=7)), "from 0 to 5"),
        (lambda t, m: (t, changed_class(m, examples=2)), "damaged .it has no 'example.1.image'"),
        (lambda t, m: (t, changed_class(m, words="no")), "a flag is neither"),
        (lambda t, m: (t, changed_class(m, words="gone")), "damaged .it has no 'words'"),
        (lambda t, m: (t, changed_class(m, name=" ")), "is blank"),
        (lambda t, m: ({**t, "example.0.image": t["example.0.image"][:40]}, m), "image of example 0 is no PNG file"),
        (lambda t, m: ({**t, "example.0.image": torch.from_numpy(JPEG)}, m), "image of example 0 is no PNG file"),
        (lambda t, m: (without(t, "image"), m), "damaged .it has no 'example.0.image'"),
        (lambda t, m: (without(t, "mask"), m), "damaged .it has no 'example.0.mask'"),
        (lambda t, m: (without(t, "shares.a"), m), "damaged .it has no 'example.0.shares.a'"),
        (lambda t, m: ({**t, "example.0.mask": t["example.0.mask"][:2]}, m), "mask of example 0 is not of the size"),
        (lambda t, m: ({**t, "example.0.shares.a": t["example.0.shares.a"][:1]}, m), "do not fit each other"),
        (lambda t, m: ({**t, "example.0.embeddings.a": torch.full((3, 4), torch.nan)}, m), "no finite numbers"),
        (lambda t, m: ({**t, "example.0.embeddings.a": torch.ones(3, 4).bfloat16()}, m), "bfloat16, not float32"),
        (lambda t, m: ({**t, "example.0.context.a.dense": torch.ones(0, 4)}, m), "example 0 are empty"),
        (lambda t, m: ({**t, **cut_to_itself(t)}, m), "nothing but example 0"),
        (lambda t, m: ({**t, "example.0.shares.a": torch.tensor([1.0, 0.5, 0.3])}, m), "nothing but example 0"),
        (lambda t, m: ({**t, "example.0.shares.a": torch.full((3,), 2.0)}, m), "shares of example 0 are not"),
        (lambda t, m: ({**t, "example.0.shares.a": torch.tensor([0.9, 0.5, 0.0])}, m), "shares of example 0 are not"),
        (lambda t, m: ({**t, "example.0.shares.a": torch.tensor([1.0, -0.5, 0.0])}, m), "shares of example 0 are not"),
    ],
)
def test_damaged_files_are_one_sentence(parts, change, sentence):
    tensors, metadata, write = parts
    with pytest.raises(UserError, match=sentence) as error:
        Vocabulary.load(write(*change(tensors, metadata)))
    assert "\n" not in str(error.value)


def test_a_vocabulary_has_one_file_to_the_byte(parts, tmp_path):
    grown = WORDS.add("mug", [example().with_look("a", look())])
    for name in ("one", "other"):
        grown.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    # Of several entries the order would be left to chance.
    assert list(parts[1]) == ["maft.vocabulary"]


def test_files_that_are_none_are_one_sentence(tmp_path):
    for place, sentence in ((tmp_path, "is a folder"), ("/dev/null", "is no regular file")):
        with pytest.raises(UserError, match=sentence):
            Vocabulary.load(place)
    with pytest.raises(UserError, match="does not exist"):
        Vocabulary.load(tmp_path / "v.safetensors")
    Path(tmp_path / "v.safetensors").write_bytes(b"\x80\x04cos\nsystem\n" * 9)
    with pytest.raises(UserError, match="no readable vocabulary file"):
        Vocabulary.load(tmp_path / "v.safetensors")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_is_a_sentence_or_harmless(parts, tmp_path, place, byte, cut):
    _, _, write = parts
    content = bytearray(Path(write(*parts[:2])).read_bytes())
    at = int(place * len(content))
    content[at:] = b"" if cut else bytes([byte]) + content[at + 1 :]
    (tmp_path / "damaged.safetensors").write_bytes(content)
    try:
        Vocabulary.load(tmp_path / "damaged.safetensors")
    except UserError as error:
        assert "\n" not in str(error)
