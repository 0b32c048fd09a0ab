"""Learned prompts: what the text tower reads, gradients, what is kept, tasks, and mistakes."""

import pytest
import torch
import torch.nn.functional as F

from maft.clip import VocabularyEncoder, load_clip
from maft.clip.prompt_learner import PromptLearner
from maft.errors import UserError
from maft.structures import Vocabulary

NAMES = ("cat", "potted plant", "a very long-haired cat")
TASKS = ("semantic segmentation.", "panoptic segmentation.")


@pytest.fixture
def clip(vit_clip):
    torch.manual_seed(0)
    return vit_clip()


def encoder(clip, prompts, **options):
    return VocabularyEncoder(clip.embed_dim, clip.text_width, templates="learned", prompts=prompts, **options)


def test_vectors_that_are_tokens_give_the_embedding_of_the_sentence(clip):
    """[a photo of a] cat [here] . written as vectors is the sentence itself."""
    prompts = PromptLearner(clip, prefix=4, suffix=1)
    words = clip.tokenize(["a photo of a", "here"])
    with torch.no_grad():
        prompts.prefix.copy_(clip.token_embedding(words[0, 1:5]))
        prompts.suffix.copy_(clip.token_embedding(words[1, 1:2]))
        expected = F.normalize(
            clip.encode_text(clip.tokenize([f"a photo of a {name} here." for name in NAMES])), dim=-1
        )
        torch.testing.assert_close(prompts(NAMES, clip), expected, rtol=1e-5, atol=1e-6)


def test_the_words_and_vectors_of_a_task_stand_before_the_start_token(clip):
    prompts = PromptLearner(clip, prefix=2, task=3, tasks=TASKS)
    task = clip.tokenize([TASKS[0]])[0]
    count = int(clip.text_ends(task[None])) - 1
    embedded, ends = prompts.embedded(["cat"], clip, TASKS[0])
    torch.testing.assert_close(embedded[0, :count], clip.token_embedding(task[1 : 1 + count]))
    torch.testing.assert_close(embedded[0, count : count + 3], prompts.task)
    torch.testing.assert_close(embedded[0, count + 3], clip.token_embedding(task[0]))
    assert ends.tolist() == [count + 3 + 1 + 2 + 1 + 1]
    without, _ = prompts.embedded(["cat"], clip)
    torch.testing.assert_close(
        without[0, 0], clip.token_embedding(task[0]), msg="without a task its vectors go as well"
    )


def test_all_vectors_and_nothing_else_get_gradients_as_by_finite_differences(clip):
    clip = clip.double()
    prompts = PromptLearner(clip, prefix=2, suffix=1, task=2, tasks=TASKS).double()
    weights = torch.randn(len(NAMES), clip.embed_dim, dtype=torch.float64)

    def value():
        features = clip.encode_embedded_text(*prompts.embedded(NAMES, clip, TASKS[0]))
        return (F.normalize(features, dim=-1) * weights).sum()

    value().backward()
    assert not any(parameter.grad is not None for parameter in clip.parameters())
    for vectors in (prompts.prefix, prompts.suffix, prompts.task):
        with torch.no_grad():
            vectors[0, 3] += 1e-6
            above = value()
            vectors[0, 3] -= 2e-6
            slope = (above - value()) / 2e-6
            vectors[0, 3] += 1e-6
        assert vectors.grad.abs().sum() > 0
        torch.testing.assert_close(slope, vectors.grad[0, 3], rtol=1e-4, atol=1e-7)


def counted(prompts, monkeypatch):
    """Notes the names of every encoding."""
    calls, encode = [], prompts.forward
    monkeypatch.setattr(prompts, "forward", lambda names, *rest: calls.append(list(names)) or encode(names, *rest))
    return calls


def test_texts_are_encoded_anew_while_prompts_train_and_once_for_each_state_of_them(clip, monkeypatch):
    prompts = PromptLearner(clip, prefix=2)
    texts, vocabulary = encoder(clip, prompts), Vocabulary(NAMES)
    calls = counted(prompts, monkeypatch)
    optimizer = torch.optim.SGD(prompts.parameters(), lr=1.0)
    before = None
    for _ in range(2):
        rows = texts(vocabulary, clip).embeddings
        rows[:, 0].sum().backward()
        optimizer.step()
        assert before is None or not torch.equal(rows, before)
        before = rows.detach()
    with torch.no_grad():
        evaluated = texts(vocabulary, clip).embeddings
        assert not torch.equal(evaluated, before)
        assert texts(vocabulary, clip).embeddings is evaluated
    # Together where gradients need it, then once, each by itself.
    assert calls == [list(NAMES)] * 2 + [[name] for name in NAMES]
    assert texts(vocabulary, clip).embeddings.requires_grad, "what evaluation kept has no gradients"


def test_frozen_prompts_are_encoded_once(clip, monkeypatch, tmp_path):
    prompts = PromptLearner(clip, prefix=2, frozen=True)
    texts = encoder(clip, prompts, cache_dir=tmp_path)
    calls = counted(prompts, monkeypatch)
    rows = texts(Vocabulary(NAMES), clip).embeddings
    texts(Vocabulary(NAMES[::-1]), clip)
    assert calls == [[name] for name in NAMES] and not rows.requires_grad
    assert not list(tmp_path.iterdir()), "a folder of templates' embeddings is none of prompts"


def test_texts_of_evaluation_may_be_templates(clip):
    prompts = PromptLearner(clip, prefix=2)
    texts = encoder(clip, prompts, test_templates="single").eval()
    written = VocabularyEncoder(clip.embed_dim, clip.text_width, templates="single", void=False)
    vocabulary = Vocabulary(NAMES)
    torch.testing.assert_close(texts(vocabulary, clip).embeddings, written(vocabulary, clip).embeddings)
    assert texts.train()(vocabulary, clip).embeddings.requires_grad


def test_training_draws_a_task_and_evaluation_takes_the_first(clip):
    prompts = PromptLearner(clip, prefix=2, task=1, tasks=TASKS)
    assert {prompts.choose_task(None) for _ in range(30)} == set(TASKS)
    assert {prompts.eval().choose_task(None) for _ in range(30)} == {TASKS[0]}
    assert prompts.choose_task(TASKS[1]) == TASKS[1]


@pytest.mark.parametrize("keep", [False, True])
def test_frozen_prompts_keep_the_first_task_only_if_asked_to(clip, keep):
    prompts = PromptLearner(clip, prefix=2, task=1, tasks=TASKS, frozen=True, keep_first_task=keep)
    texts, vocabulary = encoder(clip, prompts), Vocabulary(NAMES)
    first, second = (texts(vocabulary, clip, task).embeddings for task in TASKS)
    assert torch.equal(first, second) == keep


def test_a_name_that_does_not_fit_between_the_vectors_is_named(clip):
    prompts = PromptLearner(clip, prefix=70)
    prompts(["cat"], clip)
    with pytest.raises(UserError, match=r"The prompt of 'a very long-haired cat' has 79 tokens, 71 before .* reads 77"):
        prompts(NAMES, clip)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"prefix": 0}, "has PREFIX 0 and SUFFIX 0"),
        ({"task": 8}, "TASK is 8, but .*TASKS is empty"),
    ],
)
def test_prompts_that_cannot_be(clip, options, sentence):
    with pytest.raises(UserError, match=sentence):
        PromptLearner(clip, **options)


def test_a_tower_without_causal_attention_is_refused():
    with pytest.raises(UserError, match="Learning prompts does not work with the text tower of CLIP tiny_siglip"):
        PromptLearner(load_clip("tiny_siglip"))
