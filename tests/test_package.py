"""The wheel and the source distribution hold what the tree holds, and an index takes them."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution of this tree, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    # Out of a copy, so that nothing is written into the tree; what a build left there would be packed.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(copy_of_the_tree(folder))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return folder


def copy_of_the_tree(folder):
    copy = folder / "tree"
    for name in kept(ROOT):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(ROOT / name)
    return copy


@cache
def kept(root):
    """Files of the repository: those that git would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=root, capture_output=True
    )
    if listed.returncode:
        pytest.skip("the files of the repository are those that git knows")
    return sorted(name for name in listed.stdout.decode().split("\0") if name and (root / name).is_file())


@pytest.fixture(scope="module")
def wheel(built):
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel):
    packed = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    package = {name for name in kept(ROOT) if name.startswith("maft/")}
    configs = {f"maft/{name}" for name in kept(ROOT) if name.startswith("configs/")}
    assert len(configs) > 100
    assert packed == package | configs


def test_the_source_distribution_holds_the_repository(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert set(kept(ROOT)) <= packed


def test_metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "maft" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The maft authors" and metadata["Keywords"]
    assert any("Python :: 3.13" in line for line in metadata.get_all("Classifier"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    # A relative link leads nowhere on an index.
    links = re.findall(r"\]\(([^)]*)\)", metadata.get_payload())
    assert not [link for link in links if not link.startswith("https://")]
    (entries,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert "maft = maft.cli:main" in wheel.read(entries).decode()


def test_an_index_takes_both(built):
    files = [str(file) for pattern in ("*.whl", "*.tar.gz") for file in built.glob(pattern)]
    result = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("PASSED") == 2
