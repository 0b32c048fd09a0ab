"""Class names to rows: synonym rules, templates, and a cache that knows what it holds."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import increment_version

from maft.clip import VocabularyEncoder, load_clip
from maft.clip.tokenizers import BytePairTokenizer
from maft.clip.vocabulary import TEMPLATE_SETS, prompt_templates
from maft.errors import UserError
from maft.structures import Vocabulary


@pytest.fixture
def clip(vit_clip):
    return vit_clip()


def encoder(clip, **options):
    return VocabularyEncoder(clip.embed_dim, clip.text_width, **{"templates": "single", "void": False, **options})


class Counted:
    """Counts the prompts that reach the text tower."""

    def __init__(self, clip, monkeypatch):
        self.prompts = 0
        encode = clip.encode_text

        def counted(tokens):
            self.prompts += len(tokens)
            return encode(tokens)

        monkeypatch.setattr(clip, "encode_text", counted)


def test_template_sets_have_the_published_sizes():
    assert {name: len(set(prompt_templates(name))) for name in TEMPLATE_SETS} == {
        "single": 1,
        "vild": 14,
        "imagenet": 80,
        "zegformer_single": 1,
        "zegformer_select": 8,
        "zegformer_regions": 32,
    }
    assert [t.endswith(".") for t in prompt_templates("vild")] == [True] + [False] * 4 + [True] * 9


@pytest.mark.parametrize(
    ("templates", "message"),
    [("villd", "Unknown prompt template set 'villd'"), ([], "empty list"), (["a photo"], "exactly one {}")],
)
def test_bad_templates_are_named(templates, message):
    with pytest.raises(UserError, match=message):
        prompt_templates(templates)


def test_evaluation_may_have_templates_of_its_own(clip):
    both = encoder(clip, templates="a photo of a {}.", test_templates=["the {}", "one {}"])
    words = Vocabulary(("cat",))
    for mode, templates in ((True, "a photo of a {}."), (False, ["the {}", "one {}"]), (True, "a photo of a {}.")):
        expected = encoder(clip, templates=templates)(words, clip).embeddings
        assert torch.equal(both.train(mode)(words, clip).embeddings, expected)


def test_the_no_object_row_has_the_length_it_learned_only_where_asked(clip):
    words = Vocabulary(("cat",))
    row = encoder(clip, void=True)
    raw = encoder(clip, void=True, normalize_void=False)
    for one in (row, raw):
        one.void_embedding.data.fill_(0.5)
    assert torch.equal(raw(words, clip).void, raw.void_embedding)
    assert torch.allclose(row(words, clip).void.norm(), torch.tensor(1.0))


def test_the_names_go_with_their_rows(clip):
    vocabulary = Vocabulary(("cat, kitten", "dog"))
    assert encoder(clip)(vocabulary, clip).vocabulary == vocabulary


def test_rows_are_the_normalised_mean_of_normalised_prompts(clip):
    templates = ["a photo of a {}.", "the {}"]
    row = encoder(clip, templates=templates)(Vocabulary(("cat, kitten",)), clip).embeddings[0]
    prompts = clip.tokenize([template.format("cat, kitten") for template in templates])
    with torch.no_grad():
        expected = F.normalize(F.normalize(clip.encode_text(prompts), dim=-1).mean(0), dim=0)
    torch.testing.assert_close(row, expected)


def test_synonym_rules(clip):
    names = Vocabulary(("person,child, man", "dog"))
    singles = encoder(clip)(Vocabulary(("person", "child", "man", "dog")), clip).embeddings
    best = encoder(clip, synonyms="max")(names, clip)
    torch.testing.assert_close(best.embeddings, singles)
    assert best.row_class.tolist() == [0, 0, 0, 1] and best.num_classes == 2
    average = encoder(clip, synonyms="average")(names, clip)
    torch.testing.assert_close(average.embeddings, F.normalize(torch.stack([singles[:3].mean(0), singles[3]]), dim=-1))
    whole = encoder(clip, synonyms="whole")(names, clip)
    assert whole.embeddings.shape == (2, clip.embed_dim)
    assert (whole.embeddings[0] - average.embeddings[0]).abs().max() > 1e-4
    with pytest.raises(UserError, match=r"Unknown synonym rule 'mean'.*whole, average, max"):
        encoder(clip, synonyms="mean")


def test_only_the_void_row_has_a_gradient(clip):
    text = encoder(clip, void=True)(Vocabulary(("cat", "dog")), clip)
    assert not text.embeddings.requires_grad
    torch.testing.assert_close(text.void.norm(dim=-1), torch.ones(1))
    vocabulary_encoder = encoder(clip, void=True, train_void=False)
    assert [p.requires_grad for p in vocabulary_encoder.parameters()] == [False]
    assert list(vocabulary_encoder.state_dict()) == ["void_embedding"]
    assert not list(encoder(clip).parameters())


@pytest.mark.parametrize("void", [True, False])
def test_rows_made_in_inference_mode_and_autocast_serve_training_unchanged(clip, void):
    vocabulary = Vocabulary(("cat", "dog"))
    plain = encoder(clip)(vocabulary, clip).embeddings
    cached = encoder(clip, void=void)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        cached(vocabulary, clip)
    text = cached(vocabulary, clip)
    assert torch.equal(text.embeddings, plain)
    features = torch.randn(3, clip.embed_dim, requires_grad=True)
    text.logits(features).sum().backward()
    assert features.grad.abs().sum() > 0


def test_each_text_is_encoded_once(clip, monkeypatch):
    counted = Counted(clip, monkeypatch)
    vocabulary_encoder = encoder(clip, templates="vild")
    vocabulary_encoder(Vocabulary(("cat", "dog")), clip)
    assert counted.prompts == 28
    vocabulary_encoder(Vocabulary(("dog", "cow", "cat")), clip)
    assert counted.prompts == 42


def test_the_memory_follows_the_weights(clip):
    vocabulary_encoder, vocabulary = encoder(clip), Vocabulary(("cat",))
    before = vocabulary_encoder(vocabulary, clip).embeddings
    state = {name: value + 0.1 for name, value in clip.state_dict().items()}
    clip.load_state_dict(state)
    after = vocabulary_encoder(vocabulary, clip).embeddings
    assert (before - after).abs().max() > 1e-3


def test_the_disk_cache_survives_the_process_and_knows_model_and_templates(clip, vit_clip, tmp_path, monkeypatch):
    first = encoder(clip, cache_dir=tmp_path)(Vocabulary(("cat", "dog")), clip).embeddings
    counted = Counted(clip, monkeypatch)
    again = encoder(clip, cache_dir=tmp_path)(Vocabulary(("dog", "cat")), clip).embeddings
    assert counted.prompts == 0
    assert torch.equal(again, first.flip(0))
    encoder(clip, cache_dir=tmp_path)(Vocabulary(("cow",)), clip)
    assert counted.prompts == 1 and len(list(tmp_path.iterdir())) == 1
    encoder(clip, cache_dir=tmp_path, templates=["the {}"])(Vocabulary(("cat",)), clip)
    other = vit_clip()
    assert not torch.equal(encoder(other, cache_dir=tmp_path)(Vocabulary(("cat",)), other).embeddings, first[:1])
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("templates", ["single", "vild"])
def test_a_row_does_not_depend_on_the_texts_beside_it_or_before_it(clip, templates):
    names = [f"a {'big ' * (index % 3)}thing {index}" for index in range(12)]
    together = encoder(clip, templates=templates)(Vocabulary(tuple(names)), clip).embeddings
    used = encoder(clip, templates=templates)
    for index in (11, 3, 0):
        assert torch.equal(used(Vocabulary((names[index], "other")), clip).embeddings[0], together[index])
    assert torch.equal(used(Vocabulary(tuple(names)), clip).embeddings, together)


def test_words_that_the_tower_does_not_know_are_logged_when_they_are_first_encoded(clip, caplog, monkeypatch):
    monkeypatch.setattr(clip, "unknown_words", lambda texts: tuple(text for text in texts if text == "zebra"))
    used = encoder(clip)
    for names in (("cat", "zebra"), ("zebra",), ("dog",)):
        used(Vocabulary(names), clip)
    assert [message.partition(":")[0] for message in caplog.messages] == [f"CLIP {clip.name} has never seen zebra"]


def test_a_long_unknown_word_is_cut(clip, caplog, monkeypatch):
    monkeypatch.setattr(clip, "unknown_words", lambda texts: ("x" * 5000,))
    encoder(clip)(Vocabulary(("cat",)), clip)
    assert f"has never seen {'x' * 57}...: masks" in caplog.text


@pytest.mark.parametrize("synonyms", ["whole", "average", "max"])
def test_texts_that_the_tokenizer_reads_alike_are_named_once(caplog, synonyms):
    clip = load_clip("tiny_vit", "random")
    used = encoder(clip, synonyms=synonyms)
    for _ in range(2):
        used(Vocabulary(("dog", "fish bowl", "bird", "a fish bowl", "fish_bowl", "Dög")), clip)
    assert [message for message in caplog.messages if "one text" in message] == [
        "CLIP tiny_vit reads 'fish bowl' and 'fish_bowl'; 'dog' and 'Dög' as one text, so that masks of both get the "
        "first name: leave one out."
    ]


def test_synonyms_that_are_read_alike_or_shared_are_no_twins(caplog):
    clip = load_clip("tiny_vit", "random")
    encoder(clip, synonyms="max")(Vocabulary(("car,cär", "bus,coach", "train,coach")), clip)
    assert "one text" not in caplog.text


def test_an_unreadable_cache_file_is_reported_and_replaced(clip, tmp_path, caplog):
    vocabulary = Vocabulary(("cat",))
    expected = encoder(clip, cache_dir=tmp_path)(vocabulary, clip).embeddings
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:100])
    torch.testing.assert_close(encoder(clip, cache_dir=tmp_path)(vocabulary, clip).embeddings, expected)
    assert "unreadable" in caplog.text
    caplog.clear()
    encoder(clip, cache_dir=tmp_path)(vocabulary, clip)
    assert not caplog.text


def test_many_vocabularies_leave_a_bounded_memory(clip, monkeypatch):
    monkeypatch.setattr("maft.clip.vocabulary.MOST_TEXTS", 30)
    vocabulary_encoder = encoder(clip)
    first = vocabulary_encoder(Vocabulary(("word 0", "word 1")), clip).embeddings
    for start in range(0, 400, 20):
        vocabulary_encoder(Vocabulary(tuple(f"word {index}" for index in range(start, start + 20))), clip)
        vocabulary_encoder(Vocabulary(("word 0", "word 1")), clip)
    assert len(vocabulary_encoder._texts) == 30 and len(vocabulary_encoder._tables) == 4
    held = {
        row.untyped_storage().data_ptr(): row.untyped_storage().nbytes() for row in vocabulary_encoder._texts.values()
    }
    assert sum(held.values()) == 30 * clip.embed_dim * 4
    counted = Counted(clip, monkeypatch)
    assert torch.equal(vocabulary_encoder(Vocabulary(("word 0", "word 1")), clip).embeddings, first)
    assert counted.prompts == 0, "what is used is kept"
    # More than is ever kept, in one vocabulary.
    whole = vocabulary_encoder(Vocabulary(tuple(f"word {index}" for index in range(50))), clip).embeddings
    torch.testing.assert_close(whole[:2], first)


def test_the_tokenizer_does_not_keep_every_word(monkeypatch):
    monkeypatch.setattr("maft.clip.tokenizers._MOST_WORDS", 50)
    tokenizer = BytePairTokenizer()
    expected = tokenizer.encode("cat") + tokenizer.encode("<|endoftext|>")
    for index in range(200):
        tokenizer.encode("".join(chr(97 + int(digit)) for digit in str(index)))
    assert len(tokenizer.cache) <= 51 and tokenizer.encode("cat") + tokenizer.encode("<|endoftext|>") == expected


def test_nothing_is_written_without_a_cache_folder(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder(clip)(Vocabulary(("cat",)), clip)
    assert not list(tmp_path.iterdir())


def test_a_name_longer_than_the_context_is_refused(clip):
    with pytest.raises(UserError, match="tokens and CLIP reads 77"):
        encoder(clip)(Vocabulary(("very " * 80 + "long cat",)), clip)


def test_texts_of_a_tower_that_trains_are_encoded_when_they_are_read(clip, monkeypatch):
    words, counted = Vocabulary(("cat, tom", "dog"), (True, False)), Counted(clip, monkeypatch)
    rows = encoder(clip, synonyms="max", void=True)
    expected = rows(words, clip)
    clip.requires_grad_(True)
    rows._keep_only(())
    counted.prompts = 0
    text = rows.train()(words, clip)
    assert text.num_classes == 2 and text.seen.tolist() == [True, False] and text.vocabulary == words
    assert torch.equal(text.void, expected.void) and text.void.requires_grad and not counted.prompts
    changed = replace(text, logit_scale=3.0)
    assert torch.equal(changed.matrix, expected.matrix) and changed.row_class.tolist() == [0, 0, 1]
    assert torch.equal(text.embeddings, expected.embeddings) and not text.embeddings.requires_grad
    assert counted.prompts == 3 and text.logit_scale == 100
    with pytest.raises(AttributeError, match="rows"):
        text.rows  # noqa: B018


def test_rows_are_renewed_after_a_fused_step_that_raised_the_versions_of_its_weights(clip):
    """A fused optimiser itself writes weights without raising them; `maft.engine.solver` raises them after it."""
    words, names = encoder(clip), Vocabulary(("cat", "dog"))
    before = words(names, clip).embeddings
    tower = [parameter.requires_grad_(True) for _, parameter in clip.text_parameters()]
    optimizer = torch.optim.AdamW(tower, lr=0.1, fused=True)
    clip.encode_text(clip.tokenize(["cat"])).sum().backward()
    optimizer.step()
    increment_version(tower)
    assert (words.eval()(names, clip).embeddings - before).abs().max() > 1e-3
