import json

import pytest

from maft.errors import UserError
from maft.mining.captions import read_captions


def write(path, images, annotations):
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_captions_are_read_in_the_order_of_their_ids(tmp_path):
    file = write(
        tmp_path / "captions.json",
        [{"id": 7, "file_name": "a/000007.jpg"}, {"id": 3, "file_name": "000003.jpg"}],
        [
            {"id": 12, "image_id": 7, "caption": "third"},
            {"id": 10, "image_id": 7, "caption": "first"},
            {"id": 11, "image_id": 7, "caption": "second"},
        ],
    )
    seven, three = read_captions(file)
    assert (seven.file_name, seven.stem, seven.captions) == ("a/000007.jpg", "000007", ("first", "second", "third"))
    assert three.captions == ()


def test_a_caption_of_an_unlisted_image_is_refused(tmp_path):
    file = write(tmp_path / "c.json", [{"id": 1, "file_name": "1.jpg"}], [{"id": 5, "image_id": 2, "caption": "dog"}])
    with pytest.raises(UserError, match="captions of 1 images that it does not list, the first is id 2"):
        read_captions(file)


def test_images_of_one_id_and_files_without_images_are_refused(tmp_path):
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}, {"id": 1, "file_name": "3.jpg"}]
    with pytest.raises(UserError, match=r"c\.json lists several images with the id 1: "):
        read_captions(write(tmp_path / "c.json", images, [{"id": 5, "image_id": 1, "caption": "dog"}]))
    with pytest.raises(UserError, match=r"c\.json lists no images"):
        read_captions(write(tmp_path / "c.json", [], []))


@pytest.mark.parametrize("content", ["no json", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": []}'])
def test_another_format_is_refused_by_name(tmp_path, content):
    file = tmp_path / "captions.json"
    file.write_text(content)
    with pytest.raises(UserError, match="captions.json is not in COCO's format"):
        read_captions(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="absent.json cannot be read"):
        read_captions(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot be read .*null"):
        read_captions("a\0b")


def test_real_captions_have_about_as_many_nouns_as_the_paper_counts(samples_dir):
    from maft.mining.captions import image_nouns

    images = read_captions(samples_dir / "coco_captions/annotations/captions_train2017.json")
    assert len(images) == 50 and all(len(image.captions) == 5 for image in images)
    one = sum(len(image_nouns(image.captions[:1])) for image in images) / len(images)
    five = sum(len(image_nouns(image.captions)) for image in images) / len(images)
    # The paper's tables have 442,117 and 1.3 M rows for 118,287 images.
    assert 3.3 < one < 4.1
    assert 10 < five < 12
