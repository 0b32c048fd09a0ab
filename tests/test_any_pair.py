"""Every mask proposer with every mask classifier, from a config file alone: results, and one training step."""

import importlib.util
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.structures import Instances
from universal_families import save_universal

from maft.building import build_model
from maft.config import load_config
from maft.conformance import ClassifierConformance, ProposerConformance
from maft.errors import UserError
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.structures import Images
from maft.test_time import AveragedInference

BASE = Path(__file__).resolve().parent.parent / "configs" / "_base_" / "miniature.yaml"
# The classifiers' losses; a classifier that is not here trains nothing.
LOSS_NODES = {
    "IPCLIP": ["MaskAwareLoss", "SelfDistillationLoss"],
    "MaskedCrops": ["MaskAwareLoss", "SelfDistillationLoss"],
    "MaskAdapter": ["MaskCrossEntropyLoss", "MaskConsistencyLoss"],
    "MAFTPlus": ["MaskAwareLoss", "RepresentationCompensationLoss"],
    "MaskCLIPpp": ["BalancedCrossEntropyLoss"],
}
# Every overlap makes a pair, so that the few random masks have some.
CHANGED = {"MaskAdapter": {"IOU_THRESHOLD": 0.0}}
LOSS_NAMES = {
    "MaskAwareLoss": "loss_mask_aware",
    "SelfDistillationLoss": "loss_self_distillation",
    "MaskCrossEntropyLoss": "loss_mask_cross_entropy",
    "MaskConsistencyLoss": "loss_mask_consistency",
    "RepresentationCompensationLoss": "loss_representation_compensation",
    "BalancedCrossEntropyLoss": "loss_balanced_cross_entropy",
}
# Every proposer and every classifier once; masks that are not made of the pixels follow no copy of an image.
AVERAGED = [
    (p, c) for p in PROPOSERS for c in CLASSIFIERS if "Mask2Former" in (p, c) or c == "MaskPooling"
    if PROPOSERS.get(p).sees_pixels
]  # fmt: skip
TRAINED_PROPOSERS = ("Mask2Former", "FreeSeg", "MaskFormer", "SAN", "Universal", "EoMT")
# Those from files follow no augmentation and are tried with no mask at all, below.
PAIRS = [(p, c) for p in PROPOSERS if p != "MaskFiles" for c in CLASSIFIERS]


def joined(kind, name):
    """The conformance test of a component, which states small options and a tower it runs on."""
    path = Path(__file__).parent / "conformance" / "test_components.py"
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("conformance", path))
    spec.loader.exec_module(module)
    return next(test for test in vars(module).values() if inspect.isclass(test) and issubclass(test, kind)
                and vars(test).get("name") == name)  # fmt: skip


@pytest.fixture(scope="module")
def sam_folder(random_sam):
    return random_sam("sam")


@pytest.fixture(scope="module")
def universal_folder(tmp_path_factory):
    return save_universal("eomt", tmp_path_factory.mktemp("universal"))


@pytest.fixture(scope="module")
def sam3_folder(tiny_sam3, tmp_path_factory):
    return tiny_sam3(tmp_path_factory.mktemp("sam3"), noise=0.1)


@pytest.fixture
def config(tmp_path, request):
    """Writes the config file of a pair and reads it as the tools do."""

    def write(proposer, classifier):
        tested = joined(ClassifierConformance, classifier)
        losses = {name: {} for name in LOSS_NODES.get(classifier, [])}
        options = dict(joined(ProposerConformance, proposer).options)
        if proposer == "GroundTruth":
            # Mask-Adapter's warm-up stage: there are no predictions to match.
            losses.pop("MaskConsistencyLoss", None)
        if proposer in ("SAM", "SAM3"):
            options["PRETRAINED"] = str(request.getfixturevalue(f"{proposer.lower()}_folder"))
        if proposer == "Universal":
            options["PRETRAINED"] = str(request.getfixturevalue("universal_folder"))
        if proposer == "MaskFiles":
            options["PATH"] = str(tmp_path)
        model = {
            "DEVICE": "cpu",
            # SAN's side adapter names its masks inside a ViT, and EoMT's queries are inside one.
            "CLIP": {"NAME": "tiny_vit" if proposer in ("SAN", "EoMT") else tested.clip, "PRETRAINED": "random"},
            "RESNETS": {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "NORM": "FrozenBN"},
            "PROPOSER": {"NAME": proposer, proposer: options},
            "CLASSIFIER": {"NAME": classifier, classifier: {**tested.options, **CHANGED.get(classifier, {})}},
            "LOSSES": losses,
            "INFERENCE": {"LABELS_ONLY": False},
        }
        file = tmp_path / "pair.yaml"
        file.write_text(yaml.safe_dump({"_BASE_": str(BASE), "MODEL": model}))
        return load_config(file)

    return write


