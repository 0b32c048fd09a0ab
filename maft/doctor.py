"""``maft doctor``: what is installed, what is missing or mismatched, and what a GPU would add.

The exit status is 1 when something required is missing or does not fit. Which packages are required, and from which
version on, is read from the project's own metadata (pyproject.toml), so there is no second list here.
"""

import contextlib
import importlib
import importlib.metadata as metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maft.errors import ToolParser, run_tool
from maft.installing import install_from_index, location

PROBLEMS = ("missing", "mismatch")
_IN_CHECKOUT = (Path(__file__).parent.parent / "pyproject.toml").is_file()
# An environment that uv made has no pip.
_PIP = "pip install" if importlib.util.find_spec("pip") else "uv pip install"
# What is installed already is not fetched anew: the two lines bring what is missing.
INSTALL = (
    "run `make install`, or `pip install -e .` in an environment of your own" if _IN_CHECKOUT else f"run `{_PIP} maft`"
)
EXTRA = "run `make install EXTRAS=dev,{}`" if _IN_CHECKOUT else f'run `{_PIP} "maft[{{}}]"`'
_MODULES = {"open_clip_torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml", "opencv-python-headless": "cv2"}
_OPTIONAL_EXTRAS = {
    "app": "the app in a browser",
    "cityscapes": "Cityscapes' average precision",
    "fiftyone": "predictions in FiftyOne",
    "mlflow": "MLflow's tracking",
    "sam": "SAM proposals",
    "slurm": "trainings submitted to SLURM from Python",
    "supervision": "predictions as supervision's detections",
    "towers": "SigLIP, CLIPA, multilingual CLIPs",
    "trackio": "trackio's tracking",
    "wandb": "Weights & Biases",
}
_LOW_DISK = 5 * 2**30


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        part: what was looked at.
        status: "ok", "missing" or "mismatch" (problems: exit status 1), "absent" (optional) or "warning".
        found: version or value.
        advice: what to do about it; never empty for a problem or a warning.
    """

    part: str
    status: str
    found: str
    advice: str = ""


def check_python(version: tuple[int, int, int] = sys.version_info[:3]) -> Check:
    found = f"{'.'.join(map(str, version))} ({sys.executable})"
    if (3, 10) <= version[:2] <= (3, 13):
        return Check("python", "ok", found)
    how = "delete .venv and run `make install PYTHON=...`" if _IN_CHECKOUT else "install maft in an environment of it"
    return Check("python", "mismatch", found, f"use Python 3.10 to 3.13: {how}")


def _requirement(line: str) -> Any:
    # Not at the top: the doctor has something to say where packaging is missing, too.
    from packaging.requirements import Requirement

    return Requirement(line)


def check_requirement(line: str, advice: str = INSTALL) -> Check:
    """Check one requirement as metadata writes it (``"timm<2,>=1.0.9"``): importable and of a fitting version?"""
    requirement = _requirement(line)
    name = requirement.name
    module_name = _MODULES.get(name, name.replace("-", "_"))
    try:
        module = _import(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            return Check(name, "missing", "-", advice)
        return Check(name, "mismatch", _one_line(error), advice)
    except Exception as error:  # a broken binary package may raise anything while it is imported
        return Check(name, "mismatch", _one_line(error), f"reinstall {name}: {advice}")
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        # The same module from another distribution, such as opencv-python, or from a checkout.
        version = vars(module).get("__version__", "")
    if version and not requirement.specifier.contains(version, prereleases=True):
        return Check(name, "mismatch", version, f"{requirement.specifier} is needed: {advice}")
    return Check(name, "ok", version or "of unknown version")


def check_optional(line: str, extras: Sequence[str]) -> Check:
    """Check a requirement of extras without importing it, which may take seconds."""
    requirement = _requirement(line)
    purposes = " and ".join(_OPTIONAL_EXTRAS[extra] for extra in extras)
    advice = f"for {purposes}: {EXTRA.format(','.join(extras))}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(requirement.name, "absent", "-", advice)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "warning", version, f"{requirement.specifier} is needed {advice}")
    return Check(requirement.name, "ok", version)


def check_packages() -> list[Check]:
    """Every dependency of the project, required ones first."""
    try:
        requirements = [_requirement(line) for line in metadata.requires("maft") or []]
    except ModuleNotFoundError as error:
        return [Check(str(error.name).split(".")[0], "missing", "-", f"it is not installed in this Python: {INSTALL}")]
    required, optional = [], dict[str, list[str]]()
    for requirement in requirements:
        marker, requirement.marker = requirement.marker, None
        if marker is None or marker.evaluate({"extra": ""}):
            required.append(check_requirement(str(requirement)))
            continue
        extras = [extra for extra in _OPTIONAL_EXTRAS if marker.evaluate({"extra": extra})]
        if extras:
            # Each extra that wants it has a line of its own in the metadata.
            optional[str(requirement)] = [*optional.get(str(requirement), []), *extras]
    return required + [check_optional(line, extras) for line, extras in optional.items()]


def check_torchvision_fits_torch() -> Check:
    """torchvision's compiled operators must have been built for this torch: metadata names it, and one is run."""
    part, advice = "torchvision for torch", "install the two together: `pip install --upgrade torch torchvision`"
    try:
        torch_version = metadata.version("torch")
        requirements = [_requirement(line) for line in metadata.requires("torchvision") or []]
    except metadata.PackageNotFoundError as error:
        return Check(part, "missing", f"no {error.name}", INSTALL)
    for requirement in requirements:
        if requirement.name == "torch" and not requirement.specifier.contains(torch_version, prereleases=True):
            return Check(part, "mismatch", f"torch {torch_version}, but torchvision wants {requirement}", advice)
    try:
        torch, operators = _import("torch"), _import("torchvision.ops")
        operators.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:
        return Check(part, "mismatch", _one_line(error), advice)
    return Check(part, "ok", f"its compiled operators run with torch {torch_version}")


