import pytest
from engine import tiny_run

from maft.data.readiness import count_images
from maft.errors import UserError


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    tiny_run.write_images(tmp_path / "images", count=4)
    tiny_run.register(tmp_path / "images")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_images_are_counted_by_dataset(datasets):
    assert count_images([tiny_run.DATASET], []) == {tiny_run.DATASET: 4} == count_images(None, [tiny_run.DATASET])


def test_all_that_is_missing_is_one_sentence_with_the_way_to_go_on(datasets):
    with pytest.raises(UserError) as refused:
        count_images(["coco_stuff_train"], ["voc_20_val", tiny_run.DATASET, "ade20k_150_val"])
    text = str(refused.value)
    assert text.startswith("DATASETS.TRAIN: Dataset coco_stuff_train has no images")
    assert f"; DATASETS.TEST: Dataset voc_20_val has no images in {datasets}/VOCdevkit" in text
    assert "; Dataset ade20k_150_val has no images" in text and "then run 'maft prepare " in text
    assert text.endswith(f"; or train without: DATASETS.TEST '[\"{tiny_run.DATASET}\"]'.")
    with pytest.raises(UserError, match=r"; or train without: DATASETS\.TEST '\[\]'\.$"):
        count_images([tiny_run.DATASET], ["voc_20_val"])
    with pytest.raises(UserError, match=r"; or leave out: DATASETS\.TEST '\[\"tiny_run_train\"\]'\.$"):
        count_images(None, ["voc_20_val", tiny_run.DATASET])


def test_training_cannot_go_on_without_its_data(datasets):
    with pytest.raises(UserError, match=r"^DATASETS\.TRAIN: Dataset voc_20_val has no images") as refused:
        count_images(["voc_20_val"], [tiny_run.DATASET])
    assert "without:" not in str(refused.value)
    with pytest.raises(UserError, match=r"^DATASETS\.TRAIN is empty"):
        count_images([], [])


def test_a_missing_folder_of_all_datasets_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"^DATASETS\.TEST: The folder of all datasets .*gone does not") as refused:
        count_images(None, ["voc_20_val", "ade20k_150_val"])
    assert str(refused.value).count("does not exist") == 1
