"""Text towers of every kind give open_clip's own embeddings, and none is built with anything fetched or run."""

import json

import open_clip
import pytest
import torch
import transformers
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder

from maft.clip import VocabularyEncoder, clip_from_config, load_clip
from maft.clip.conversion import as_encoder_state
from maft.errors import UserError
from maft.structures import Vocabulary

VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
CUSTOM = {"custom_text": True}
TEXT = {"context_length": 12, "vocab_size": 40, "width": 24, "heads": 2, "layers": 2}


def rows(context=12, vocabulary=40, end=39):
    """Two texts of different lengths with their end token and padding."""
    tokens = torch.randint(5, vocabulary - 2, (2, context), generator=torch.Generator().manual_seed(0))
    for row, length in enumerate((4, 7)):
        tokens[row, length], tokens[row, length + 1 :] = end, 0
    return tokens


@pytest.mark.parametrize(
    ("text", "top"),
    [
        ({}, {}),
        ({"no_causal_mask": True}, CUSTOM),
        (
            {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
            {"custom_text": True, "init_logit_bias": -10},
        ),
        ({"pool_type": "eos", "eos_id": 2}, {}),
        ({"pool_type": "first", "no_causal_mask": True}, {}),
        ({"proj_type": "none", "width": 8, "heads": 2}, CUSTOM),
        (
            {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}, "mlp_ratio": 3.5},
            {"custom_text": True},
        ),
    ],
)
def test_clips_own_text_transformer_in_all_its_forms(text, top):
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**TEXT, **text}, **top}
    clip = clip_from_config("x", config, quick_gelu=False)
    assert (clip.embed_dim, clip.text_width) == (8, text.get("width", 24))
    kind = open_clip.CustomTextCLIP if "custom_text" in top else open_clip.CLIP
    theirs = kind(8, VISION, {**TEXT, **text}, init_logit_bias=top.get("init_logit_bias")).eval()
    theirs.load_state_dict(clip.model.state_dict())
    tokens = rows(end=2 if "eos_id" in text else 39)
    embeddings = clip.encode_text(tokens)
    torch.testing.assert_close(embeddings, theirs.encode_text(tokens))
    assert torch.pdist(embeddings) > 1e-4


def in_context(model, monkeypatch):
    """What the text transformer is shown of each batch: (texts, columns)."""
    transformer = getattr(model, "text", model).transformer
    forward, shapes = transformer.forward, []

    def seen(embedded, attn_mask=None):
        shapes.append(tuple(embedded.shape[:2]))
        return forward(embedded, attn_mask=attn_mask)

    monkeypatch.setattr(transformer, "forward", seen)
    return shapes


@pytest.mark.parametrize(
    ("text", "causal"),
    [
        ({}, True),
        ({"pool_type": "eos", "eos_id": 39}, True),
        ({"proj_bias": True}, True),
        ({"pool_type": "last"}, False),
        ({"no_causal_mask": True}, False),
        ({"embed_cls": True}, False),
    ],
)
def test_only_what_a_causal_tower_can_see_is_shown_to_it(text, causal, monkeypatch):
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**TEXT, **text}, **CUSTOM}
    clip = clip_from_config("x", config, quick_gelu=False)
    one, other = rows()
    tokens = torch.stack([other, one, other, one])
    with torch.no_grad():
        expected = clip.encode_text_by_definition(tokens)
        monkeypatch.setattr("maft.clip.text.TEXTS_PER_BATCH", 1)
        shapes = in_context(clip.model, monkeypatch)
        torch.testing.assert_close(clip.encode_text(tokens), expected)
    # The end token is the fifth of one text and the eighth of the other; each was encoded once.
    whole = 12 + bool(text.get("embed_cls"))
    assert sorted(shapes) == ([(1, 5), (1, 8)] if causal else [(1, whole)] * 2)


def test_no_text_has_no_embedding():
    clip = clip_from_config("x", {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT}, quick_gelu=False)
    assert clip.encode_text(rows()[:0]).shape == (0, 8)


def test_gradients_of_a_text_tower_are_those_of_its_whole_context():
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT}
    clip = clip_from_config("x", config, quick_gelu=False).requires_grad_(True)
    tokens = rows()[[0, 1, 0]]
    wanted = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    tower = [parameter for _, parameter in clip.text_parameters()]
    expected = torch.autograd.grad((clip.encode_text_by_definition(tokens) * wanted).sum(), tower)
    found = torch.autograd.grad((clip.encode_text(tokens) * wanted).sum(), tower)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)