def check_detectron2() -> Check:
    advice = "run `maft doctor --fix`"
    try:
        detectron2 = _import("detectron2")
        _import("detectron2.engine")
    except ModuleNotFoundError as error:
        if error.name == "detectron2":
            return Check("detectron2", "missing", "-", advice)
        return Check("detectron2", "mismatch", _one_line(error), INSTALL)
    except Exception as error:
        return Check("detectron2", "mismatch", _one_line(error), f"remove it and {advice}")
    return Check("detectron2", "ok", f"{detectron2.__version__}, {_detectron2_source(detectron2.__file__)}")


def _detectron2_source(file: str) -> str:
    """Where the imported copy comes from: its distribution if one owns it, and its folder."""
    folder = Path(file).parent
    owners = metadata.packages_distributions().get("detectron2", [])
    if "sal-detectron2" in owners:
        return f"the index's sal-detectron2 ({folder})"
    return f"{'upstream' if owners else 'a checkout on the path'} ({folder})"


def check_gpu() -> Check:
    """What torch can compute on; a machine without a GPU is fine."""
    try:
        torch = _import("torch")
    except Exception as error:
        return Check("gpu", "missing", f"torch: {_one_line(error)}", INSTALL)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Check("gpu", "ok", f"{names} (CUDA {torch.version.cuda})")
    if shutil.which("nvidia-smi"):
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU-only build"
        advice = "compare with the driver's CUDA version in `nvidia-smi`: update the driver, or install a fitting torch"
        return Check("gpu", "warning", f"nvidia-smi is here, but torch ({build}) sees no GPU", advice)
    gain = "quickstart needs none; a CUDA GPU makes paper-scale training practical, with autocast and torch.compile"
    return Check("gpu", "absent", f"none, computing on {os.cpu_count()} CPU cores", gain)


def check_disk(part: str, folder: Path, variable: str) -> Check:
    """Can ``folder``, where weights are cached, be written to, and is there room?"""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    move = f"set {variable} to a folder with room"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check(part, "warning", f"{folder}: {error.strerror}", f"downloads cannot be kept: {move}")
    found = f"{folder}, {free / 2**30:.0f} GiB free"
    if free < _LOW_DISK:
        return Check(part, "warning", found, f"CLIP ViT-L weights alone take 2 GiB: free some space or {move}")
    return Check(part, "ok", found)


def check_caches() -> list[Check]:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    hub = Path(os.environ.get("HF_HOME", cache / "huggingface"))
    checks = [check_disk("Hugging Face cache", hub, "HF_HOME")]
    with contextlib.suppress(ImportError):  # The package that is missing has a line of its own.
        from maft.downloads import cache_folder

        checks.append(check_disk("cache of released models", cache_folder(), "MAFT_CACHE"))
    return checks


def check_datasets() -> Check:
    part = "DETECTRON2_DATASETS"
    value = os.environ.get("DETECTRON2_DATASETS")
    if value is None:
        advice = "quickstart draws its own data; `maft prepare --help` lists the benchmarks"
        return Check(part, "absent", f"not set: {Path('datasets').absolute()} is used", advice)
    folder = Path(value).expanduser()
    if not folder.is_dir():
        return Check(part, "warning", f"{value} is not a folder", "create it or correct the variable")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return Check(part, "ok", f"{value}: {', '.join(names) or 'no datasets yet'}")


def _import(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def examine() -> list[Check]:
    """Every check, in the order of the table."""
    checks = [check_python(), *check_packages()]
    if importlib.util.find_spec("packaging"):
        checks.append(check_torchvision_fits_torch())
    return [*checks, check_detectron2(), check_gpu(), *check_caches(), check_datasets()]


def format_table(checks: list[Check]) -> str:
    """The table as text: one line a check, and under a line that is not "ok" what to do."""
    width = max(len(check.part) for check in checks)
    lines = []
    for check in checks:
        status = check.status.upper() if check.status in PROBLEMS else check.status
        lines.append(f"{check.part:<{width}}  {status:<8}  {check.found}")
        if check.advice:
            lines.append(f"{'':<{width}}            -> {check.advice}")
    return "\n".join(lines)


def parser() -> ToolParser:
    tool = ToolParser(
        prog="maft doctor", description="What is installed, missing or mismatched; status 1 if anything is."
    )
    tool.add_argument("--fix", action="store_true", help="install Detectron2 unless it is there")
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    if parser().parse_args(argv).fix and not location():
        install_from_index()
    checks = examine()
    print(f"on {platform.platform()}")
    print(format_table(checks))
    problems = [check.part for check in checks if check.status in PROBLEMS]
    print(f"\n{len(problems)} problem(s): {', '.join(problems)}" if problems else "\nall that is required is here")
    return 1 if problems else 0


if __name__ == "__main__":
    run_tool(main)
