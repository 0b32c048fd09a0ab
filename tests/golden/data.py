"""Recorded mappers and colour augmentation.

Recordings state their random draws or the transforms that came out of them, so most cases drive our mapper with fixed
transforms; where a NumPy seed is recorded, our own sampling has to arrive at the recorded parameters as well.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from golden.case import GoldenCase, golden_case
from maft.data.augmentations import Step, large_scale_jitter, shortest_edge_augmentations
from maft.data.mappers import NO_SEGMENT, SegmentationMapper
from maft.data.reading import Record, panoptic_colours

_FIXED = {
    "ResizeTransform": T.ResizeTransform,
    "CropTransform": CropTransform,
    "HFlipTransform": HFlipTransform,
    "NoOpTransform": NoOpTransform,
}


class _CutToPaddedSize(T.Augmentation):
    """The top left of what is larger than the padding: the official mapper pads by a negative size there, ours refuses.

    Args:
        size: side of the padded square.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_transform(self, image: NDArray[Any]) -> Transform:
        height, width = image.shape[:2]
        return CropTransform(0, 0, min(width, self.size), min(height, self.size))


def mapped(image: Tensor, labels: Tensor | None, augmentations: Sequence[Step], **options: Any) -> Record:
    """Writes image and labels to files and runs our mapper on them."""
    segments = options.pop("segments_info", None)
    if options.get("padded_size", 0) > 0:
        augmentations = [*augmentations, _CutToPaddedSize(options["padded_size"])]
    with tempfile.TemporaryDirectory() as folder:
        record: Record = {"file_name": str(Path(folder, "image.png"))}
        Image.fromarray(image.cpu().numpy()).save(record["file_name"])
        if labels is not None and segments is not None:
            record.update(pan_seg_file_name=str(Path(folder, "panoptic.png")), segments_info=segments)
            Image.fromarray(panoptic_colours(labels.cpu().numpy())).save(record["pan_seg_file_name"])
        elif labels is not None:
            record["sem_seg_file_name"] = str(Path(folder, "labels.png"))
            Image.fromarray(labels.cpu().numpy().astype(np.uint16)).save(record["sem_seg_file_name"])
        mapped = SegmentationMapper(augmentations, **options)(record)
    assert mapped is not None
    return mapped


@golden_case("san", "data_mapper")
@golden_case("maft", "data_mapper")
def maft_data_mapper(case: GoldenCase) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    inputs = case.inputs
    for name, options in case.config["train"].items():
        image, labels = inputs[f"train/{name}/image"], inputs[f"train/{name}/label"]
        augmentations = shortest_edge_augmentations(
            options["min_size_train"],
            options["max_size_train"],
            crop_size=options["crop"],
            single_category_max_area=options["single_category_max_area"],
            ignore_label=options["ignore_label"],
            flip="horizontal",
            color="RGB" if "color_seed" in options else "",
        )
        np.random.seed(options["np_seed"])
        colours = case.tensors.get(f"mid/train/{name}/color_draws", torch.zeros(0)).tolist()
        with _recorded_transforms(augmentations) as transforms, _colour_draws(colours):
            record = mapped(
                image,
                labels,
                augmentations,
                targets="semantic",
                num_classes=max(options["num_classes"], 1),
                ignore_label=options["ignore_label"],
                padded_size=max(options["size_divisibility"], 0),
                label_resize="torch",
            )
        outputs |= {f"train/{name}/{key}": value for key, value in _targets(record).items()}
        outputs[f"train/{name}/height_width"] = torch.tensor([record["height"], record["width"]])
        resize, crop, flip = transforms
        flipped = isinstance(flip, HFlipTransform)
        outputs[f"train/{name}/params"] = torch.tensor(
            [resize.new_h, resize.new_w, crop.x0, crop.y0, crop.w, crop.h, flipped]
        )
    for name in case.config["color"]:
        # The draws are recorded beside the outputs, but they are what drives the transform.
        draws = case.outputs[f"color/{name}/draws"]
        outputs[f"color/{name}/draws"] = draws
        outputs[f"color/{name}/image"] = _recoloured(inputs[f"color/{name}/image"], draws.tolist())
    for name, options in case.config["test"].items():
        augmentations = shortest_edge_augmentations([options["min_size_test"]], options["max_size_test"])
        record = mapped(
            inputs[f"test/{name}/image"],
            inputs[f"test/{name}/label"],
            augmentations,
            targets="semantic",
            # The recording states no number of classes for the test mapper, which keeps labels as they are.
            num_classes=int(inputs[f"test/{name}/label"].max()) + 1,
            label_resize="torch",
        )
        outputs[f"test/{name}/image"], outputs[f"test/{name}/sem_seg"] = record["image"], record["sem_seg"]
        outputs[f"test/{name}/height_width"] = torch.tensor([record["height"], record["width"]])
    return outputs


