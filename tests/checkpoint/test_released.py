"""Official checkpoints: recognised, translated, complete; what does not fit is explained in one sentence."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from maft.building import build_model, model_shapes
from maft.checkpoint.key_map import differences
from maft.checkpoint.official.released import convert_released, recognise
from maft.config import load_config
from maft.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
KEYS = json.loads((ROOT / "tests/golden/maft/checkpoint_keys.json").read_text())


def shapes(keys):
    return {name: torch.Size(entry[:-1]) for name, entry in keys.items()}


@pytest.fixture(scope="module")
def freeseg(tiny_configs):
    return build_model(load_config(tiny_configs / "freeseg.yaml"))


@pytest.fixture(scope="module")
def maft(tiny_configs):
    return build_model(load_config(tiny_configs / "maft.yaml"))


@pytest.fixture(scope="module")
def official_maft(maft, official_state):
    """An official MAFT file in which every tensor differs from those a new model starts with."""
    state = {name: value + 0.25 for name, value in official_state(maft, "MAFT").items()}
    state["T.proj"] = torch.zeros(3)
    state["criterion.empty_weight"] = torch.ones(157)
    state["clip_adapter.pixel_mean"] = torch.zeros(1, 3, 1, 1)
    return state


def configured(tiny_configs, name, *overrides):
    return load_config(tiny_configs / f"{name}.yaml", list(overrides))


def backbone(file):
    """Overrides that start the proposer's backbone from a file."""
    return "MODEL.START_FROM", str([{"FILE": str(file), "INTO": "proposer.backbone"}])


def load(cfg):
    return build_model(cfg)


@pytest.mark.parametrize(
    ("file", "release"), [("freeseg_model.pt", "FreeSeg"), ("MAFT_Vitb.pt", "MAFT"), ("MAFT_Vitl.pt", "MAFT")]
)
def test_released_files_are_recognised_by_their_names(file, release):
    assert recognise(shapes(KEYS[file]["keys"])) == release


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("freeseg_model.pt", "freeseg_r101_coco-stuff-171"),
        ("MAFT_Vitb.pt", "maft_vitb16_coco-stuff-171"),
        ("MAFT_Vitl.pt", "maft_vitl14_coco-stuff-171"),
    ],
)
def test_released_files_fit_the_shipped_configs_both_ways(file, config):
    official = shapes(KEYS[file]["keys"])
    state = convert_released(official, recognise(official), file)
    assert differences(model_shapes(load_config(ROOT / f"configs/maft/{config}.yaml")), state) == []


def test_our_own_names_are_no_release(maft):
    assert recognise(maft.state_dict()) is None


def test_an_official_file_fills_the_whole_model(tmp_path, tiny_configs, maft, official_maft):
    torch.save({"model": official_maft, "iteration": 999}, tmp_path / "MAFT.pt")
    model = load(configured(tiny_configs, "maft", "MODEL.WEIGHTS", str(tmp_path / "MAFT.pt")))
    before = maft.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.25, rtol=0, atol=0)


def test_ip_clip_starts_from_the_clip_of_the_stage_one_checkpoint(tmp_path, tiny_configs, freeseg, official_state):
    state = {name: value + 0.25 for name, value in official_state(freeseg, "FreeSeg").items()}
    torch.save(state, tmp_path / "freeseg_model.pt")
    # The weights that the config names do not exist: the checkpoint's own CLIP makes them unnecessary.
    rules = str([{"FILE": str(tmp_path / "freeseg_model.pt")}])
    cfg = configured(tiny_configs, "maft", "MODEL.START_FROM", rules, "MODEL.CLIP.PRETRAINED", "gone.pt")
    model = load(cfg)
    tower = model.clip.visual.state_dict()
    assert torch.equal(tower["proj"], freeseg.clip.visual.proj + 0.25)
    for name, value in model.classifier.visual.state_dict().items():
        assert torch.equal(value, tower[name])


@pytest.mark.parametrize("pruned", ["clip_adapter.clip_model.", "clip_adapter.clip_model.visual.", "T.", "criterion."])
def test_a_pruned_file_leaves_the_configured_clip_in_place(tmp_path, tiny_configs, maft, official_maft, pruned):
    kept = {name: value for name, value in official_maft.items() if not name.startswith(pruned)}
    assert len(kept) < len(official_maft)
    torch.save(kept, tmp_path / "pruned.pt")
    model = load(configured(tiny_configs, "maft", "MODEL.WEIGHTS", str(tmp_path / "pruned.pt")))
    gone = pruned.startswith("clip_adapter.")
    assert torch.equal(model.clip.visual.proj, maft.clip.visual.proj + (0 if gone else 0.25))
    assert torch.equal(model.classifier.visual.proj, maft.classifier.visual.proj + 0.25)


