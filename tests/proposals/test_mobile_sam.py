"""MobileSAM's file: its names both ways, and the masks of its definition."""

import pytest
import torch
from mobile_sam_by_definition import SMALL, MobileSAMByDefinition, random_by_definition

from maft.checkpoint.key_map import differences
from maft.errors import UserError
from maft.proposals.mobile_sam import Sizes, converted_names, load_mobile_sam, mobile_sam
from maft.proposals.sam import SAM
from maft.proposals.sam_model import load_sam
from maft.proposals.transformers_models import Source
from maft.structures import Images, Prompts

pytest.importorskip("transformers")


def source(file):
    return Source(str(file), "MODEL.PROPOSER.SAM.PRETRAINED", "a SAM model", "facebook/sam-vit-huge")


@pytest.fixture
def defined():
    return random_by_definition()


@pytest.fixture
def file(defined, tmp_path):
    path = tmp_path / "mobile_sam.pt"
    torch.save(defined.state_dict(), path)
    return path


@torch.no_grad()
def test_masks_of_the_file_are_those_of_the_definition(defined, file):
    model, square = load_mobile_sam(source(file), SMALL), torch.randn(1, 3, 64, 64)
    assert not model.training
    embeddings = model.get_image_embeddings(square)
    torch.testing.assert_close(embeddings, defined.image_encoder(square), atol=1e-5, rtol=1e-5)
    boxes = torch.tensor([[2.0, 3, 30, 20], [20, 5, 59, 39]])
    masks, quality = defined(square, defined.prompt_encoder.boxes(boxes))
    output = model(image_embeddings=embeddings, input_boxes=boxes[None], multimask_output=False)
    torch.testing.assert_close(output.pred_masks[0], masks[:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.iou_scores[0], quality[:, :1], atol=1e-5, rtol=1e-5)
    points, labels = torch.tensor([[[10.0, 10], [5, 60]], [[50.0, 30], [5, 5]]]), torch.tensor([[1, 0], [1, 1]])
    masks, quality = defined(square, defined.prompt_encoder.points(points, labels))
    output = model(image_embeddings=embeddings, input_points=points[None], input_labels=labels[None])
    torch.testing.assert_close(output.pred_masks[0], masks[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.iou_scores[0], quality[:, 1:], atol=1e-5, rtol=1e-5)
    assert masks.flatten(2).std(2).min() > 0.05, "rounding is far below what is compared"


def test_names_and_shapes_of_the_released_sizes_fit_both_ways():
    with torch.device("meta"):
        defined, ours = MobileSAMByDefinition(Sizes()), mobile_sam(Sizes(), source("mobile_sam.pt"))
    assert differences(ours.state_dict(), converted_names(defined.state_dict(), "the file")) == []
    # As published: of the model that has a classifier's head, too.
    assert round(sum(parameter.numel() for parameter in defined.parameters()) / 1e6, 2) == 10.13


def test_the_proposer_reads_the_file_by_its_path(file, monkeypatch):
    monkeypatch.setattr("maft.proposals.mobile_sam.RELEASED", SMALL)
    proposer = SAM(load_sam(str(file)))
    images = Images.from_list([torch.rand(3, 40, 60) * 255, torch.rand(3, 64, 33) * 255])
    prompts = Prompts(torch.tensor([[2.0, 3, 30, 20]]))
    proposals = proposer(images, None, None, None, [{"prompts": prompts}, {"prompts": prompts}])
    assert proposals.masks.shape[:2] == (2, 1) and proposer.iou_threshold == 0.88


def test_on_the_meta_device_it_has_names_and_shapes_alone(file):
    with torch.device("meta"):
        model = load_sam(str(file))
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_table_of_places_in_the_file_is_left(defined, file):
    state = defined.state_dict()
    state["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(9, 9, dtype=torch.long)
    torch.save({"model": state}, file)
    load_mobile_sam(source(file), SMALL)


def test_other_and_damaged_files_are_refused(defined, file):
    state = defined.state_dict()
    for changed, message in (
        ({"image_encoder.blocks.0.norm1.weight": torch.ones(3)}, "is a file, and not that of MobileSAM, .* a folder"),
        ({**state, "mask_decoder.hf_token.weight": torch.ones(1, 16)}, "has 1 unknown tensors .mask_decoder.hf_token"),
        ({**state, "mask_decoder.iou_token.weight": torch.full((1, 16), torch.nan)}, "iou_token.weight is not finite"),
        ({name: state[name] for name in state if "iou_token" not in name}, "missing: mask_decoder.iou_token.weight"),
        ({**state, "mask_decoder.iou_token.weight": torch.ones(2, 16)}, "shape of mask_decoder.iou_token.weight"),
    ):
        torch.save(changed, file)
        with pytest.raises(UserError, match=f"SAM.PRETRAINED {file}.*{message}"):
            load_mobile_sam(source(file), SMALL)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="is truncated or not a checkpoint"):
        load_mobile_sam(source(file), SMALL)
