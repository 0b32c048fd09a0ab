"""Label sets: lengths, splits and class strings of every dataset."""

from pathlib import Path

import pytest

from maft.data.catalog import TABLE, class_names
from maft.data.label_sets import label_set, overlap, read_class_list
from maft.errors import UserError

SIZES = {
    "coco_stuff_171": (171, 15, 80),
    "coco_panoptic_133": (133, 0, 80),
    "voc_20": (20, 5, 0),
    "voc_21": (21, 0, 0),
    "ade20k_150": (150, 0, 100),
    "ade20k_847": (847, 275, 0),
    "pascal_context_59": (59, 0, 0),
    "pascal_context_459": (459, 0, 0),
    "cityscapes_19": (19, 0, 8),
    "mapillary_65": (65, 0, 37),
    "lvis_1203": (1203, 0, 1203),
    "miniature_0": (24, 6, 18),
    "miniature_tuning": (24, 4, 18),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_ids(name: str) -> None:
    labels = label_set(name)
    classes, unseen, things = SIZES[name]
    assert (len(labels), len(labels.unseen), len(labels.things)) == (classes, unseen, things)
    assert len(set(labels.category_ids)) == classes
    assert all(0 <= index < classes for index in (*labels.unseen, *labels.things))
    for variant, names in labels.class_names.items():
        assert len(names) == len(set(names)) == classes, variant
        assert all(part.strip() == part and part for part in names), variant


def test_published_unseen_classes() -> None:
    coco = label_set("coco_stuff_171")
    # Raw stuffthingmaps values of the zero-shot split, as the papers list them.
    raw = {20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171}
    assert {coco.category_ids[index] - 1 for index in coco.unseen} == raw
    voc = label_set("voc_20")
    assert [voc.names()[index] for index in voc.unseen] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert len(coco.seen_indices) == 156 and sum(coco.seen or ()) == 156
    assert len(label_set("ade20k_847").seen_indices) == 572


def test_variants_keep_the_label_order() -> None:
    context = label_set("pascal_context_59")
    # OVSeg's own list has another order and calls one class differently; the labels decide.
    assert context.names("maft")[49] == "diningtable" and context.names("ovseg")[49] == "table"
    assert [a for a, b in zip(context.names("maft"), context.names("ovseg")) if a != b] == ["diningtable"]
    assert label_set("voc_20").names("maft")[19] == "tv" and label_set("voc_20").names("ovseg")[19] == "tvmonitor"
    everything = label_set("pascal_context_459")
    by_id = dict(zip(everything.category_ids, everything.names()))
    differing = {n for i, n in zip(context.category_ids, context.names()) if by_id[i] != n}
    assert differing == {"diningtable"}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_dataset_has_the_strings_of_every_method(row) -> None:
    for variant in ("plain", "maft", "ovseg", "fcclip"):
        assert len(class_names(row.name, variant)) == row.num_classes


def test_lvis_is_numbered_like_its_first_version() -> None:
    lvis = label_set("lvis_1203")
    by_id = dict(zip(lvis.category_ids, lvis.names()))
    known = {1: "aerosol can", 45: "banana", 207: "car (automobile)", 378: "dog", 793: "person", 1203: "zucchini"}
    assert {id_: by_id[id_] for id_ in known} == known
    assert lvis.names("fcclip")[1202] == "zucchini,courgette"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"no label set 'coco_172'.*coco_stuff_171"):
        label_set("coco_172")
    with pytest.raises(UserError, match=r"no class strings 'mft'.*plain, maft"):
        label_set("voc_20").names("mft")


def test_overlap_is_by_exact_synonym() -> None:
    assert overlap(["cat, kitty", "catfish", "dog,puppy"], ["kitty,cats", "puppy"]) == (True, False, True)


# Classes that count as seen after training on COCO panoptic and on COCO-Stuff, by FC-CLIP's official rule and strings.
OVERLAPS = {
    "ade20k_150_val": (64, 67),
    "ade20k_847_val": (101, 115),
    "pascal_context_59_val": (51, 51),
    "pascal_context_459_val": (85, 94),
    "voc_20_val": (20, 20),
    "voc_21_val": (21, 21),
    "cityscapes_val": (17, 17),
    "mapillary_val": (26, 26),
    "coco_stuff_val": (135, 171),
    "coco_panoptic_val": (133, 131),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_with_the_official_training_sets(name: str) -> None:
    names = class_names(name, "fcclip")
    counts = [
        sum(overlap(names, class_names(training, "fcclip"))) for training in ("coco_panoptic_train", "coco_stuff_train")
    ]
    assert tuple(counts) == OVERLAPS[name]


def test_class_list_files(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("cat, kitty\ndog \n\n", encoding="utf-8-sig")
    assert read_class_list(file) == ("cat, kitty", "dog")
    file.write_text("cat\u2028kitty\r\ndog\x0bpuppy\nbird\x85\n", encoding="utf-8", newline="")
    assert len(read_class_list(file)) == 3
    for content, message in (("", "empty"), ("cat\n\ndog\n", "number 2 .* blank"), ("cat\ncat\n", "twice")):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            read_class_list(file)
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_class_list(file)
    with pytest.raises(UserError, match="does not exist"):
        read_class_list(tmp_path / "none.txt")