def test_a_missing_tensor_and_an_unknown_one_are_named(tmp_path, tiny_configs, official_maft):
    cfg = configured(tiny_configs, "maft", "MODEL.WEIGHTS", str(tmp_path / "m.pt"))
    state = dict(official_maft)
    del state["sem_seg_head.interaction.gamma"]
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"missing: proposer\.interaction\.gamma \(32,\)"):
        load(cfg)
    torch.save({**official_maft, "sem_seg_head.extra.weight": torch.zeros(1)}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"1 unknown tensors \(sem_seg_head\.extra\.weight\)"):
        load(cfg)


def test_part_of_a_clip_is_not_taken_for_a_pruned_one(tmp_path, tiny_configs, official_maft):
    state = {name: value for name, value in official_maft.items() if not name.endswith("token_embedding.weight")}
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"missing: model\.token_embedding\.weight"):
        load(configured(tiny_configs, "maft", "MODEL.WEIGHTS", str(tmp_path / "m.pt")))


class TestMisfits:
    """One clear sentence each, while the model is built and before anything trains."""

    def refuse(self, tmp_path, tiny_configs, state, sentence, *overrides, name="maft"):
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(UserError, match=sentence) as raised:
            load(configured(tiny_configs, name, "MODEL.WEIGHTS", str(tmp_path / "w.pt"), *overrides))
        assert "\n" not in str(raised.value)

    def test_another_architecture(self, tmp_path, tiny_configs):
        state = {f"layer{index}.weight": torch.zeros(2) for index in range(40)}
        self.refuse(tmp_path, tiny_configs, state, "belongs to another architecture")

    def test_another_number_of_queries(self, tmp_path, tiny_configs, freeseg):
        overrides = ("MODEL.PROPOSER.FreeSeg.NUM_QUERIES", "9")
        sentence = "has 6 queries, not 9; set NUM_QUERIES of the proposer to 6"
        self.refuse(tmp_path, tiny_configs, freeseg.state_dict(), sentence, *overrides)

    def test_a_head_for_a_clip_of_another_width(self, tmp_path, tiny_configs, freeseg):
        # tiny_convnext has the width of tiny_vit, so the head of a stage 1 without its CLIP is made narrower.
        state = {name: value for name, value in freeseg.state_dict().items() if not name.startswith("clip.")}
        state["vocabulary_encoder.void_embedding"] = torch.zeros(1, 64)
        sentence = "trained with a CLIP of embedding width 64 and MODEL.CLIP.NAME has one of 128"
        self.refuse(tmp_path, tiny_configs, state, sentence)

    def test_a_file_that_is_no_checkpoint(self, tmp_path, tiny_configs):
        (tmp_path / "w.pt").write_bytes(b"<html>Not found</html>")
        cfg = configured(tiny_configs, "maft", "MODEL.WEIGHTS", str(tmp_path / "w.pt"))
        with pytest.raises(UserError, match=r"w\.pt"):
            load(cfg)

    def test_a_truncated_file(self, tmp_path, tiny_configs, freeseg):
        torch.save(freeseg.state_dict(), tmp_path / "w.pt")
        content = (tmp_path / "w.pt").read_bytes()
        (tmp_path / "w.pt").write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="truncated or not a checkpoint"):
            load(configured(tiny_configs, "maft", "MODEL.WEIGHTS", str(tmp_path / "w.pt")))


class TestMaskFormerReleases:
    """ZSSeg is OVSeg's R-101c file without mask prompts; both are full-size and cost no memory."""

    @pytest.fixture
    def zsseg(self, golden_dir):
        recorded = json.loads((golden_dir / "ovseg/checkpoint_keys.json").read_text())
        names = next(
            shapes(entry["keys"])
            for entry in recorded.values()
            if "backbone.stem.conv3.weight" in entry.get("keys", {})
        )
        del names["clip_adapter.clip_model.visual.mask_embedding"]
        return names

    @pytest.mark.parametrize(
        "config, adapter",
        [
            ("zsseg_vild_coco-stuff-156", ""),
            ("zsseg_coco-stuff-156", "clip_adapter."),
            ("zsseg_voc-15", "_region_clip_adapter."),
        ],
    )
    def test_zsseg_fits_its_config_both_ways(self, zsseg, config, adapter):
        if adapter:
            zsseg[f"{adapter}prompt_learner.prefix_prompt"] = torch.Size([16, 512])
            zsseg[f"{adapter}prompt_learner.pad_signal"] = torch.Size([1, 512])
        if adapter.startswith("_region"):
            zsseg[f"{adapter}clip_model.logit_scale"] = torch.Size([])
            zsseg[f"{adapter}non_object_embedding"] = torch.Size([1, 512])
        assert recognise(zsseg) == "ZSSeg"
        state = convert_released(zsseg, "ZSSeg", "zsseg.pth")
        cfg = load_config(ROOT / f"configs/maft/{config}.yaml")
        assert differences(model_shapes(cfg), state) == []


