import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maft import doctor
from maft.doctor import Check

ROOT = Path(doctor.__file__).parent.parent


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a module and its distribution metadata on the path, as an installer would."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(name, version=None, module="", requires=()):
        if module is not None:
            (tmp_path / f"{name}.py").write_text(module)
        if version:
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires), ""]))
        importlib.invalidate_caches()

    yield add
    for name in [name for name in sys.modules if name.startswith("doctors_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 9, 18), "mismatch"), ((3, 10, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "mismatch")],
)
def test_python_versions(version, status):
    assert doctor.check_python(version).status == status


def test_a_fitting_package_is_ok(install):
    install("doctors_bag", "1.5")
    assert doctor.check_requirement("doctors_bag>=1,<2") == Check("doctors_bag", "ok", "1.5")


def test_a_missing_package(install):
    check = doctor.check_requirement("doctors_coat>=1", advice="run it")
    assert check == Check("doctors_coat", "missing", "-", "run it")


def test_a_package_of_the_wrong_version(install):
    install("doctors_bag", "2.1")
    check = doctor.check_requirement("doctors_bag>=1,<2")
    assert (check.status, check.found) == ("mismatch", "2.1")
    assert "<2,>=1" in check.advice


def test_a_package_that_lacks_its_own_dependency(install):
    install("doctors_bag", "1.0", module="import doctors_pills")
    check = doctor.check_requirement("doctors_bag")
    assert check.status == "mismatch"
    assert "doctors_pills" in check.found


def test_a_package_whose_library_does_not_load(install):
    install("doctors_bag", "1.0", module="raise OSError('libGL.so.1:\\n cannot open')")
    check = doctor.check_requirement("doctors_bag")
    assert check.status == "mismatch"
    assert check.found == "OSError: libGL.so.1: cannot open"


def test_the_module_may_come_from_another_distribution(install):
    install("doctors_bag", module="__version__ = '0.9'")
    assert doctor.check_requirement("doctors_bag").found == "0.9"
    assert doctor.check_requirement("doctors_bag>=1").status == "mismatch"


def test_optional_packages_are_never_problems(install):
    absent = doctor.check_optional("doctors_coat>=1", ["app"])
    assert absent.status == "absent"
    assert "EXTRAS=dev,app" in absent.advice
    install("doctors_bag", "0.1", module=None)
    assert doctor.check_optional("doctors_bag>=1", ["app"]).status == "warning"


@pytest.mark.parametrize("torch_version", ["2.8.0", "2.9.1", "2.9.1+cpu"])
def test_torchvision_must_be_built_for_this_torch(install, torch_version):
    install("torch", torch_version, module=None)
    install("torchvision", "0.24.0", module=None, requires=["numpy", "torch==2.9.0"])
    check = doctor.check_torchvision_fits_torch()
    assert check.status == "mismatch"
    assert torch_version in check.found
    assert "torch==2.9.0" in check.found


def test_a_local_build_of_the_right_torch_fits(install):
    install("torch", "2.9.0+cpu", module=None)
    install("torchvision", "0.24.0", module=None, requires=["torch==2.9.0"])
    assert doctor.check_torchvision_fits_torch().status == "ok"


def test_an_operator_that_does_not_run_is_a_mismatch(monkeypatch):
    def nms(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("torchvision.ops.nms", nms)
    check = doctor.check_torchvision_fits_torch()
    assert check.status == "mismatch"
    assert "nms does not exist" in check.found


def test_requirements_come_from_the_projects_metadata(install):
    requires = ["doctors_bag>=1", 'doctors_old; python_version < "3"', 'doctors_app>=2; extra == "app"']
    requires += ['doctors_linter; extra == "dev"']
    install("maft", "0", module=None, requires=requires)
    install("doctors_bag", "1.0")
    parts = {check.part: check.status for check in doctor.check_packages()}
    assert parts == {"doctors_bag": "ok", "doctors_app": "absent"}


def test_what_two_extras_share_is_one_line_for_both(install):
    requires = [f'doctors_text>=2; extra == "{extra}"' for extra in ("sam", "towers")]
    requires += ['doctors_map; extra == "towers"']
    install("maft", "0", module=None, requires=requires)
    text, words = doctor.check_packages()
    assert (text.part, text.status, words.part) == ("doctors_text", "absent", "doctors_map")
    assert "SAM" in text.advice and "SigLIP" in text.advice and "EXTRAS=dev,sam,towers" in text.advice
    assert words.advice.endswith("EXTRAS=dev,towers`")


def test_detectron2_and_where_it_comes_from():
    check = doctor.check_detectron2()
    assert check.status == "ok", check
    import detectron2

    assert check.found.startswith(detectron2.__version__)
    assert str(Path(detectron2.__file__).parent) in check.found


def test_disk(tmp_path):
    check = doctor.check_disk("cache", tmp_path / "not" / "yet", "SOME_CACHE")
    assert check.status in ("ok", "warning")
    assert "GiB free" in check.found
    assert not (tmp_path / "not").exists()


def test_little_disk_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_LOW_DISK", 2**80)
    check = doctor.check_disk("cache", tmp_path, "SOME_CACHE")
    assert check.status == "warning"
    assert "SOME_CACHE" in check.advice


def test_the_caches_are_where_downloads_go(monkeypatch):
    monkeypatch.setenv("HF_HOME", "/somewhere/hub")
    monkeypatch.setenv("MAFT_CACHE", "/somewhere/released")
    hub, released = doctor.check_caches()
    assert hub.found.startswith("/somewhere/hub, ") and released.found.startswith("/somewhere/released, ")
    monkeypatch.setattr(doctor, "_LOW_DISK", 2**80)
    assert "set MAFT_CACHE to" in doctor.check_caches()[1].advice


def test_datasets_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert doctor.check_datasets().status == "absent"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    assert doctor.check_datasets().status == "warning"
    (tmp_path / "coco").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert doctor.check_datasets() == Check("DETECTRON2_DATASETS", "ok", f"{tmp_path}: coco")


def test_the_table_says_what_to_do_under_each_problem():
    table = doctor.format_table([Check("torch", "ok", "2.9"), Check("timm", "missing", "-", "install it")])
    lines = table.splitlines()
    assert lines[0].split() == ["torch", "ok", "2.9"]
    assert lines[1].split() == ["timm", "MISSING", "-"]
    assert lines[2].strip() == "-> install it"


def run_doctor_without(*modules, arguments=()):
    """Run the doctor in a Python where importing ``modules`` fails as if they were not installed."""
    code = f"""
import sys, runpy
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["doctor", *{list(arguments)!r}]
runpy.run_module("maft.doctor", run_name="__main__")
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_without_detectron2_the_doctor_still_speaks():
    result = run_doctor_without("detectron2")
    assert "Traceback" not in result.stderr
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith("detectron2 "))
    assert "MISSING" in lines[index]
    assert "run `maft doctor --fix`" in lines[index + 1]
    assert "detectron2" in lines[-1]


def test_without_torch_the_doctor_still_speaks():
    result = run_doctor_without("torch")
    assert "Traceback" not in result.stderr
    assert result.returncode == 1
    assert "problem(s)" in result.stdout.splitlines()[-1]


def test_without_the_packages_of_downloads_the_doctor_still_speaks():
    result = run_doctor_without("filelock")
    assert "Traceback" not in result.stderr
    assert "filelock" in result.stdout.splitlines()[-1]


def test_an_unknown_argument_is_a_user_error():
    result = run_doctor_without(arguments=["--mend"])
    assert result.returncode == 1
    assert result.stderr.startswith("error: unrecognized arguments: --mend")


def test_nothing_is_installed_over_a_detectron2_that_is_there(monkeypatch):
    monkeypatch.setattr(doctor, "install_from_index", lambda: pytest.fail("installed"))
    monkeypatch.setattr(doctor, "examine", lambda: [Check("torch", "ok", "2.9")])
    assert doctor.main(["--fix"]) == 0


def test_what_to_do_fits_a_checkout_and_an_installed_wheel(tmp_path):
    """The same file says something else where no repository is around it."""
    code = "import maft.doctor as d; print(d.INSTALL, d.EXTRA.format('app'), d.check_python((3, 9, 1)).advice)"
    shutil.copytree(Path(doctor.__file__).parent, tmp_path / "maft", ignore=shutil.ignore_patterns("*.safetensors"))
    command = [sys.executable, "-c", code]
    said = {
        place: subprocess.run(command, cwd=place, capture_output=True, text=True).stdout for place in (ROOT, tmp_path)
    }
    assert "make install EXTRAS=dev,app" in said[ROOT] and ".venv" in said[ROOT]
    assert "make" not in said[tmp_path] and ".venv" not in said[tmp_path]
    assert "run `pip install maft`" in said[tmp_path] and 'pip install "maft[app]"' in said[tmp_path]