def sample(height, width, count, classes):
    """An image with ``count`` rectangles, as the training mapper hands it on."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for index in range(count):
        masks[index, 10 * index : 10 * index + 30, 5 * index : 5 * index + 40] = True
    instances = Instances((height, width), gt_classes=torch.randperm(classes)[:count], gt_masks=masks)
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "instances": instances}


@pytest.fixture
def batch():
    return [sample(96, 96, 3, 18), sample(80, 64, 2, 18)]


@pytest.mark.parametrize(("proposer", "classifier"), PAIRS)
def test_any_pair(config, batch, proposer, classifier):
    model = build_model(config(proposer, classifier))
    classes = len(model.vocabulary)
    if proposer == "SAN":
        # Its untrained masks are the same everywhere, which leaves losses of masks nothing to tell apart.
        with torch.no_grad():
            model.proposer.side_adapter.pixel_mlp.layers[-1].weight.mul_(100)

    model.eval()
    images = Images.from_list([item["image"] for item in batch])
    with torch.no_grad():
        classification = model.classify(images, proposals := model.propose(images, batch))
        results = model([{**batch[0], "height": 50, "width": 70}, batch[1]])
    count = proposals.masks.shape[1]
    assert count > 1 and proposals.masks.shape[0] == 2
    assert classification.class_logits.shape == (2, count, classes) and classification.logits.isfinite().all()
    probabilities = model.class_probabilities(proposals, classification)
    assert probabilities.isfinite().all() and (probabilities >= 0).all() and probabilities.sum() > 0
    for result, size in zip(results, [(50, 70), (80, 64)], strict=True):
        assert result["sem_seg"].shape == (classes, *size) and result["sem_seg"].isfinite().all()

    model.train()
    if proposer not in TRAINED_PROPOSERS and classifier not in LOSS_NODES:
        with pytest.raises(UserError, match="Nothing trains"):
            model(batch)
        return
    losses = model(batch)
    assert ("loss_dice" in losses) == (proposer in TRAINED_PROPOSERS)
    expected = {LOSS_NAMES[name] for name in model.losses}
    assert losses.keys() >= expected and all(loss.isfinite() for loss in losses.values())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in trainable if parameter.grad is not None)
    optimizer.step()
    changed = {name.split(".")[0] for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert ("proposer" in changed) == (proposer in TRAINED_PROPOSERS)
    assert ("classifier" in changed) == (classifier in LOSS_NODES)
    assert ("clip" in changed) == (classifier in ("MAFTPlus", "MaskCLIPpp") or proposer == "SAN")


@pytest.mark.parametrize("proposer", ["GroundTruth", "MaskFiles"])
@pytest.mark.parametrize("classifier", list(CLASSIFIERS))
def test_no_mask_at_all_is_void_everywhere(config, tmp_path, proposer, classifier):
    (tmp_path / "picture").mkdir()
    cfg = config(proposer, classifier)
    cfg.MODEL.INFERENCE.LABELS_ONLY = True
    model = build_model(cfg).eval()
    result = model([{**sample(96, 96, 0, 18), "file_name": "picture.jpg"}])[0]
    assert (result["sem_seg_labels"] == -1).all() and (result["sem_seg_confidence"] == 0).all()


@pytest.mark.parametrize(("proposer", "classifier"), AVERAGED)
def test_flips_and_windows_are_averaged_with_any_part(config, batch, proposer, classifier):
    model = build_model(config(proposer, classifier)).eval()
    height, width = 80, 70
    image = batch[0]["image"][:, :height, :width]
    total, count = torch.zeros(len(model.vocabulary), height, width), torch.zeros(height, width)
    for flipped in (False, True):
        seen = image.flip(-1) if flipped else image
        for top in (0, 16):
            for left in (0, 6):
                here = (..., slice(top, top + 64), slice(left, left + 64))
                scores = torch.zeros_like(total)
                scores[here] = model([{"image": seen[here]}])[0]["sem_seg"]
                shown = torch.zeros_like(count)
                shown[here] = 1
                total += scores.flip(-1) if flipped else scores
                count += shown.flip(-1) if flipped else shown
    # With a resize to the size it has, only flips and windows are left.
    averaged = AveragedInference(model, short_edges=[70], max_size=80, flip=True, window=(64, 0.75))
    (result,) = averaged([{"image": image}])
    torch.testing.assert_close(result["sem_seg"], total / count, atol=1e-5, rtol=0)
