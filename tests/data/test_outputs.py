"""Inputs are not replaced, under whatever name they are written to."""

from pathlib import Path

import pytest

from maft.data.outputs import check_outputs
from maft.errors import UserError


def test_inputs_are_found_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").touch()
    (tmp_path / "out").symlink_to(tmp_path / "in")
    (tmp_path / "in/link.png").symlink_to("a.png")
    inputs = [tmp_path / "in/a.png", "nowhere", "a\0b"]
    for output in ("in/a.png", "out/a.png", "out/../in/link.png"):
        with pytest.raises(UserError, match=r"would replace the input \S+in/a\.png: choose another --output"):
            check_outputs([tmp_path / "new.png", tmp_path / output], inputs, "--output")
    check_outputs([tmp_path / "new.png", tmp_path / "in/b.png"], inputs, "--output")
