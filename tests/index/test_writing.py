"""An index is the same to the byte whoever wrote it and whatever happened to them, or it is refused with a sentence."""

import os
import shutil
import signal

import pytest

from maft.data.photos import PhotoMapper
from maft.engine.launch import Processes, launch
from maft.errors import UserError
from maft.index.making import Collection, index_settings, looked_for, make_index
from maft.index.reading import StoredIndex
from maft.index.writing import IndexWriter, writing_index
from maft.predictor import Predictor


def contents_of(folder):
    """Bytes of every file of an index, by its place in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def index_of(predictor, files, folder, **options):
    records = [{"file_name": file} for file in files]
    collection = Collection(records, PhotoMapper(predictor.cfg))
    return make_index(predictor.cfg, predictor.model, folder, collection, images_per_shard=3, **options)


def in_each_process(files, folder):
    index_of(Predictor.from_pretrained("miniature"), files, folder)


@pytest.fixture(scope="module")
def whole(predictor, scenes, tmp_path_factory):
    """The index of an uninterrupted run: four shards."""
    folder = tmp_path_factory.mktemp("whole") / "index"
    index_of(predictor, scenes, folder)
    return folder


def killed_while(block):
    """Runs a block in a copy of this process, which kills itself there."""
    if (child := os.fork()) == 0:
        try:
            block()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("image", [0, 4, 9])
def test_killed_while_it_looks_it_goes_on_to_the_same_bytes(predictor, scenes, whole, tmp_path, monkeypatch, image):
    read = PhotoMapper.__call__

    def deadly(self, record):
        return kill() if record["file_name"] == scenes[image] else read(self, record)

    monkeypatch.setattr(PhotoMapper, "__call__", deadly)
    assert killed_while(lambda: index_of(predictor, scenes, tmp_path / "index")) == signal.SIGKILL
    monkeypatch.undo()
    with pytest.raises(UserError, match="is not finished: run the same maft index command again"):
        StoredIndex(tmp_path / "index")
    assert len(list((tmp_path / "index").rglob("0*.safetensors"))) == image // 3
    index_of(predictor, scenes, tmp_path / "index")
    assert contents_of(tmp_path / "index") == contents_of(whole)


@pytest.mark.parametrize("file", ["00001.safetensors", "config.yaml", "text.safetensors", "index.json"])
def test_killed_while_it_writes_it_goes_on_to_the_same_bytes(predictor, scenes, whole, tmp_path, monkeypatch, file):
    replace = os.replace

    def deadly(source, target):
        return kill() if os.path.basename(target) == file else replace(source, target)

    monkeypatch.setattr(os, "replace", deadly)
    assert killed_while(lambda: index_of(predictor, scenes, tmp_path / "index")) == signal.SIGKILL
    monkeypatch.undo()
    index_of(predictor, scenes, tmp_path / "index")
    assert contents_of(tmp_path / "index") == contents_of(whole)


def test_a_whole_index_is_left_as_it_is(predictor, scenes, whole, monkeypatch):
    monkeypatch.setattr(PhotoMapper, "__call__", lambda self, record: pytest.fail("no image needs to be read"))
    before = contents_of(whole)
    assert index_of(predictor, scenes, whole).images == 10
    assert contents_of(whole) == before


def test_lost_shards_are_made_again(predictor, scenes, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "index")
    (folder / "shards/00001.safetensors").unlink()
    os.truncate(folder / "shards/00002.safetensors", 5000)
    index_of(predictor, scenes, folder)
    assert contents_of(folder) == contents_of(whole)


def test_photos_that_have_changed_are_looked_at_again(predictor, scenes, tmp_path, caplog):
    photos = [shutil.copy(scene, tmp_path / f"{place}.png") for place, scene in enumerate(scenes[:7])]
    files = [str(photo) for photo in photos]
    index_of(predictor, files, tmp_path / "index")
    before = contents_of(tmp_path / "index")
    shutil.copy(scenes[8], files[4])
    # What was seen of a photo outlives it.
    os.rename(files[6], tmp_path / "elsewhere.png")
    index_of(predictor, files, tmp_path / "index")
    assert f"{files[4]} has changed since it was indexed: it is looked at again" in caplog.text
    after = contents_of(tmp_path / "index")
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"shards/00001.safetensors", "index.json"}
    os.rename(tmp_path / "elsewhere.png", files[6])
    index_of(predictor, files, tmp_path / "again")
    assert after == contents_of(tmp_path / "again")


def test_a_name_that_is_no_utf8_is_said_before_anything_is_looked_at(predictor, scenes, tmp_path, monkeypatch):
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    shutil.copy(scenes[0], strange)
    monkeypatch.setattr(PhotoMapper, "__call__", lambda self, record: pytest.fail("nothing needs to be read"))
    with pytest.raises(UserError, match=r"The name of the file '.*\\udcff.png' is no UTF-8, .*: rename it"):
        index_of(predictor, [scenes[0], strange], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_two_processes_write_the_index_of_one(scenes, whole, tmp_path):
    launch(in_each_process, (scenes, tmp_path / "index"), Processes("cpu", per_machine=2))
    assert contents_of(tmp_path / "index") == contents_of(whole)


def test_where_a_model_ran_is_not_in_its_index(scenes, whole, tmp_path):
    changed = ["DATALOADER.NUM_WORKERS", "1", "TEST.RESUME", "True", "TEST.SAVE_INDEX", "True"]
    changed += ["OUTPUT_DIR", str(tmp_path / "run"), "MODEL.VOCABULARY.CACHE_DIR", str(tmp_path / "texts")]
    index_of(Predictor.from_pretrained("miniature", changed), scenes, tmp_path / "index")
    assert contents_of(tmp_path / "index") == contents_of(whole)


def test_processes_share_shards_and_leave_none_out(whole):
    settings = StoredIndex(whole).settings
    empty = [IndexWriter(whole / "nowhere", settings, rank, 3).pending for rank in range(3)]
    assert empty == [[0, 1, 2, 9], [3, 4, 5], [6, 7, 8]]


def test_unreadable_images_are_listed_and_left_out(predictor, scenes, tmp_path, caplog):
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"no picture")
    files = [scenes[0], str(bad), scenes[1], str(tmp_path / "missing.png")]
    contents = index_of(predictor, files, tmp_path / "index")
    assert [(one.position, one.file) for one in contents.unreadable] == [(1, files[1]), (3, files[3])]
    assert "broken.png" in caplog.text and "missing.png" in caplog.text
    index = StoredIndex(tmp_path / "index")
    assert len(index) == 2 and [index.image(place).file for place in range(2)] == [scenes[0], scenes[1]]
    assert index.contents == contents


def test_nothing_readable_is_an_error_that_can_be_mended(predictor, scenes, tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"None of the 1 images can be read, such as .*picture.png \(.*\): nothing was"):
        index_of(predictor, [str(file)], tmp_path / "index")
    shutil.copy(scenes[0], file)
    assert index_of(predictor, [str(file)], tmp_path / "index").images == 1


def test_no_image_at_all_is_an_error(predictor, tmp_path):
    with pytest.raises(UserError, match="There is no image to index"):
        index_of(predictor, [], tmp_path / "index")


def test_an_index_of_something_else_is_refused_by_what_differs(predictor, scenes, whole):
    with pytest.raises(UserError, match="is an index of other images .*: choose another folder, or delete it"):
        index_of(predictor, scenes[:9], whole)
    with pytest.raises(UserError, match="is an index of other images: choose"):
        index_of(predictor, scenes[::-1], whole)
    with pytest.raises(UserError, match=r"is an index of other masks \(--masks\) \(exact, not binary\)"):
        index_of(predictor, scenes, whole, masks="binary")
    other = Predictor.from_pretrained("miniature", ["INPUT.MIN_SIZE_TEST", "64"])
    with pytest.raises(UserError, match="is an index of another model"):
        index_of(other, scenes, whole)
    cfg, model = predictor.cfg, predictor.model
    records = [{"file_name": file} for file in scenes]
    settings = index_settings(cfg, model, records, looked_for(cfg, model, None), dataset="miniature_val")
    with pytest.raises(UserError, match=r"another dataset \(none, not miniature_val\)"), writing_index(whole, settings):
        pass


def test_a_folder_of_other_files_is_refused(predictor, scenes, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds thesis.tex, which is no part of an index: choose another folder"):
        index_of(predictor, scenes, tmp_path)


def test_an_index_in_use_is_refused(predictor, scenes, whole):
    with writing_index(whole, StoredIndex(whole).settings), pytest.raises(UserError, match="is in use by process"):
        index_of(predictor, scenes, whole)