@golden_case("ovseg", "data_mapper_crop", "data_mapper_pad", "data_mapper_test", "data_mapper_empty")
def ovseg_data_mapper(case: GoldenCase) -> dict[str, Tensor]:
    transforms = [_FIXED[name](**arguments) for name, arguments in case.record["transforms"]]
    options = case.config
    record = mapped(
        case.inputs["image_hwc"],
        case.inputs["sem_seg"],
        transforms,
        targets="semantic",
        num_classes=max(options["classes"], 1),
        ignore_label=options["ignore"],
        padded_size=max(options.get("size_div", 0), 0),
        label_resize="torch",
    )
    if "min_size_test" in options:
        return {"image": record["image"], "mapper_test_sem_seg": record["sem_seg"]}
    return _targets(record)


@golden_case("ovseg", "color_aug_ssd")
def ovseg_color_augmentation(case: GoldenCase) -> dict[str, Tensor]:
    return {
        f"image_{drawn['seed']}": _recoloured(case.inputs["image_hwc"], [value for _, _, value in drawn["draws"]])
        for drawn in case.record["draws"]
    }


@golden_case("maskadapter", "mapper_coco_panoptic")
def maskadapter_panoptic_mapper(case: GoldenCase) -> dict[str, Tensor]:
    options = case.config
    segments = case.record["inputs_json"]["segments_info"]
    outputs: dict[str, Tensor] = {}

    def run(augmentations: list[Step], draws: Sequence[float]) -> Record:
        with _uniform_draws(draws):
            return mapped(
                case.inputs["image"],
                case.inputs["panoptic_ids"],
                augmentations,
                targets="panoptic",
                num_classes=max(segment["category_id"] for segment in segments) + 1,
                segments_info=segments,
                label_resize="pillow",
            )

    for index, draws in enumerate(options["draws"]):
        found = _targets(run(_jitter(options, padding_label=NO_SEGMENT), draws))
        masks = found["gt_masks"]
        outputs |= {f"{index}/image": found["image"], f"{index}/masks": masks, f"{index}/classes": found["gt_classes"]}
        outputs[f"{index}/boxes"] = _boxes(masks)
    found = _targets(run(_jitter(options, padding_label=NO_SEGMENT, flip="none"), options["draws"][0][1:]))
    outputs["flip_none_mask_adapter/image"], outputs["flip_none_mask_adapter/masks"] = found["image"], found["gt_masks"]
    outputs["flip_none_fcclip/image"] = run([], [])["image"]
    return outputs


@golden_case("maskadapter", "mapper_semantic")
def maskadapter_semantic_mapper(case: GoldenCase) -> dict[str, Tensor]:
    options = case.config
    outputs: dict[str, Tensor] = {}

    def run(augmentations: list[Step], draws: Sequence[float]) -> dict[str, Tensor]:
        with _uniform_draws(draws):
            record = mapped(
                case.inputs["image"],
                case.inputs["sem_seg"],
                augmentations,
                targets="semantic",
                num_classes=int(case.inputs["sem_seg"].max()) + 1,
                label_resize="torch",
            )
        found = _targets(record)
        return {"image": found["image"], "sem_seg": found["sem_seg"], "classes": found["gt_classes"]} | {
            "masks": found["gt_masks"]
        }

    for index, draws in enumerate(options["draws"]):
        outputs |= {f"{index}/{key}": value for key, value in run(_jitter(options), draws).items()}
    shortest, longest = _stated_sizes(case, r"ResizeShortestEdge\((\d+), max (\d+)\)")
    plain = shortest_edge_augmentations([shortest], longest, flip="horizontal")
    outputs |= {f"maftplus_original/{key}": value for key, value in run(plain, options["draws"][1][:1]).items()}
    shortest, longest = _stated_sizes(case, r"MIN_SIZE_TEST (\d+), MAX_SIZE_TEST (\d+)")
    outputs["test/image"] = run(shortest_edge_augmentations([shortest], longest), [])["image"]
    return outputs


