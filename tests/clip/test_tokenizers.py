"""Each tower reads texts through the tokenizer of its own config, and nothing is truncated, fetched or run unasked."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from maft.clip import clip_from_config, load_clip
from maft.clip.tokenizers import BytePairTokenizer, HuggingFaceTokenizer, token_rows, tokenizer_of
from maft.errors import UserError
from maft.miniature.tokenizer import WordTokenizer

VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
WORDS = ["▁a", "▁photo", "▁of", "▁cat", "▁dog", "▁the", "▁bus"]


def write_bert(folder: Path) -> None:
    """CLIPA's: lower case, [CLS] and [SEP] around the text, padding 0."""
    words = [word[1:] for word in WORDS]
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_unigram(folder: Path, special: list[str], template: str, **names: str) -> None:
    """A SentencePiece vocabulary: SigLIP's and MT5's ("$A </s>"), XLM-V's ("<s> $A </s>")."""
    pieces = [*special, *WORDS, "▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,'()"]
    scores = [(piece, -1.0 if len(piece) > 1 else -9.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=special.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [(name, special.index(name)) for name in special if name in template.split()]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **names).save_pretrained(folder)


def write_siglip(folder: Path) -> None:
    """Padding is the end token, 1, as in SigLIP's."""
    write_unigram(folder, ["<unk>", "</s>"], "$A </s>", eos_token="</s>", pad_token="</s>")


def write_xlm(folder: Path) -> None:
    """XLM-R's and XLM-V's: start 0, padding 1, end 2."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    write_unigram(folder, special, "<s> $A </s>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")


CLIPA = {
    "context_length": 12,
    "no_causal_mask": True,
    "pool_type": "last",
    "hf_tokenizer_name": "bert-base-uncased",
    "tokenizer_kwargs": {"strip_sep_token": True},
}
SIGLIP = {
    "context_length": 10,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
WORLDWIDE = {"context_length": 14, "pool_type": "eos", "eos_id": 2, "hf_tokenizer_name": "facebook/xlm-v-base"}
TEXTS = ["A photo of a Cat.", "the (dog)", "a bus"]


def folder_of(folder: Path, text, write, **extra):
    """A snapshot: description, random weights and tokenizer."""
    folder.mkdir()
    sizes = {"vocab_size": 80, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**sizes, **text}, **extra}
    clip = clip_from_config("x", config, quick_gelu=False)
    save_file(
        {name.removeprefix("model."): value.clone() for name, value in clip.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    if write:
        write(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "write", "extra"),
    [
        (CLIPA, write_bert, {}),
        (SIGLIP, write_siglip, {"custom_text": True, "init_logit_bias": -10}),
        (WORLDWIDE, write_xlm, {}),
        ({**CLIPA, "tokenizer_kwargs": {}, "pool_type": "first"}, write_bert, {}),
    ],
)
def test_a_snapshot_reads_texts_as_open_clip_does(tmp_path, text, write, extra):
    clip = load_clip(folder_of(tmp_path / "own", text, write, **extra))
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'own'}")
    rows = clip.tokenize(TEXTS)
    assert rows.shape == (3, text["context_length"]) and torch.equal(rows, theirs(TEXTS))
    embeddings = clip.encode_text(rows)
    torch.testing.assert_close(embeddings, clip.model.encode_text(theirs(TEXTS)))
    assert torch.pdist(embeddings).min() > 1e-4


@pytest.mark.parametrize(("text", "write"), [(CLIPA, write_bert), (WORLDWIDE, write_xlm)])
def test_words_with_an_unknown_piece_are_named(tmp_path, text, write):
    clip = load_clip(folder_of(tmp_path / "own", text, write))
    assert clip.unknown_words(["a photo of the bus", "cat"]) == clip.unknown_words([]) == ()
    assert clip.unknown_words(["a 漢 cat", "a 漢", "dog ñ"]) == ("漢", "ñ")


def test_byte_pairs_write_any_word(vit_clip):
    assert vit_clip().unknown_words(["漢", "zebra", "🙂"]) == ()


@pytest.mark.parametrize("kind", ["library", "byte pairs"])
def test_threads_read_texts_side_by_side(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("maft.clip.tokenizers._MOST_WORDS", 20)
    texts = [["a photo of a cat"], ["the dog", "a bus"], ["cat"]] + [[f"bus {index}"] for index in range(40)]
    if kind == "library":
        write_bert(tmp_path)
        made = [HuggingFaceTokenizer(tmp_path, 12, name="x", options={}) for _ in range(2)]
    else:
        made = [BytePairTokenizer() for _ in range(2)]
    alone, shared = made
    expected = [token_rows(alone, some) for some in texts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            for found, rows in zip(pool.map(lambda some: token_rows(shared, some), texts * 8), expected * 8):
                assert torch.equal(found, rows)
    finally:
        sys.setswitchinterval(interval)


def test_the_rows_are_those_of_the_tower(tmp_path):
    """Written out, so that a change of the library's padding or cleaning is seen."""
    write_bert(tmp_path)
    options = {"strip_sep_token": True}
    bert = HuggingFaceTokenizer(tmp_path, 6, name="x", options=options)
    assert token_rows(bert, ["A Cat"]).tolist() == [[2, 4, 7, 0, 0, 0]]
    write_siglip(tmp_path / "siglip")
    siglip = HuggingFaceTokenizer(tmp_path / "siglip", 5, name="x", options={"clean": "canonicalize"})
    assert token_rows(siglip, ["A, (Cat)!"]).tolist() == [[2, 5, 1, 1, 1]]
    assert token_rows(siglip, []).shape == (0, 5)
    write_xlm(tmp_path / "xlm")
    assert token_rows(HuggingFaceTokenizer(tmp_path / "xlm", 6, name="x", options={}), ["a cat"]).tolist() == [
        [0, 4, 7, 2, 1, 1]
    ]


def test_the_clips_mode_ends_rows_with_the_class_token(tmp_path):
    write_bert(tmp_path)
    names = json.loads((tmp_path / "tokenizer_config.json").read_text())
    names |= {"bos_token": "[SEP]", "eos_token": "[SEP]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = HuggingFaceTokenizer(tmp_path, 6, name="x", mode="clips", options={})
    assert token_rows(tokenizer, ["a cat"]).tolist() == [[3, 4, 7, 3, 0, 2]]
    with pytest.raises(UserError, match="has 7 tokens and CLIP reads 6"):
        token_rows(tokenizer, ["a photo of cat"])


@pytest.mark.parametrize(("length", "fits"), [(4, True), (3, False)])
def test_a_text_that_does_not_fit_is_refused_with_its_numbers(tmp_path, length, fits):
    write_siglip(tmp_path)
    tokenizer = HuggingFaceTokenizer(tmp_path, length, name="x", options={"clean": "canonicalize"})
    if fits:
        assert token_rows(tokenizer, ["the cat dog"]).shape == (1, 4)
    else:
        with pytest.raises(UserError, match="'the cat dog' has 4 tokens and CLIP reads 3: shorten the class name"):
            token_rows(tokenizer, ["a", "the cat dog"])


def test_byte_pairs_keep_the_context_of_their_tower():
    tokenizer = tokenizer_of("MobileCLIP", {"context_length": 16})
    assert type(tokenizer) is BytePairTokenizer and token_rows(tokenizer, ["dog"]).shape == (1, 16)
    with pytest.raises(UserError, match="has 17 tokens and CLIP reads 16"):
        token_rows(tokenizer, ["dog " * 15])


def test_word_tables_and_hugging_face_files_of_one_name_are_told_apart(tmp_path):
    """A LAION snapshot has a tokenizer.json of CLIP's byte pairs beside it, which open_clip does not read."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(WordTokenizer(["cat"], 8).to_json()))
    assert isinstance(tokenizer_of("x", {}, tmp_path), WordTokenizer)
    write_bert(tmp_path)
    assert isinstance(tokenizer_of("x", {}, tmp_path), BytePairTokenizer)
    named = tokenizer_of("x", CLIPA, tmp_path)
    assert isinstance(named, HuggingFaceTokenizer) and named.source == tmp_path
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match="needs a list 'words'"):
        tokenizer_of("x", {}, tmp_path)


def test_a_missing_tokenizer_is_named_before_any_weights_are_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("maft.clip.hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("maft.clip.hub.try_to_load_from_cache", lambda *_: None)
    name = folder_of(tmp_path / "own", SIGLIP, None)
    (tmp_path / "own" / "open_clip_model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"HF_HUB_OFFLINE.*tokenizer\.json.*ViT-B-16-SigLIP.*or into the folder of the CLIP"
    ):
        load_clip(name)
    # What never reads a text needs no tokenizer.
    assert load_clip(name, device="meta").embed_dim == 8


def test_a_repository_without_vocabulary_gives_no_tokenizer(tmp_path, monkeypatch):
    """The library makes an empty one of a config alone, and every text would be the same."""
    monkeypatch.setattr("maft.clip.hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("maft.clip.hub.check_reachable", lambda _: None)
    monkeypatch.setattr("maft.clip.hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    assert len(HFTokenizer(str(tmp_path), 8).tokenizer) < 10
    monkeypatch.chdir(tmp_path.parent)
    tokenizer = HuggingFaceTokenizer(tmp_path.name, 8, name="x", options={})
    with pytest.raises(UserError, match="holds no vocabulary"):
        token_rows(tokenizer, ["a cat"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "tokenizer.json").write_text('{"model": {}}'),
            "cannot be read .*: put tokenizer",
        ),
        (
            lambda folder: Tokenizer(models.WordLevel({}, unk_token="[UNK]")).save(str(folder / "tokenizer.json")),
            "cannot be read from .*Missing \\[UNK\\] token",
        ),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "names no padding token"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text(
                '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}}'
            ),
            "cannot be read from",
        ),
    ],
)
def test_files_of_no_use_are_refused(tmp_path, spoil, message):
    write_bert(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('code of the folder was run')")
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        token_rows(HuggingFaceTokenizer(tmp_path, 8, name="x", options={}), ["a cat"])


@pytest.mark.parametrize("option", ["trust_remote_code", "cache_dir", "strip_sep_tokens"])
def test_options_that_would_reach_the_library_are_refused(option):
    with pytest.raises(UserError, match=f"option '{option}', which is not supported"):
        tokenizer_of("x", {**CLIPA, "tokenizer_kwargs": {option: True}})


@pytest.mark.parametrize("name", ["../secret", "https://host/x", "a/b/c"])
def test_a_tokenizer_is_named_as_a_repository(name):
    with pytest.raises(UserError, match="names no repository"):
        token_rows(tokenizer_of("x", {"hf_tokenizer_name": name}), ["a cat"])


def test_another_towers_tokenizer_is_refused(tmp_path):
    """Its ids would be looked up outside the table, or every text read at its first token."""
    outside = load_clip(folder_of(tmp_path / "outside", {**SIGLIP, "vocab_size": 5}, write_siglip))
    with pytest.raises(UserError, match="made the token .* and the text tower knows 5"):
        outside.tokenize(["a cat"])
    endless = load_clip(folder_of(tmp_path / "endless", {**WORLDWIDE, "eos_id": 70}, write_xlm))
    with pytest.raises(UserError, match="end token 70, which the tokenizer did not write"):
        endless.tokenize(["a cat"])


def test_the_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    write_bert(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the transformers package: pip install 'maft\[towers\]'"):
        token_rows(HuggingFaceTokenizer(tmp_path, 8, name="x", options={}), ["a cat"])


def test_a_sentencepiece_file_needs_its_library(tmp_path, monkeypatch):
    def lacking(*_, **__):
        raise ImportError("no sentencepiece")

    monkeypatch.setattr("maft.clip.tokenizers.HFTokenizer", lacking)
    with pytest.raises(UserError, match=r"needs another package \(no sentencepiece\): pip install 'maft\[towers\]'"):
        token_rows(HuggingFaceTokenizer(tmp_path, 8, name="x", options={}), ["a cat"])


def test_a_folder_of_a_sentencepiece_file_alone_needs_its_library(tmp_path, monkeypatch):
    (tmp_path / "spiece.model").write_bytes(b"pieces")
    monkeypatch.setattr("maft.clip.tokenizers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the sentencepiece package: pip install 'maft\[towers\]'"):
        token_rows(HuggingFaceTokenizer(tmp_path, 8, name="x", options={}), ["a cat"])


@pytest.mark.parametrize("content", ['{"model": null}', "{}", "[", "null"])
def test_a_damaged_file_of_hugging_face_is_not_taken_for_a_word_table(tmp_path, content):
    write_bert(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read from"):
        token_rows(tokenizer_of("x", CLIPA, tmp_path), ["a cat"])
    with pytest.raises(UserError, match="tokenizer file"):
        tokenizer_of("x", {}, tmp_path)
