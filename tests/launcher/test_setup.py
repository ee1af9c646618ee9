"""What set-up checks before it installs, and what it calls done."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from local.launcher import LauncherError, environments, layout

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> environments.VirtualEnvironment:
    """An environment of the test's own, not made yet."""
    monkeypatch.setattr(layout, "REPOSITORY", tmp_path)
    lock = tmp_path / "requirements.lock"
    lock.write_text("six==1.17.0\n")
    return environments.VirtualEnvironment("Test", tmp_path / "venv", lock)


@pytest.mark.parametrize("version", [(3, 10), (3, 13), (2, 7)])
def test_another_python_is_refused_in_one_line(version: tuple[int, int]) -> None:
    with pytest.raises(LauncherError, match=rf"3\.11 or 3\.12, this is {version[0]}\.{version[1]}") as refused:
        environments.check_python(version)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("version", environments.SUPPORTED)
def test_both_supported_pythons_are_taken(version: tuple[int, int]) -> None:
    environments.check_python(version)


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**10, 9 * 10**9, 10**9))
    with pytest.raises(LauncherError, match=r"1\.0 GB of free disk space, set-up needs 4 GB"):
        environments.check_machine()


def test_a_python_without_ensurepip_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LauncherError, match=r"no ensurepip.*-venv"):
        environments.check_machine()


def test_environments_in_use_are_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "RUN", tmp_path)
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "scheduler.json").write_text("{}")
    with pytest.raises(LauncherError, match="make down first"):
        environments.check_machine()


def test_only_a_finished_environment_of_this_lock_is_ready(environment: environments.VirtualEnvironment) -> None:
    environment.folder.mkdir()
    assert not environment.ready()
    environment.marker.write_text(environment.wanted)
    assert environment.ready()
    environment.lock.write_text("six==1.16.0\n")
    assert not environment.ready()


def test_a_failed_installation_is_not_ready_and_says_where_the_log_is(
    environment: environments.VirtualEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, *arguments: str) -> None:
        environments.run([sys.executable, "-c", "raise SystemExit('no such package')"], "Installing six")

    monkeypatch.setattr(environments, "LOG", environment.lock.with_name("setup.log"))
    monkeypatch.setattr(environments, "_install", refuse)
    with pytest.raises(LauncherError, match=r"Installing six failed: no such package \(all of it: .*setup\.log\)"):
        environment.create()
    assert not environment.ready()


@pytest.mark.parametrize(
    ("modules", "installed"),
    [
        pytest.param(["pure.py"], ["pure.py"], id="pure Python is the same everywhere"),
        pytest.param(
            ["pure.py", "_core.{}.so"],
            ["_core.local.so", "_core.manylinux2014_aarch64.so", "_core.manylinux2014_x86_64.so", "pure.py"],
            id="compiled modules of all platforms lie side by side",
        ),
    ],
)
def test_a_layer_holds_the_wheels_of_lambda_and_of_this_machine(
    modules: list[str], installed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def pip(folder: Path, *arguments: str) -> None:
        wheels = Path(arguments[arguments.index("--target") + 1])
        tag = arguments[arguments.index("--platform") + 1] if "--platform" in arguments else "local"
        calls.append(tag)
        wheels.mkdir(parents=True)
        for module in modules:
            (wheels / module.format(tag)).write_text("")

    layer = tmp_path / "some-layer"
    layer.mkdir()
    requirements = layer / "requirements.txt"
    requirements.write_text("some==1\n")
    monkeypatch.setattr(layout, "HOME", tmp_path / "home")
    monkeypatch.setattr(environments, "make_installer", lambda: None)
    monkeypatch.setattr(environments, "_pip", pip)

    environments._ensure_layer(requirements)
    environments._ensure_layer(requirements)

    assert sorted(path.name for path in (layer / "python").iterdir()) == installed
    assert len(calls) == len([name for name in installed if name.endswith(".so")] or installed)

    (layer / "python" / "old.py").write_text("")
    requirements.write_text("some==2\n")
    environments._ensure_layer(requirements)
    assert sorted(path.name for path in (layer / "python").iterdir()) == installed


def test_functions_are_tested_with_the_versions_of_their_layer() -> None:
    pins = (layout.REPOSITORY / "include/layers/powertools/requirements.txt").read_text()
    wanted = dict(line.split("==") for line in pins.splitlines() if not line.startswith("#"))
    assert {name: metadata.version(name) for name in wanted} == wanted


def test_make_with_a_python_too_old_prints_one_line(tmp_path: Path) -> None:
    """The launcher has to say so itself: an old interpreter could stumble over its syntax first."""
    old = tmp_path / "sitecustomize.py"
    old.write_text("import sys\nsys.version_info = (3, 10, 0, 'final', 0)\n")
    done = subprocess.run(
        [sys.executable, "-m", "local.launcher", "setup"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Atlas needs Python 3.11 or 3.12, this is 3.10" in done.stderr
