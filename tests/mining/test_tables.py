"""Ready tables of pairs become ours, and a bad row is named."""

from pathlib import Path

import pytest
from PIL import Image

from maft.data.pairs import read_pairs
from maft.errors import UserError
from maft.mining.tables import import_table


@pytest.fixture
def regions(tmp_path):
    root = tmp_path / "regions"
    for name in ("a/1.png", "a/2.jpg", "3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_a_table_with_tabs_is_read_back_as_pairs(regions, table):
    source = table("filepath\ttitle\na/1.png\tfire hydrant\na/2.jpg\tsky\n3.png\t cat\n3.png\tdog\n")
    assert len(import_table(source, regions)) == 4
    found = [(record["file_name"], record["title"]) for record in read_pairs(regions / "pairs.tsv")]
    assert found == [
        (str(regions / "a/1.png"), "fire hydrant"),
        (str(regions / "a/2.jpg"), "sky"),
        (str(regions / "3.png"), "cat"),
        (str(regions / "3.png"), "dog"),
    ]


def test_commas_quotes_further_columns_and_paths_of_another_machine(regions, table):
    source = table('\ufeff,title,filepath\n0,"cup, mug",/home/me/data/a/1.png\n1,sky,/home/me/data/3.png\n')
    pairs = import_table(source, regions, prefix="/home/me/data")
    assert [(pair.filepath, pair.title, pair.image) for pair in pairs] == [
        ("a/1.png", "cup, mug", "1"),
        ("3.png", "sky", "3"),
    ]
    assert len(read_pairs(regions / "pairs.tsv")) == 2


def test_absolute_paths_below_the_folder_need_no_prefix(regions, table):
    (pair,) = import_table(table(f"filepath\ttitle\n{regions}/a/1.png\tcat\n"), regions)
    assert pair.filepath == "a/1.png"


@pytest.mark.parametrize(
    "rows, sentence",
    [
        ("a/1.png\tcat\na/9.png\tdog\n", "1 of 2 rows .*line 3: the region .*a/9.png is missing"),
        ("../1.png\tcat\n", "line 2: .* does not lie below"),
        ("/etc/passwd\tcat\n", "line 2: .* does not lie below"),
        ("a/1.png\t \n", "line 2: a row needs a filepath and a title"),
        ("a/1.png\t\u200b,\n", "line 2: a row needs a filepath and a title"),
        ("a/1.png\n", "line 2: it has 1 fields, the header has 2"),
        ('a/1.png\t"cat\ndog"\n', "line 3: it has 1 fields, the header has 2"),
        ("x\tcat\n" * 5, "5 of 5 rows .*line 2: .*; line 3: .*; line 4: [^;]*$"),
        ("", "holds no pair"),
    ],
)
def test_bad_rows_of_tabs_are_named_and_nothing_is_written(regions, table, rows, sentence):
    with pytest.raises(UserError, match=sentence):
        import_table(table("filepath\ttitle\n" + rows), regions)
    assert not (regions / "pairs.tsv").exists()


@pytest.mark.parametrize(
    "rows, sentence",
    [
        (
            "3.png,dog, big dog\n",
            r"table.csv .*line 2: it has 3 fields, the header has 2: where commas separate, .*in double quotes",
        ),
        ('3.png,"cat\ndog"\n', "line 3: the title .* is not one line"),
        ('"a\tb.png",dog\n', r"line 2: the file name 'a.*tb.png' is not one line without tabs"),
        ('"a\nb.png",dog\n', r"line 3: the file name 'a.*nb.png' is not one line without tabs"),
        ('3.png,cat\n3.png,"dog" toy\n', "cannot be read .*line 3: .* expected after"),
    ],
)
def test_bad_rows_of_commas_are_named(regions, table, rows, sentence):
    for name in ("a\tb.png", "a\nb.png"):
        (regions / name).touch()
    with pytest.raises(UserError, match=sentence):
        import_table(table("filepath,title\n" + rows), regions)
    assert not (regions / "pairs.tsv").exists()


def test_quotes_between_tabs_are_part_of_the_title(regions, table):
    import_table(table('filepath\ttitle\n3.png\t"dog" toy\n'), regions)
    assert [record["title"] for record in read_pairs(regions / "pairs.tsv")] == ['"dog" toy']


@pytest.mark.parametrize(
    "folder, named",
    [
        ("regions", "regions"),
        ("regions/../regions", "regions"),
        ("link", "regions"),
        ("link/a/..", "regions"),
        ("link", "link"),
    ],
)
def test_absolute_paths_whatever_way_the_folder_is_given(regions, table, tmp_path, monkeypatch, folder, named):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("regions")
    (pair,) = import_table(table(f"filepath,title\n{tmp_path / named}/a/1.png,cat\n"), Path(folder))
    assert pair.filepath == "a/1.png"


def test_a_missing_folder_is_named(table, tmp_path):
    with pytest.raises(UserError, match="Folder of regions .*nowhere does not exist"):
        import_table(table("filepath,title\n1.png,cat\n"), tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            "filepath;title\n3.png;dog\n",
            "columns filepath;title and needs .* by tabs or commas: convert its semicolons",
        ),
        ("file,name\n", "has columns file, name and needs"),
        ("", "columns none"),
        (
            "filepath,title,title\na/1.png,cat,dog\n",
            "columns filepath, title, title and needs one filepath and one title",
        ),
    ],
)
def test_other_columns_are_refused(regions, table, text, sentence):
    with pytest.raises(UserError, match=sentence):
        import_table(table(text), regions)


def test_unreadable_tables_and_a_table_in_the_way(regions, table, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        import_table(tmp_path / "none.csv", regions)
    with pytest.raises(UserError, match="cannot be read"):
        import_table(Path("a\0b"), regions)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00filepath")
    with pytest.raises(UserError, match="cannot be read"):
        import_table(tmp_path / "binary.csv", regions)
    (regions / "pairs.tsv").touch()
    with pytest.raises(UserError, match="exists: remove it"):
        import_table(table("filepath\ttitle\na/1.png\tcat\n"), regions)
