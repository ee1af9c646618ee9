"""Builds ``dist/``, what an Amazon MWAA environment takes: ``python -m deploy.package [--offline] [--no-check]``.

    dags/              DAG files; include/ with SQL, templates, sources and Lambda layers; .airflowignore
    plugins.zip        the plugins folder; with --offline also the wheels of what requirements.txt asks for
    requirements.txt   with the constraint line MWAA demands; with --offline installed from those wheels
    manifest.json      versions, and the SHA-256 and size of every file

The same sources make the same bytes. What MWAA or Lambda would refuse is refused here, with the reason; unless told
otherwise, the package is then unpacked and tried in an environment like MWAA's (``deploy.check``).
https://docs.aws.amazon.com/mwaa/latest/userguide/working-dags.html
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atlas.packaging import Template, digest, parse_template, zip_folder
from deploy import check
from local.launcher import LauncherError, environments, layout
from local.launcher.lock import AIRFLOW_VERSION, CONSTRAINTS, IMAGE, PYTHON_VERSION, need_image, pins
from local.launcher.progress import say, step

DIST = layout.REPOSITORY / "dist"

PLUGINS_BYTES = 10**9
"""MWAA's advice for plugins.zip:
https://docs.aws.amazon.com/mwaa/latest/userguide/configuring-dag-import-plugins.html#configuring-dag-plugins-quota"""
FUNCTION_BYTES = 250 * 2**20
"""A function with its layers, unzipped:
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""

ON_MWAA = "/usr/local/airflow/plugins"
"""Where MWAA unpacks plugins.zip. What a network without a way out takes:
https://docs.aws.amazon.com/mwaa/latest/userguide/best-practices-dependencies.html"""
MWAA_WHEELS = (
    *("--python-version", PYTHON_VERSION),
    *(option for glibc in ("2_34", "2_28", "2_17") for option in ("--platform", f"manylinux_{glibc}_x86_64")),
)
"""Options for the wheels that fit the image, which is Amazon Linux 2023."""

NO_DAGS = "# Below here are no DAGs: SQL, templates and programs that run elsewhere.\ninclude/\n"


class RefusedError(LauncherError):
    """MWAA or Lambda would not take this package; the message says why."""


def main() -> int:
    """Build, refuse or check; return the exit code."""
    parser = argparse.ArgumentParser(prog="make package", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="for a network that reaches no package index")
    parser.add_argument("--no-check", action="store_true", help="do not try the package in an environment like MWAA's")
    arguments = parser.parse_args()
    try:
        need_image()
        build(layout.REPOSITORY, DIST, offline=arguments.offline)
        if not arguments.no_check:
            check.check(DIST)
    except LauncherError as error:
        say(f"atlas: {error}")
        return 1
    files = json.loads((DIST / "manifest.json").read_text())["files"]
    size = sum(file["bytes"] for file in files.values())
    say(f"{DIST}: {len(files)} files, {size / 10**6:.1f} MB, manifest {digest((DIST / 'manifest.json').read_bytes())}")
    return 0


def build(source: Path, dist: Path, *, offline: bool = False) -> None:
    """Build the package of the repository in ``source`` into ``dist``, which is made anew.

    ``offline`` makes one that is installed without a package index.

    Raises:
        RefusedError: MWAA or Lambda would not take it; ``dist`` is not there then.
        LauncherError: a package of a Lambda layer, or a wheel, could not be had.
    """
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        target = scratch / "dist"
        _copy(source / "dags", target / "dags")
        (target / "dags" / ".airflowignore").write_text(NO_DAGS)
        _copy(source / "include", target / "dags" / "include")
        for requirements in sorted((target / "dags" / "include").glob("layers/*/requirements.txt")):
            with step(f"Lambda layer {requirements.parent.name}, for x86_64 and arm64"):
                environments.fill_layer(requirements, requirements.parent / "python", environments.LAMBDA_WHEELS)
        _copy(source / "plugins", scratch / "plugins")
        shutil.copyfile(source / "requirements.txt", target / "requirements.txt")
        if offline:
            _bring_wheels(target / "requirements.txt", scratch / "plugins")
        (target / "plugins.zip").write_bytes(zip_folder(scratch / "plugins"))
        reasons = list(refusals(target))
        if reasons:
            raise RefusedError("This package would be refused:\n  " + "\n  ".join(reasons))
        (target / "manifest.json").write_text(json.dumps(_manifest(target), indent=1) + "\n")
        shutil.copytree(target, dist)


