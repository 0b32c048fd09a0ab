"""A config that came with a checkpoint is believed less than the user's own."""

import pytest

from maft.config import load_config
from maft.errors import UserError


@pytest.fixture
def foreign(tiny_configs, tmp_path):
    """Writes a config with some more lines."""

    def written(text):
        (tmp_path / "config.yaml").write_text(f"_BASE_: {tiny_configs / 'maft.yaml'}\n{text}\n")
        return tmp_path / "config.yaml"

    return written


def test_its_components_are_not_imported(foreign, tmp_path):
    (tmp_path / "part.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    file = foreign("IMPORTS: [part.py]")
    with pytest.raises(UserError, match=r"came with a checkpoint and asks to run part.py: if you trust that code"):
        load_config(file, trusted=False)
    (tmp_path / "module_of_a_stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="asks to run module_of_a_stranger"):
        load_config(foreign("IMPORTS: [module_of_a_stranger]"), trusted=False)
    assert not (tmp_path / "ran").exists()
    load_config(file, ["IMPORTS", "[part.py]"], trusted=False)
    assert (tmp_path / "ran").exists()


def test_its_folder_for_texts_is_not_written_to(foreign, caplog):
    file = foreign("MODEL: {VOCABULARY: {CACHE_DIR: /srv/cache}}")
    assert load_config(file, trusted=False).MODEL.VOCABULARY.CACHE_DIR == ""
    assert "its MODEL.VOCABULARY.CACHE_DIR /srv/cache is not used" in caplog.text
    own = ["MODEL.VOCABULARY.CACHE_DIR", "/tmp/own"]
    assert load_config(file, own, trusted=False).MODEL.VOCABULARY.CACHE_DIR == "/tmp/own"
    assert load_config(file).MODEL.VOCABULARY.CACHE_DIR == "/srv/cache"


@pytest.mark.parametrize("path", ["/srv/clip.pt", "~/clip.pt", "../clip.pt", "a/../../clip.pt"])
def test_the_places_elsewhere_that_it_names_are_said(foreign, caplog, path):
    file = foreign(f"MODEL: {{CLIP: {{PRETRAINED: {path}}}}}")
    load_config(file, trusted=False)
    assert f"names places elsewhere: MODEL.CLIP.PRETRAINED {path}" in caplog.text
    caplog.clear()
    load_config(file)
    assert "elsewhere" not in caplog.text


def test_an_override_of_a_group_does_not_drop_those_before_it():
    overrides = ["SOLVER.MAX_ITER", "1", "SOLVER", '{"BASE_LR": 1}']
    with pytest.raises(UserError, match="Override SOLVER replaces what another override sets below it"):
        load_config("configs/quickstart/maft.yaml", overrides)
    with pytest.raises(UserError, match="Override SOLVER.MAX_ITER: SOLVER is a value"):
        load_config("configs/quickstart/maft.yaml", overrides[2:] + overrides[:2])
