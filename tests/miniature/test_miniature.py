"""The miniature world: the same scenes everywhere, labels that match the picture, files that loaders can read."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from maft.errors import UserError
from maft.miniature import materialise, miniature_classes, render_scene
from maft.miniature.drawing import COLOURS, rotation
from maft.miniature.scene import MAX_OBJECTS

# Recorded once: a scene must be bit-identical on every machine, Python and NumPy version.
RECORDED = {
    ("train", 0, 0): "04314b4221ad6525892c17cd8729491a836bcec91a514289f0bde6accfa8d30a",
    ("val", 17, 0): "363467787081bb77704df5ec077773c3ad79b3815d426fe4dd908445373e145d",
    ("pretrain", 11999, 3): "dabc3f0b57a886432b3f7b15cfb3d6137950d9e6ac008cea877af04ee3febbe3",
}


def digest(scene):
    content = scene.image.tobytes() + scene.sem_seg.tobytes() + "\n".join(scene.captions).encode()
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(number, "val") for number in range(300)]


@pytest.mark.parametrize("key", RECORDED)
def test_scenes_are_bit_identical_to_the_recording(key):
    split, index, seed = key
    assert digest(render_scene(index, split, seed)) == RECORDED[key]


def test_index_split_and_seed_each_change_the_scene():
    keys = [(0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "pretrain", 0), (0, "train", 1)]
    assert len({digest(render_scene(*key)) for key in keys}) == len(keys)


def test_classes_compose():
    things = miniature_classes().things
    assert len(things) == 18
    for trait, nouns, values in (("shape", 3, 6), ("colour", 2, 9), ("pattern", 9, 2)):
        counts = np.unique([getattr(thing, trait) for thing in things], return_counts=True)[1]
        assert counts.tolist() == [nouns] * values
    assert len({(thing.colour, thing.pattern) for thing in things}) == 18
    assert len({(thing.colour, thing.shape) for thing in things}) == 18


def test_unseen_splits_are_disjoint_and_leave_the_held_out_classes_seen():
    classes = miniature_classes()
    together = [name for names in (*classes.unseen, classes.held_out) for name in names]
    assert len(set(together)) == len(together) == 22
    for names in classes.unseen:
        assert sum(class_id < 18 for class_id in classes.ids(names)) == 5 and len(names) == 6
        # An unseen noun shares its colour and its shape with seen ones, so that it can be recognised by composition.
        for thing in (thing for thing in classes.things if thing.name in names):
            others = [other for other in classes.things if other.name not in names]
            assert thing.colour in {other.colour for other in others}
            assert thing.shape in {other.shape for other in others}


def test_labels_list_exactly_what_was_drawn(scenes):
    for scene in scenes:
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == scene.sem_seg.dtype == np.uint8
        present = set(np.unique(scene.sem_seg).tolist())
        assert set(scene.things) <= present <= set(scene.things) | set(scene.stuff)
        assert 1 <= len(scene.things) <= MAX_OBJECTS and len(set(scene.things)) == len(scene.things)
        assert all(class_id < 18 for class_id in scene.things) and all(class_id >= 18 for class_id in scene.stuff)
    assert {class_id for scene in scenes for class_id in (*scene.things, *scene.stuff)} == set(range(24))


def test_objects_are_large_enough_and_never_hidden(scenes):
    for scene in scenes:
        for class_id in scene.things:
            rows, columns = np.nonzero(scene.sem_seg == class_id)
            assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 18
            assert len(rows) >= 100


def test_solid_objects_have_the_colour_of_their_class(scenes):
    things = miniature_classes().things
    for scene in scenes:
        for class_id in scene.things:
            if things[class_id].pattern == "solid":
                mean = scene.image[scene.sem_seg == class_id].mean(axis=0)
                distances = {name: np.abs(mean - colour).sum() for name, colour in COLOURS.items()}
                assert min(distances, key=distances.get) == things[class_id].colour


def test_every_caption_names_every_object_and_no_absent_class(scenes):
    names = miniature_classes().names
    background_named = []
    for scene in scenes:
        assert len(set(scene.captions)) == 5
        for caption in scene.captions:
            words = set(caption.replace(",", " ").replace(".", " ").split())
            mentioned = {class_id for class_id, name in enumerate(names) if name in words}
            assert set(scene.things) <= mentioned <= set(scene.things) | set(scene.stuff)
            background_named.append(mentioned > set(scene.things))
    assert 0.75 < np.mean(background_named) < 0.85


def test_rotation_table_is_trigonometry():
    angles = np.deg2rad(6 * np.arange(60))
    table = np.array([rotation(step) for step in range(60)])
    assert np.abs(table - 4096 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).max() <= 0.5


@pytest.mark.parametrize(
    "arguments, options",
    [((0, "test"), {}), ((-1, "val"), {}), ((0, "val"), {"max_objects": 5})],
)
def test_impossible_scenes_are_refused(arguments, options):
    with pytest.raises(UserError):
        render_scene(*arguments, **options)


def test_files_hold_the_scenes(tmp_path):
    folder = materialise(tmp_path / "miniature", "val", 3)
    assert len(list((folder / "images").iterdir())) == len(list((folder / "masks").iterdir())) == 3
    for index in range(3):
        scene = render_scene(index, "val")
        assert np.array_equal(np.asarray(Image.open(folder / f"images/{index:06d}.png")), scene.image)
        assert np.array_equal(np.asarray(Image.open(folder / f"masks/{index:06d}.png")), scene.sem_seg)
    captions = json.loads((folder / "captions.json").read_text())
    assert [image["file_name"] for image in captions["images"]] == ["000000.png", "000001.png", "000002.png"]
    assert [a["caption"] for a in captions["annotations"] if a["image_id"] == 2] == list(scene.captions)
    assert (tmp_path / "miniature" / "classes.txt").read_text().split() == list(miniature_classes().names)


def test_drawing_twice_writes_once_and_another_world_is_not_overwritten(tmp_path):
    folder = materialise(tmp_path, "train", 2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert materialise(tmp_path, "train", 2) == folder
    with pytest.raises(UserError, match="another miniature world"):
        materialise(tmp_path, "train", 3)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "train"]


def test_an_unwritable_root_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        materialise(tmp_path / "file", "val", 1)
