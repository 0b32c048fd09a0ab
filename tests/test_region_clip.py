"""Fine-tuning of CLIP on regions: what trains, the global batch over processes, hand-over and mistakes."""

import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from detectron2.config import CfgNode
from golden.runner import run_folder

from maft.building import build_model
from maft.checkpoint.io import write_safetensors
from maft.clip import load_clip
from maft.clip.mask_prompts import MaskPrompts
from maft.config_keys import default_config
from maft.data.catalog import dataset
from maft.data.mappers import SegmentationMapper
from maft.data.records import load_records
from maft.errors import UserError
from maft.evaluation.regions import evaluate_regions
from maft.evaluation.semantic import test_vocabulary as vocabulary_of
from maft.miniature import materialise
from maft.region_clip import RegionCLIP, contrastive_loss

WORDS = ["apple", "bee", "plum", "gift"]


def batch(count=4, size=96, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return [
        {
            "region": torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=draws),
            "mask": torch.rand(1, size, size, generator=draws) < 0.001,
            "text": WORDS[index % len(WORDS)],
        }
        for index in range(count)
    ]


def build(train="tower", depth=0):
    torch.manual_seed(0)
    clip = load_clip("tiny_vit")
    return RegionCLIP(clip=clip, mask_prompts=MaskPrompts(clip.tower, depth) if depth else None, train=train)


def test_the_loss_is_clips_by_definition():
    images, texts = (F.normalize(torch.randn(4, 8, dtype=torch.float64), dim=-1) for _ in range(2))
    scale = torch.tensor(20.0, dtype=torch.float64)
    expected = 0.0
    for i in range(4):
        rows = [math.exp(20 * float(images[i] @ texts[j])) for j in range(4)]
        columns = [math.exp(20 * float(images[j] @ texts[i])) for j in range(4)]
        expected -= (math.log(rows[i] / sum(rows)) + math.log(columns[i] / sum(columns))) / 8
    assert math.isclose(float(contrastive_loss(images, texts, scale)), expected, rel_tol=1e-12)


def test_equal_texts_stay_negatives():
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert contrastive_loss(images, texts, torch.tensor(1.0)) > 0.5


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("train", ["tower", "prompts", "all"])
def test_what_trains_gets_a_gradient_and_nothing_else_does(train):
    model = build(train, depth=0 if train == "tower" else 3).train()
    model(batch())["loss_contrastive"].backward()
    expected = {"clip.model.logit_scale"}
    if train != "prompts":
        expected |= {name for name, _ in model.named_parameters() if name.startswith("clip.model.visual.")}
    if train != "tower":
        expected.add("mask_prompts.tokens")
    assert trained(model) == expected
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == expected


