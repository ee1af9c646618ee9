"""The package for Amazon MWAA: the same bytes for the same sources, refused where MWAA would refuse it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from atlas.packaging import digest
from deploy import check, package
from local.launcher import LauncherError, environments, layout, lock

pytestmark = pytest.mark.skipif(
    not lock.IMAGE.is_file(), reason=f"what the MWAA image has is not part of the repository: {lock.MWAA}"
)
CONSTRAINT = (
    f'--constraint "https://example.com/constraints-{lock.AIRFLOW_VERSION}/constraints-{lock.PYTHON_VERSION}.txt"\n'
)
TEMPLATE = """
Globals: {Function: {Layers: [!Ref Driver]}}
Resources:
  Driver: {Type: AWS::Serverless::LayerVersion, Properties: {ContentUri: ../layers/driver}}
  Load: {Type: AWS::Serverless::Function, Properties: {CodeUri: ../lambdas/s00_small}}
"""
FILES = {
    "dags/s00_small.py": "",
    "include/layers/driver/requirements.txt": "driver==1\n",
    "include/lambdas/s00_small/load.py": "",
    "include/templates/s00_small.yaml": TEMPLATE,
    "plugins/.airflowignore": "atlas/\n",
    "plugins/atlas/paths.py": "",
    "requirements.txt": f"{CONSTRAINT}altair==6.3.0\n",
}
LITTER = (
    "dags/__pycache__/s00_small.cpython-312.pyc",
    "dags/.s00_small.py.swp",
    "include/layers/driver/python/driver/of_this_machine.so",
    "plugins/atlas/.env",
)


@pytest.fixture(name="repository")
def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository, with a layer that needs no package index."""

    def fill(requirements: Path, folder: Path, wheels: Sequence[Sequence[str]]) -> None:
        (folder / "driver").mkdir(parents=True)
        for options in wheels:
            platform = options[options.index("--platform") + 1]
            (folder / "driver" / f"core.{platform}.so").write_text(requirements.read_text())

    monkeypatch.setattr(environments, "fill_layer", fill)
    for name, text in FILES.items():
        file = tmp_path / "repository" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "repository"


