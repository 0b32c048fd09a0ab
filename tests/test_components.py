"""The list of components, in the terminal and in the documentation."""

import subprocess
import sys
from pathlib import Path

from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "components.md"


def listed(*arguments):
    return subprocess.run([sys.executable, "-m", "maft.components", *arguments], capture_output=True, text=True)


def test_the_page_is_what_the_command_prints():
    text = listed("--markdown").stdout
    assert PAGE.read_text(encoding="utf-8") == text, f"python -m maft.components --markdown > {PAGE}"
    for registry in (PROPOSERS, CLASSIFIERS, LOSSES, ENSEMBLES):
        assert all(f"### {name}\n" in text for name in registry)


def test_one_component_and_its_options():
    text = listed("IPCLIP").stdout
    assert "MODEL.CLASSIFIER.NAME: IPCLIP - Image-proposal CLIP" in text and "MaskAdapter" not in text
    assert "    MASK_THRESHOLD (a number of at least 0 and at most 1, default 0.5): a patch belongs to" in text


def test_a_misspelt_name_lists_the_known_ones():
    done = listed("IPCLOP")
    assert done.returncode == 1 and "there is no component 'IPCLOP'" in done.stderr
    assert "Did you mean IPCLIP?" in done.stderr
    assert "Traceback" not in done.stderr


def test_components_from_outside_are_listed_too(tmp_path):
    (tmp_path / "mine.py").write_text(
        '"""Mine."""\nfrom maft.interfaces import Loss\nfrom maft.registry import LOSSES\n\n\n'
        '@LOSSES.register()\nclass MyLoss(Loss):\n    """Nothing but a name."""\n'
    )
    assert (
        "MODEL.LOSSES: MyLoss - Nothing but a name." in listed("MyLoss", "--imports", str(tmp_path / "mine.py")).stdout
    )
