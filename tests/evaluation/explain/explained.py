"""A real explanation: drawn scenes, the shipped model, and the commands of the documentation."""

import pytest

from maft.cli import run
from maft.miniature.dataset import materialise


def explained(folder, count):
    """Indexes and explains the first scenes of the miniature world's validation set; the folder of the explanation."""
    materialise(folder / "miniature", "val", count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        index = str(folder / "miniature.index")
        run(["index", "--dataset", "miniature_val", "--model", "miniature", "--output", index])
        run(["explain", index, "--worst", "12"])
    return folder / "miniature.index" / "explanation"