def test_a_zegformer_of_another_number_of_classes_is_refused_where_the_config_trains_on_another_set():
    names = {"criterion.empty_weight": torch.Size([157]), "sem_seg_head.predictor.bg_feature": torch.Size([1, 512])}
    kept = convert_released(names, "ZegFormer", "coco.pth", 156)
    assert (
        kept
        == convert_released(names, "ZegFormer", "coco.pth")
        == {"vocabulary_encoder.void_embedding": torch.Size([1, 512])}
    )
    with pytest.raises(
        UserError, match=r"coco\.pth is a ZegFormer checkpoint of 156 classes and DATASETS.TRAIN has 15: "
    ):
        convert_released(names, "ZegFormer", "coco.pth", 15)


def test_a_whole_zegformer_is_held_against_the_training_data(tmp_path):
    cfg = load_config(ROOT / "configs/maft/zegformer_voc-15.yaml", ["MODEL.CLIP.PRETRAINED", "random"])
    names = {"criterion.empty_weight": 157, "sem_seg_head.predictor.projection_layer.bias": 512}
    torch.save({"model": {name: torch.zeros(size) for name, size in names.items()}}, tmp_path / "coco.pth")
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(tmp_path / "coco.pth"), "cpu"
    with pytest.raises(UserError, match="of 156 classes and DATASETS.TRAIN has 15"):
        build_model(cfg)


class TestBackboneWeights:
    @pytest.fixture
    def imagenet(self, freeseg):
        state = {name: value.numpy() + 0.5 for name, value in freeseg.proposer.backbone.state_dict().items()}
        return {**state, "stem.fc.weight": state["stem.conv1.weight"]}

    @pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "__author__": "somebody"}])
    def test_a_detectron2_pickle_starts_the_backbone(self, tmp_path, tiny_configs, freeseg, imagenet, wrap):
        (tmp_path / "R.pkl").write_bytes(pickle.dumps(wrap(imagenet)))
        model = load(configured(tiny_configs, "freeseg", *backbone(tmp_path / "R.pkl")))
        before = freeseg.proposer.backbone.state_dict()
        for name, value in model.proposer.backbone.state_dict().items():
            torch.testing.assert_close(value, before[name] + 0.5)

    def test_a_pickle_that_would_execute_code_is_refused(self, tmp_path, tiny_configs):
        class Harmful:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "executed",))

        (tmp_path / "R.pkl").write_bytes(pickle.dumps({"stem.conv1.weight": Harmful()}))
        with pytest.raises(UserError, match="not plain data"):
            load(configured(tiny_configs, "freeseg", *backbone(tmp_path / "R.pkl")))
        assert not (tmp_path / "executed").exists()

    def test_a_checkpoint_with_a_backbone_needs_none(self, tmp_path, tiny_configs, freeseg):
        torch.save(freeseg.state_dict(), tmp_path / "w.pt")
        weights = ("MODEL.WEIGHTS", str(tmp_path / "w.pt"), *backbone("/nowhere/R.pkl"))
        model = load(configured(tiny_configs, "freeseg", *weights))
        assert torch.equal(
            model.state_dict()["proposer.backbone.stem.conv1.weight"], freeseg.proposer.backbone.stem.conv1.weight
        )

    def test_an_incomplete_backbone_is_named(self, tmp_path, tiny_configs, imagenet):
        del imagenet["res5.2.conv3.weight"]
        state = {name: torch.from_numpy(value) for name, value in imagenet.items()}
        torch.save(state, tmp_path / "R.pt")
        with pytest.raises(UserError, match=r"missing: proposer\.backbone\.res5\.2\.conv3\.weight"):
            load(configured(tiny_configs, "freeseg", *backbone(tmp_path / "R.pt")))

    def test_no_download_is_explained(self, tiny_configs, monkeypatch):
        def offline(address):
            raise OSError("Network is unreachable")

        monkeypatch.setattr("maft.downloads.check_reachable", offline)
        with pytest.raises(UserError, match=r"https://.*DeepLab/R-103\.pkl cannot be downloaded .* by hand"):
            load(configured(tiny_configs, "freeseg", *backbone("detectron2://DeepLab/R-103.pkl")))


def test_ground_truth_takes_the_place_of_a_proposer_whose_backbone_the_config_feeds(tmp_path, tiny_configs, caplog):
    overrides = ("MODEL.PROPOSER.NAME", "GroundTruth", *backbone("/gone/R-103.pkl"))
    load(configured(tiny_configs, "maft", *overrides))
    assert "/gone/R-103.pkl is not read: this model's proposer has no such weights" in caplog.text


def test_an_ovseg_checkpoint_without_mask_prompts_leaves_none_behind():
    name = "clip_adapter.clip_model.visual.mask_embedding"
    head = {"sem_seg_head.predictor.transformer.decoder.norm.weight": torch.ones(4)}
    assert recognise({**head, name: torch.ones(0, 16, 8)}) == "OVSeg"
    without = convert_released({**head, name: torch.ones(0, 16, 8)}, "OVSeg", "a file")
    assert list(without) == list(convert_released(head, "OVSeg", "a file"))
    assert "classifier.mask_prompts.tokens" in convert_released({**head, name: torch.ones(3, 16, 8)}, "OVSeg", "a file")