def contents(folder: Path) -> dict[str, bytes]:
    """Return a folder's files by path."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_is_laid_out_as_mwaa_wants_it(repository: Path, tmp_path: Path) -> None:
    for name in LITTER:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("none of the package's business")

    package.build(repository, tmp_path / "dist")

    found = contents(tmp_path / "dist")
    assert sorted(found) == [
        "dags/.airflowignore",
        "dags/include/lambdas/s00_small/load.py",
        "dags/include/layers/driver/python/driver/core.manylinux2014_aarch64.so",
        "dags/include/layers/driver/python/driver/core.manylinux2014_x86_64.so",
        "dags/include/layers/driver/requirements.txt",
        "dags/include/templates/s00_small.yaml",
        "dags/s00_small.py",
        "manifest.json",
        "plugins.zip",
        "requirements.txt",
    ]
    assert "include/" in found["dags/.airflowignore"].decode().splitlines()
    with zipfile.ZipFile(tmp_path / "dist" / "plugins.zip") as plugins:
        assert plugins.namelist() == [".airflowignore", "atlas/paths.py"]


def test_the_manifest_has_the_digest_of_every_file(repository: Path, tmp_path: Path) -> None:
    package.build(repository, tmp_path / "dist")

    found = contents(tmp_path / "dist")
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest["airflow"] == lock.AIRFLOW_VERSION
    assert manifest["files"] == {name: {"sha256": digest(data), "bytes": len(data)} for name, data in found.items()}


def test_the_same_sources_make_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    package.build(repository, tmp_path / "dist")
    first = contents(tmp_path / "dist")
    copy = tmp_path / "elsewhere" / "clone"
    for name in sorted(FILES, reverse=True):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(FILES[name])
        (copy / name).chmod(0o600)
        os.utime(copy / name, (1, 1))
    (tmp_path / "dist" / "left_over.py").touch()

    package.build(copy, tmp_path / "dist")

    assert contents(tmp_path / "dist") == first


def test_a_changed_source_changes_its_digest_only(repository: Path, tmp_path: Path) -> None:
    package.build(repository, tmp_path / "one")
    (repository / "plugins" / "atlas" / "paths.py").write_text("CHANGED = 1\n")
    package.build(repository, tmp_path / "two")

    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {name for name in one if one[name] != two[name]} == {"plugins.zip", "manifest.json"}


def test_without_a_package_index_the_wheels_are_among_the_plugins(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = next(iter(lock.pins(lock.IMAGE.read_text()).items()))

    def download(packages: Sequence[str], _constraints: Path, folder: Path, _wheels: Sequence[str]) -> None:
        for wanted in (*packages, "{}=={}".format(*image)):
            (folder / f"{wanted.replace('-', '_').replace('==', '-')}-py3-none-any.whl").touch()

    monkeypatch.setattr(environments, "download", download)

    package.build(repository, tmp_path / "dist", offline=True)

    constraints = f"constraints-{lock.AIRFLOW_VERSION}/constraints-{lock.PYTHON_VERSION}.txt"
    assert (tmp_path / "dist" / "requirements.txt").read_text().splitlines() == [
        f'--constraint "/usr/local/airflow/plugins/{constraints}"',
        "--no-index",
        "--find-links /usr/local/airflow/plugins",
        "altair==6.3.0",
    ]
    with zipfile.ZipFile(tmp_path / "dist" / "plugins.zip") as plugins:
        assert [name for name in plugins.namelist() if name.endswith(".whl")] == ["altair-6.3.0-py3-none-any.whl"]
        assert plugins.read(constraints) == lock.CONSTRAINTS.read_bytes()


@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        pytest.param("altair==6.3.0\n", "does not begin with the constraint line", id="no constraint"),
        pytest.param(
            CONSTRAINT.replace(lock.AIRFLOW_VERSION, "3.0.0"),
            f"does not begin with the constraint line of Airflow {lock.AIRFLOW_VERSION}",
            id="constraint of another image",
        ),
        pytest.param(f"{CONSTRAINT}altair>=6\n", "does not pin altair>=6", id="no pin"),
        pytest.param(
            f"{CONSTRAINT}pandas==1.5.3\n", "asks for pandas==1.5.3, the constraint file allows", id="contradiction"
        ),
        pytest.param(
            f"{CONSTRAINT}celery==4.0.0\n", "asks for celery==4.0.0, the image has", id="other than the image"
        ),
    ],
)
def test_requirements_mwaa_would_not_install_are_refused(
    requirements: str, reason: str, repository: Path, tmp_path: Path
) -> None:
    (repository / "requirements.txt").write_text(requirements)

    with pytest.raises(package.RefusedError, match=reason):
        package.build(repository, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        pytest.param("PLUGINS_BYTES", r"plugins\.zip has \d+ bytes", id="plugins"),
        pytest.param("FUNCTION_BYTES", r"s00_small\.yaml: Load and its layers have 30 bytes", id="function"),
    ],
)
def test_what_is_too_large_is_refused(
    limit: str, reason: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, limit, 20)

    with pytest.raises(package.RefusedError, match=reason):
        package.build(repository, tmp_path / "dist")


@pytest.fixture(name="unpacked", scope="module")
def _unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's package, unpacked; without what is in the Lambda layers, which no DAG imports."""
    folder = tmp_path_factory.mktemp("package")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments, "fill_layer", lambda *_: None)
        package.build(layout.REPOSITORY, folder / "dist")
    return check.unpack(folder / "dist", folder / "mwaa")


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> dict[str, str]:
    return {"AIRFLOW_HOME": str(tmp_path)}


def test_the_unpacked_dags_are_sound(unpacked: Path, settings: dict[str, str]) -> None:
    """Here with this environment's packages, whose versions are the image's; ``make package`` has the image's alone."""
    assert not (unpacked / "include").exists()
    check.run_integrity_tests(Path(sys.executable), unpacked, settings)


def test_a_dag_that_needs_the_repository_around_it_is_found(
    unpacked: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(unpacked / "plugins", tmp_path / "mwaa" / "plugins")
    (tmp_path / "mwaa" / "dags").mkdir()
    (tmp_path / "mwaa" / "dags" / "s00_small.py").write_text("from local import runner\n")

    with pytest.raises(LauncherError, match=r"(?s)do not pass tests/dags.*No module named 'local'"):
        check.run_integrity_tests(Path(sys.executable), tmp_path / "mwaa", settings)


def test_the_plugins_load(unpacked: Path, settings: dict[str, str]) -> None:
    check.probe_plugins(Path(sys.executable), unpacked, settings)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("import pandas\n", "import pandas at load time, which the image does not have", id="not there"),
        pytest.param("1 / 0\n", r"broken\.py: .*division by zero", id="fails"),
    ],
)
def test_a_plugin_mwaa_cannot_load_is_found(
    source: str, reason: str, unpacked: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "broken.py").write_text(source)

    with pytest.raises(LauncherError, match=reason):
        check.probe_plugins(Path(sys.executable), tmp_path, settings)


