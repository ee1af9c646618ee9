"""What the containers of docker-compose.yml run beside Airflow: ``python -m local.container <command>``.

    setup                   while the image is built: the embedded AWS's environment, the Lambda layers, Spark
    prepare SECRETS LAYERS  makes passwords and keys, once, and copies the layers' packages
    aws SECRETS HOST        serves AWS as HOST to the other containers and writes Airflow's connection to it
    healthy SECRETS         whether AWS answers and the connection is there

SECRETS and LAYERS are volumes that only these containers have: no secret stands in a file of the repository or in a
variable.
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from local.launcher import layout

PORT = 4566
DATABASE_HOST = "postgres"
CONNECTIONS = "connections.json"
"""The file Airflow's LocalFilesystemBackend reads connections from."""


def setup() -> None:
    """Install what the embedded AWS needs."""
    from local.launcher import environments

    environments.ensure([environments.AWS])


def prepare(folder: Path, layers: Path) -> None:
    """Make the keys in ``folder`` and renew the packages in ``layers``, from where Airflow deploys them."""
    make_keys(folder)
    for old in layers.iterdir():
        shutil.rmtree(old)
    shutil.copytree(layout.REPOSITORY / "include" / "layers", layers, dirs_exist_ok=True)


def make_keys(folder: Path) -> None:
    """Write a password and keys, one to a file, unless they are there: the database keeps its first password."""
    password = secrets.token_urlsafe(32)
    made = {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "jwt_secret": secrets.token_urlsafe(64),
        "secret_key": secrets.token_urlsafe(32),
        "sql_alchemy_conn": f"postgresql+psycopg2://airflow:{password}@{DATABASE_HOST}/airflow",
        # Last: once it is there, all are.
        "database_password": password,
    }
    if not (folder / "database_password").exists():
        for name, value in made.items():
            _write(folder / name, value)


def serve_aws(folder: Path, host: str, port: int = PORT, bind: str = "0.0.0.0") -> None:  # noqa: S104 - a container's
    """Serve the embedded AWS until SIGTERM, its log on standard output.

    Args:
        folder: where the connection is written, once the account is ready for Airflow.
        host: the name the other containers reach this one by.
        port: what every service is reached at.
        bind: address to listen on: the container's network is private, and compose publishes the port on loopback only.

    Raises:
        LauncherError: it did not start.
    """
    from local.bootstrap import bootstrap, root
    from local.launcher import airflow, embedded

    (folder / CONNECTIONS).unlink(missing_ok=True)  # of the account that ended with the last container
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    running = embedded.start(layout.RUN / "aws", port, bind=bind)
    try:
        key = bootstrap(root(running.endpoint), layout.ENVIRONMENT)
        connection = json.loads(airflow.connection(f"http://{host}:{port}", key))
        _write(folder / CONNECTIONS, json.dumps({"aws_default": connection}))
        follow = ["tail", "--lines=+1", "--follow=name", f"--pid={running.process.pid}", str(running.log)]
        subprocess.run(follow, check=True)  # to `docker compose logs`, until the server ends
    finally:
        running.stop()


def healthy(folder: Path, port: int = PORT) -> bool:
    """Return whether the embedded AWS answers and Airflow has a connection to it."""
    from local.launcher import embedded

    return (folder / CONNECTIONS).exists() and embedded.answers(port)


def _write(file: Path, content: str) -> None:
    """Write a file the containers' users, who are not one, can read; it is there as a whole or not at all."""
    temporary = file.with_suffix(".new")
    temporary.write_text(content)
    temporary.chmod(0o444)
    temporary.replace(file)


def main() -> int:
    """Carry out one command; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup")
    for name, *others in (("prepare", "layers"), ("aws", "host"), ("healthy",)):
        command = commands.add_parser(name)
        command.add_argument("secrets", type=Path)
        for other in others:
            command.add_argument(other)
    arguments = parser.parse_args()
    if arguments.command == "setup":
        setup()
    elif arguments.command == "prepare":
        prepare(arguments.secrets, Path(arguments.layers))
    elif arguments.command == "aws":
        serve_aws(arguments.secrets, arguments.host)
    else:
        return 0 if healthy(arguments.secrets) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