def test_the_temperature_stays_within_clips_bounds():
    model = build()
    for value, kept in ((5.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        with torch.no_grad():
            model.clip.model.logit_scale.fill_(value)
        model.after_optimizer_step()
        assert math.isclose(float(model.clip.model.logit_scale.detach()), kept, rel_tol=1e-6)


def test_steps_reduce_the_loss():
    model, data = build().train(), batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = []
    for _ in range(6):
        loss = model(data)["loss_contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def _one_process(rank, world, address, result):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    model = build("all", depth=2).train()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    share = batch(4)[rank * 2 : rank * 2 + 2]
    loss = parallel(share)["loss_contrastive"]
    loss.backward()
    if rank == 0:
        torch.save(
            [float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}], result
        )
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    mp.start_processes(_one_process, (2, address, str(tmp_path / "result.pt")), nprocs=2, start_method="spawn")
    loss, gradients = torch.load(tmp_path / "result.pt", weights_only=True)

    model = build("all", depth=2).train()
    whole = model(batch(4))["loss_contrastive"]
    whole.backward()
    assert math.isclose(loss, float(whole.detach()), rel_tol=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-7, name


def config(*overrides):
    cfg = default_config()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.CLIP.NAME", "tiny_vit", "MODEL.CLIP.PRETRAINED", "", *overrides])
    return cfg


def region_config(*overrides):
    return config(
        "MODEL.META_ARCHITECTURE", "RegionCLIP", "INPUT.MAPPER", "region_pairs", "INPUT.REGIONS.SIZE", 96,
        "DATASETS.TEST", (), *overrides,
    )  # fmt: skip


def test_the_result_serves_a_segmentor(tmp_path):
    model = build("all", depth=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    file = tmp_path / "model_final" / "model.safetensors"
    write_safetensors(file, model.state_dict())

    cfg = config("MODEL.PROPOSER.NAME", "GroundTruth", "MODEL.CLASSIFIER.NAME", "MaskedCrops")
    cfg.MODEL.CLASSIFIER.MaskedCrops = CfgNode({"MASK_PROMPT_DEPTH": 3})
    cfg.MODEL.START_FROM = [
        {"FILE": str(file), "TAKE": "clip"},
        {"FILE": str(file), "TAKE": "mask_prompts", "INTO": "classifier.mask_prompts"},
    ]
    segmentor = build_model(cfg)
    data = batch(3)
    pixels = torch.stack([item["region"] for item in data]).float()
    pixels = (pixels - model.clip.pixel_mean[:, None, None]) / model.clip.pixel_std[:, None, None]
    masks = torch.stack([item["mask"] for item in data]).float()
    with torch.no_grad():
        ours = segmentor.classifier.encode_regions(pixels, masks, segmentor.clip)
        theirs = model.encode(pixels, masks)
    torch.testing.assert_close(F.normalize(ours, dim=-1), theirs)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["MODEL.REGION_CLIP.TRAIN", "head"], "choose one of: tower, prompts, all"),
        (["MODEL.REGION_CLIP.TRAIN", "prompts"], "MASK_PROMPT_DEPTH is 0"),
        (["MODEL.REGION_CLIP.MASK_PROMPT_DEPTH", 7], "MASK_PROMPT_DEPTH 7 does not fit the CLIP tower of 6 blocks"),
        (["INPUT.MAPPER", "semantic"], "set it to region_pairs"),
        (["MODEL.VOCABULARY.TEMPLATES", "learned"], "TEMPLATES is learned, but this model has no learned prompts"),
    ],
)
def test_mistakes_in_the_config(overrides, complaint):
    with pytest.raises(UserError, match=complaint):
        build_model(region_config(*overrides))


@pytest.mark.parametrize("depth", [0, 3])
def test_its_accuracy_is_that_of_masked_crops_on_ground_truth(tmp_path, monkeypatch, depth):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    materialise(tmp_path / "miniature", "val", 12)
    torch.manual_seed(0)
    cfg = region_config(
        "DATASETS.TEST", ("miniature_val",), "MODEL.VOCABULARY.VOID", False, "INPUT.MIN_SIZE_TEST", 96,
        "INPUT.MAX_SIZE_TEST", 96, "OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", 0,
        "MODEL.REGION_CLIP.MASK_PROMPT_DEPTH", depth,
    )  # fmt: skip
    model = build_model(cfg)
    measured = evaluate_regions(cfg, model)["miniature_val"]["regions"]

    cfg.MODEL.META_ARCHITECTURE, cfg.INPUT.MAPPER = "OpenVocabSegmentor", "semantic"
    cfg.MODEL.PROPOSER.NAME, cfg.MODEL.CLASSIFIER.NAME = "GroundTruth", "MaskedCrops"
    cfg.MODEL.CLASSIFIER.MaskedCrops = CfgNode({"INPUT_SIZE": 96, "MASK_PROMPT_DEPTH": depth})
    segmentor = build_model(cfg).eval()
    segmentor.clip = model.clip
    segmentor.classifier.mask_prompts = model.mask_prompts
    segmentor.set_vocabulary(vocabulary_of(cfg, dataset("miniature_val"), "miniature_val")[0])
    mapper = SegmentationMapper.from_config(cfg, False, targets="semantic")
    right = []
    with torch.no_grad():
        for record in load_records(["miniature_val"]):
            sample = mapper(record)
            assert sample["image"].shape[1:] == (record["height"], record["width"]), "cut at the image's own size"
            images = segmentor.padded([sample])
            proposals = segmentor.propose(images, [sample])
            named = segmentor.classify(images, proposals).class_logits.argmax(-1)
            right += (named == proposals.labels)[proposals.valid].tolist()
    assert 0 < sum(right) < len(right)
    assert measured["accuracy"] == pytest.approx(100 * sum(right) / len(right))


def test_without_names_there_is_nothing_to_evaluate():
    sample = {"region": torch.zeros(3, 9, 9, dtype=torch.uint8), "mask": torch.ones(1, 9, 9, dtype=torch.bool)}
    with pytest.raises(UserError, match="has no names"):
        build().eval()([sample])


def test_prompts_may_come_from_a_file_and_must_fit(tmp_path):
    clip, file = load_clip("tiny_vit"), tmp_path / "prompts.safetensors"
    cfg = region_config("MODEL.REGION_CLIP.MASK_PROMPT_DEPTH", 3)
    cfg.MODEL.START_FROM = [{"FILE": str(file), "TAKE": "mask_prompts"}]
    trained = MaskPrompts(clip.tower, 3, (96, 96)).tokens
    write_safetensors(file, {"mask_prompts.tokens": trained})
    assert torch.equal(build_model(cfg, training=True).mask_prompts.tokens, trained)
    write_safetensors(file, {"mask_prompts.tokens": MaskPrompts(clip.tower, 3, (64, 64)).tokens})
    with pytest.raises(UserError, match=r"mask_prompts.tokens: \(3, 64, 128\) in the checkpoint, \(3, 144, 128\) in"):
        build_model(cfg)
    write_safetensors(file, {"other": torch.zeros(1)})
    with pytest.raises(UserError, match="has nothing called mask_prompts"):
        build_model(cfg)


def test_recorded_steps_of_the_official_training(golden_dir):
    cases = ["clip_finetune_step_ft", "clip_finetune_step_mpt", "miner"]
    for result in run_folder(golden_dir / "ovseg", names=cases):
        assert result.status == "pass", (result.name, result.detail, result.error)