def test_coca_is_its_two_towers():
    """The embedding is that of the class token behind the text; the caption decoder is left out by name."""
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
    config = {
        "embed_dim": 8,
        "vision_cfg": vision,
        "text_cfg": text,
        "multimodal_cfg": {"context_length": 12, "vocab_size": 40, "width": 24, "heads": 2, "layers": 1},
        "custom_text": True,
    }
    theirs = CoCa(8, config["multimodal_cfg"], text, vision).eval()
    clip = clip_from_config("x", config, quick_gelu=False)
    state = as_encoder_state(clip.model, theirs.state_dict(), "The file")
    assert not any("decoder" in name for name in state)
    clip.load_state_dict(state)
    torch.testing.assert_close(clip.encode_text(rows()), theirs.encode_text(rows(), normalize=False))


MODELS = {
    "roberta": transformers.RobertaConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ),
    "xlm-roberta": transformers.XLMRobertaConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ),
    "mt5": transformers.MT5Config(vocab_size=40, d_model=24, d_kv=12, d_ff=32, num_layers=2, num_heads=2),
    "m2m_100": transformers.M2M100Config(
        vocab_size=40,
        d_model=24,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_towers_of_the_transformers_library(kind, tmp_path):
    pooler = "cls_pooler" if kind == "m2m_100" else "mean_pooler"
    text = {"hf_model_name": "org/model", "hf_pooler_type": pooler, "hf_proj_type": "linear", "context_length": 12}
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": text}
    described = {**MODELS[kind].to_dict(), "dtype": "float16", "auto_map": {"AutoModel": "own.Own"}}
    clip = clip_from_config("x", config, quick_gelu=False, text_model=described)
    assert (clip.embed_dim, clip.text_width) == (8, 24)
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    MODELS[kind].save_pretrained(tmp_path)
    theirs = HFTextEncoder(str(tmp_path), 8, pooler_type=pooler, proj_type="linear", pretrained=False).eval()
    theirs.load_state_dict(clip.model.text.state_dict())
    tokens = rows()
    tokens[tokens == 0] = int(described["pad_token_id"])
    embeddings = clip.encode_text(tokens)
    torch.testing.assert_close(embeddings, theirs(tokens))
    assert torch.pdist(embeddings) > 1e-5
    again = clip_from_config("x", config, quick_gelu=False, text_model=described)
    saved = {name.removeprefix("model."): value for name, value in clip.state_dict().items()}
    again.load_state_dict(as_encoder_state(again.model, saved, "The file"))
    torch.testing.assert_close(again.encode_text(tokens), embeddings)
    assert clip.text_digest() == again.text_digest()


def folder_of(path, **text):
    path.mkdir()
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {"hf_model_name": "roberta-base", **text}}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return str(path)


def test_a_missing_description_is_named_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("maft.clip.hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("maft.clip.hub.constants.HF_HUB_OFFLINE", True)
    name = folder_of(tmp_path / "own")
    message = r"description of the text tower.*config\.json.*roberta-base.*or put it at .*own/text_config\.json"
    with pytest.raises(UserError, match=message):
        load_clip(name, "random")
    MODELS["roberta"].to_json_file(tmp_path / "own" / "text_config.json")
    assert load_clip(name, "random").text_width == 24


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "gpt2"}', "is a 'gpt2' model; the known kinds are: roberta, .*m2m_100"),
        ("[1]", r"text_config\.json is not a model description"),
        ("{", r"text_config\.json is not a model description"),
    ],
)
def test_a_description_of_no_use_is_refused(tmp_path, content, message):
    name = folder_of(tmp_path / "own")
    (tmp_path / "own" / "text_config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_clip(name, "random")


def test_the_bias_of_a_sigmoid_trained_tower_travels_with_its_texts(vit_clip):
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**TEXT, "vocab_size": 49408}, "init_logit_bias": -10}
    clip = clip_from_config("x", config, quick_gelu=False)
    torch.nn.init.constant_(clip.model.logit_scale, 4.8)
    # CLIP's limit of 100 is none of SigLIP's.
    torch.testing.assert_close(clip.temperature, torch.tensor(4.8).exp())
    text = VocabularyEncoder(8, 24, templates="single", void=True)(Vocabulary(("a", "b")), clip)
    features = torch.randn(3, 8)
    logits = text.logits(features, clip.temperature)
    cosine = torch.nn.functional.normalize(features, dim=-1) @ text.matrix.T
    torch.testing.assert_close(logits, clip.temperature * cosine - 10)
    # A softmax does not see it, so scores under a fixed factor stay what they were.
    torch.testing.assert_close(text.logits(features).softmax(-1), (100 * cosine).softmax(-1))
    assert vit_clip().logit_bias is None