def _stated_sizes(case: GoldenCase, pattern: str) -> tuple[int, int]:
    """(shortest, longest) edge, which this recording states in its notes and nowhere else."""
    found = re.search(pattern, str(case.record["notes"]))
    assert found is not None, f"the notes of {case.name} state no sizes as in {pattern!r}"
    return int(found[1]), int(found[2])


def _jitter(options: dict[str, Any], padding_label: int = 255, flip: str | None = None) -> list[Step]:
    scale = (options["min_scale"], options["max_scale"])
    direction = options["random_flip"] if flip is None else flip
    return large_scale_jitter(options["image_size"], scale, padding_label=padding_label, flip=direction)


def _targets(record: dict[str, Any]) -> dict[str, Tensor]:
    instances = record["instances"]
    return {
        "image": record["image"],
        "sem_seg": record["sem_seg"],
        "gt_classes": instances.gt_classes,
        "gt_masks": instances.gt_masks,
    }


def _boxes(masks: Tensor) -> Tensor:
    """(n, 4) float32 x0, y0, x1, y1 around each mask, zero for an empty one."""
    rows, columns = masks.any(dim=2), masks.any(dim=1)

    def limits(line: Tensor) -> tuple[Tensor, Tensor]:
        first = line.int().argmax(dim=1)
        last = line.shape[1] - line.flip(1).int().argmax(dim=1)
        return first, torch.where(line.any(dim=1), last, 0)

    (top, bottom), (left, right) = limits(rows), limits(columns)
    return torch.stack([left, top, right, bottom], dim=1).float()


def _recoloured(image: Tensor, draws: list[float]) -> Tensor:
    """(H, W, 3) RGB after the colour augmentation draws the recorded numbers: coins, and values where they say so."""
    with _colour_draws(draws):
        return torch.from_numpy(ColorAugSSDTransform("RGB").apply_image(image.cpu().numpy()))


@contextmanager
def _colour_draws(draws: list[float]) -> Iterator[None]:
    """Lets the colour augmentation draw the recorded numbers."""
    values = iter(draws)
    replay = mock.Mock(side_effect=lambda *_: next(values))
    with mock.patch.multiple("random", randrange=replay, uniform=replay, randint=replay):
        yield


@contextmanager
def _uniform_draws(draws: Sequence[float]) -> Iterator[None]:
    """Lets ``numpy.random.uniform`` return the recorded numbers, and checks that all of them were asked for."""
    values = iter(draws)
    with mock.patch("numpy.random.uniform", lambda *_: next(values)):
        yield
    if next(values, None) is not None:
        raise AssertionError("the augmentations drew fewer numbers than were recorded")


@contextmanager
def _recorded_transforms(augmentations: list[Any]) -> Iterator[list[Any]]:
    """Collects the transforms that the augmentations draw."""
    drawn: list[Any] = []

    def watch(draw: Any) -> Any:
        def get_transform(*args: NDArray[Any]) -> Transform:
            drawn.append(draw(*args))
            return drawn[-1]

        return get_transform

    for augmentation in augmentations:
        # The colour augmentation is a transform itself.
        if not isinstance(augmentation, T.Augmentation):
            continue
        # Detectron2 finds the arguments of get_transform by its signature, which the watcher hides.
        draw = augmentation.get_transform
        names = list(draw.__code__.co_varnames[1 : draw.__code__.co_argcount])
        augmentation.input_args = tuple(names)
        augmentation.get_transform = watch(draw)
    yield drawn