def _bring_wheels(requirements: Path, plugins: Path) -> None:
    """Put what ``requirements`` asks for and the image lacks into ``plugins``, and let it be installed from there."""
    wanted = [f"{name}=={version}" for name, version in pins(requirements.read_text()).items()]
    with step("Wheels of requirements.txt"):
        environments.download(wanted, CONSTRAINTS, plugins, MWAA_WHEELS)
    present = pins(IMAGE.read_text())
    for wheel in plugins.glob("*.whl"):
        name, version, _ = wheel.name.split("-", 2)
        if pins(f"{name}=={version}").items() <= present.items():
            wheel.unlink()
    constraints = f"constraints-{AIRFLOW_VERSION}/constraints-{PYTHON_VERSION}.txt"
    (plugins / constraints).parent.mkdir()
    shutil.copyfile(CONSTRAINTS, plugins / constraints)
    lines = [f'--constraint "{ON_MWAA}/{constraints}"', "--no-index", f"--find-links {ON_MWAA}", *wanted]
    requirements.write_text("\n".join(lines) + "\n")


def refusals(package: Path) -> Iterator[str]:
    """Yield why MWAA or Lambda would not take the package in this folder."""
    yield from _wrong_requirements((package / "requirements.txt").read_text())
    size = (package / "plugins.zip").stat().st_size
    if size > PLUGINS_BYTES:
        yield f"plugins.zip has {size:,} bytes, {PLUGINS_BYTES:,} are the most MWAA takes in time"
    for template in sorted((package / "dags" / "include" / "templates").glob("*.yaml")):
        for function, size in _function_sizes(template):
            if size > FUNCTION_BYTES:
                yield f"{template.name}: {function} and its layers have {size:,} bytes, Lambda takes {FUNCTION_BYTES:,}"


def _wrong_requirements(text: str) -> Iterator[str]:
    """https://docs.aws.amazon.com/mwaa/latest/userguide/best-practices-dependencies.html"""
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "--no-index", "--find-links"))]
    if not re.match(rf'--constraint "\S+/constraints-{AIRFLOW_VERSION}/constraints-{PYTHON_VERSION}.txt"$', lines[0]):
        yield f"requirements.txt does not begin with the constraint line of Airflow {AIRFLOW_VERSION}"
    yield from (f"requirements.txt does not pin {line}" for line in lines[1:] if not pins(line))
    wanted = pins(text)
    for what, known in (
        ("the constraint file allows", pins(CONSTRAINTS.read_text())),
        ("the image has", pins(IMAGE.read_text())),
    ):
        for name in sorted(wanted.keys() & known):
            if wanted[name] != known[name]:
                yield f"requirements.txt asks for {name}=={wanted[name]}, {what} {known[name]} only"


def _function_sizes(template: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a template with the bytes of its code and its layers."""
    parsed: Template = parse_template(template.read_text())
    shared = parsed.get("Globals", {}).get("Function", {})
    resources: dict[str, Any] = parsed["Resources"]
    for name, resource in resources.items():
        if isinstance(resource, dict) and resource.get("Type") == "AWS::Serverless::Function":
            function = shared | resource["Properties"]
            layers = [*shared.get("Layers", []), *resource["Properties"].get("Layers", [])]
            sources = {function["CodeUri"], *(resources[layer["Ref"]]["Properties"]["ContentUri"] for layer in layers)}
            yield name, sum(_bytes_below(template.parent / source) for source in sources)


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _copy(source: Path, target: Path) -> None:
    """Copy what is the project's own: no caches, no hidden files but .airflowignore, no layer set-up has filled."""
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source)
        hidden = any(part.startswith(".") and part != ".airflowignore" for part in inside.parts)
        if hidden or "__pycache__" in inside.parts or not file.is_file() or inside.match("layers/*/python/**/*"):
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / inside)


def _manifest(package: Path) -> dict[str, Any]:
    files = {file.relative_to(package).as_posix(): file.read_bytes() for file in package.rglob("*") if file.is_file()}
    return {
        "airflow": AIRFLOW_VERSION,
        "python": PYTHON_VERSION,
        "files": {name: {"sha256": digest(files[name]), "bytes": len(files[name])} for name in sorted(files)},
    }


if __name__ == "__main__":
    sys.exit(main())
