"""maft index looks at images once."""

import json

import pytest

from maft.cli.index import described, main
from maft.errors import UserError
from maft.index.format import Contents, Unreadable
from maft.index.reading import StoredIndex
from maft.miniature.dataset import materialise


@pytest.fixture
def index(tmp_path):
    def run(*arguments, model=("--model", "miniature")):
        main([*map(str, arguments), *model, "--output", str(tmp_path / "index")])
        return tmp_path / "index"

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    materialise(folder, "val", 4)
    return folder


def pictures(world):
    return sorted(world.rglob("images/*.*g"))


def test_images_and_folders_are_indexed_and_their_kilobytes_told(index, world, capsys):
    folder = index(pictures(world)[0].parent, "--images-per-shard", 3, "DATALOADER.NUM_WORKERS", "0")
    told = capsys.readouterr().out
    assert "4 images with 80 masks." in told and "KB an image:" in told and f"Index: {folder}" in told
    stored = StoredIndex(folder)
    assert len(stored) == 4 and stored.settings.shards == 2
    assert [stored.image(place).file for place in range(4)] == list(map(str, pictures(world)))
    manifest = json.loads((folder / "index.json").read_text())
    assert manifest["version"] == 1 and manifest["contents"]["bytes"]["runs"] > 0


def test_a_dataset_is_indexed_with_its_annotated_masks(index, world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    stored = StoredIndex(index("--dataset", "miniature_val", "--masks", "binary"))
    assert stored.settings.dataset == "miniature_val" and stored.settings.masks == "binary"
    for place in range(4):
        image = stored.image(place)
        assert image.true_masks.embeddings.shape[1] == len(image.true_classes) > 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name images or folders, or a dataset with --dataset"),
        (("a.png", "--dataset", "miniature_val"), "one of the two"),
        (("https://example.org/a.png",), "https://example.org/a.png is no file: .* fetch it first"),
        (("a.png", "--masks", "some"), "invalid choice: 'some'"),
        (("a.png", "--images-per-shard", "0"), "at least one image"),
        (("a.png", "--words", "cat", "--own-words"), "not allowed with"),
        (("a.png", "--words", "bear"), "do not depend on words"),
        (("a.png",), r"None of the 1 images can be read, such as a.png"),
        (("a.png", "TEST.AUG.ENABLED", "True"), "one look at each image"),
    ],
)
def test_command_lines_that_ask_for_nothing_are_refused(index, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        index(*arguments)


def test_an_unknown_model_and_dataset_are_refused(index):
    with pytest.raises(UserError, match="There is no released model 'miniatur'"):
        index("a.png", model=("--model", "miniatur"))
    with pytest.raises(UserError, match="miniature_vall"):
        index("--dataset", "miniature_vall")


def test_what_was_left_out_and_what_words_bind_is_told():
    contents = Contents(2, 30, True, (), {"runs": 4000}, (Unreadable(0, "a.png", "broken"),))
    assert described(contents, True) == [
        "2 images with 30 masks.",
        "1 images could not be read; index.json lists them.",
        "The model made its scores in one step with the masks: these words alone can be asked.",
        "2.0 KB an image:",
        "  runs                  2.00 KB",
    ]
