"""What runs the tests elsewhere names what exists: workflow, pre-commit hooks, Dockerfile, citation."""

import os
import re
import shlex
import subprocess

import yaml
from documentation.pages import ROOT, blocks
from documentation.running import check_shell
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_workflow_runs_the_repositorys_own_script_on_supported_pythons():
    workflow = read(".github/workflows/test.yml")
    # YAML 1.1 reads "on" as true.
    assert set(workflow[True]) == {"push", "pull_request"}
    (job,) = workflow["jobs"].values()
    supported = SpecifierSet(re.search(r'^requires-python = "(.*)"$', PROJECT, re.MULTILINE)[1])
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.10", "3.13"] and all(version in supported for version in versions)
    (script,) = [step["run"] for step in job["steps"] if step.get("run", "").startswith(".")]
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0


def test_pre_commit_hooks_are_tools_of_the_development_extra():
    extra = re.search(r"^dev = \[(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)[1]
    known = {Requirement(text).name for text in re.findall(r'"(.*)"', extra)}
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program = shlex.split(hook["entry"])[0]
        assert program.startswith(".venv/bin/") and program.rpartition("/")[2] in known


def test_commands_of_the_image_exist():
    text = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    commands = [line for line in re.findall(r"^(?:RUN|# docker run) (.*)$", text, re.MULTILINE) if "maft" in line]
    assert len(commands) >= 3
    for command in commands:
        for part in command.split("&&"):
            if " maft " in f" {part} ":
                line = part[part.index("maft ") :]
                (block,) = blocks("Dockerfile", f"<!-- not run: no docker -->\n```bash\n{line}\n```\n")
                check_shell(block)
    # Nobody's files are read or written as root.
    assert text.index("\nUSER user") < text.index("\nENTRYPOINT")


def test_the_citation_has_what_its_format_needs():
    citation = read("CITATION.cff")
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    assert re.search(rf'^license = .*"{citation["license"]}"', PROJECT, re.MULTILINE)
    assert len(citation["references"]) >= 3
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)