@pytest.mark.parametrize("version", [lock.AIRFLOW_VERSION, "3.2.1"])
def test_requirements_resolve_with_the_constraints_of(version: str) -> None:
    allowed = lock.pins((lock.MWAA / f"constraints-{version}.txt").read_text())
    assert unresolvable(lock.pins(lock.REQUIREMENTS.read_text()), allowed) == []


@pytest.mark.parametrize(
    "allowed",
    [
        pytest.param({"pandas": "0.1"}, id="version too old"),
        pytest.param({"great-expectations": "0.18.0"}, id="other version of itself"),
    ],
)
def test_requirements_that_do_not_resolve_are_found(allowed: dict[str, str]) -> None:
    complete = lock.pins(lock.CONSTRAINTS.read_text()) | allowed
    assert unresolvable({"great-expectations": metadata.version("great-expectations")}, complete)


def test_no_version_is_left_open() -> None:
    wanted = lock.pins(lock.REQUIREMENTS.read_text())
    known = wanted | lock.pins(lock.CONSTRAINTS.read_text())
    assert [str(needed) for name in wanted for key, needed in needs(name) if key not in known] == []


def unresolvable(wanted: dict[str, str], allowed: dict[str, str]) -> list[str]:
    """Return what in ``wanted`` has or needs a version that ``allowed`` rules out.

    A constraint file is consistent in itself, so the dependencies of dependencies need no look.
    """
    problems = [f"{name}=={wanted[name]}" for name in wanted.keys() & allowed if wanted[name] != allowed[name]]
    versions = allowed | wanted
    return problems + [
        f"{name} needs {needed}, not {versions[key]}"
        for name in wanted
        for key, needed in needs(name)
        if key in versions and not needed.specifier.contains(versions[key], prereleases=True)
    ]


def needs(name: str) -> Iterator[tuple[str, Requirement]]:
    """Yield what a package installed here needs on MWAA's Python, by normalised name."""
    target = {"python_version": lock.PYTHON_VERSION, "python_full_version": f"{lock.PYTHON_VERSION}.0", "extra": ""}
    for requirement in map(Requirement, metadata.requires(name) or []):
        if not requirement.marker or requirement.marker.evaluate(target):
            (key,) = lock.pins(f"{requirement.name}==0")
            yield key, requirement


def test_make_package_says_what_is_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(package, "say", said.append)
    monkeypatch.setattr(layout, "REPOSITORY", repository)
    monkeypatch.setattr(package, "DIST", tmp_path / "dist")
    monkeypatch.setattr(sys, "argv", ["package", "--no-check"])
    assert package.main() == 0
    assert said[-1].endswith(digest((tmp_path / "dist" / "manifest.json").read_bytes()))

    (repository / "requirements.txt").write_text("altair\n")
    assert package.main() == 1
    assert "does not pin" in said[-1] or "constraint line" in said[-1]


def test_without_the_python_of_mwaa_the_check_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.txt").write_text(CONSTRAINT)
    monkeypatch.setattr(check, "ENVIRONMENT", tmp_path / "venv")
    monkeypatch.setattr(environments, "LOG", tmp_path / "setup.log")
    monkeypatch.setattr(check, "_python", lambda: str(tmp_path / "python3.12"))

    with pytest.raises(LauncherError, match=r"has Python 3\.12.*PYTHON312=/path/to/python3\.12"):
        check.check(tmp_path)


@pytest.mark.skipif(
    os.environ.get("ATLAS_TEST_SIZE") != "full", reason="it installs the image's packages: make test-full"
)
def test_the_package_passes_in_an_environment_like_mwaas(tmp_path: Path) -> None:
    """Twice built, it is the same; in the image's packages plus requirements.txt, its DAGs are sound."""
    digests = set()
    for _ in range(2):
        environment = {**os.environ, "PYTHONPATH": str(layout.PLUGINS)}
        command = [sys.executable, "-m", "deploy.package"]
        done = subprocess.run(
            command, cwd=layout.REPOSITORY, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.rsplit(maxsplit=1)[-1])
    assert len(digests) == 1
