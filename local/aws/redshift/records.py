"""Namespaces and workgroups of Redshift Serverless, and the database servers behind them.

A namespace holds the data, a workgroup is the computing that serves it, so the PostgreSQL server belongs to the
namespace and runs while a workgroup does.
https://docs.aws.amazon.com/redshift/latest/mgmt/serverless-workgroup-namespace.html
"""

from __future__ import annotations

import secrets
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from local.aws import emulator, postgres
from local.aws.emulator import AwsError
from local.aws.redshift import catalog

Members = dict[str, Any]


@dataclass
class Namespace:
    """The data of a warehouse: its databases, users and roles; ``members`` are what GetNamespace shows."""

    members: Members
    password: str
    server: postgres.Server | None = None
    serving: bool = False
    logins: dict[str, str] = field(default_factory=dict)
    """Passwords of the database users that stand for IAM identities."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def roles(self) -> list[str]:
        """The roles COPY and UNLOAD may use."""
        return list(self.members["iamRoles"])

    def start(self) -> postgres.Server:
        """Start the server; the first time, make its database and administrator.

        Raises:
            ServerError: PostgreSQL is missing or did not start.
            psycopg.Error: the administrator or the database has an impossible name.
        """
        if self.server is None:
            server = postgres.create(self.members["namespaceId"])
            try:
                catalog.install(server, self.members["dbName"], self.members["adminUsername"], self.password)
            except psycopg.Error:
                server.remove()
                raise
            self.server = server
        else:
            self.server.start()
        self.serving = True
        return self.server

    def stop(self) -> None:
        """Stop the server and keep the data."""
        self.serving = False
        if self.server is not None:
            self.server.stop()

    def remove(self) -> None:
        """Delete the data."""
        self.serving = False
        if self.server is not None:
            self.server.remove()
            self.server = None

    def set_password(self, password: str) -> None:
        """Change the administrator's password."""
        self.password = password
        if self.server is not None and self.serving:
            self.server.set_password(self.members["adminUsername"], password)

    def login(self, user: str, seconds: int) -> tuple[str, datetime]:
        """Return a password of the database user ``user``, made if new, and when it expires."""
        server = self.running()
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        with self.lock, server.connect() as connection:
            name = sql.Identifier(user)
            if user not in self.logins:
                self.logins[user] = secrets.token_urlsafe(24)
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone():
                    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
            # One password serves all who log in as this user: a second one would end the first.
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {} VALID UNTIL {}").format(
                    name, sql.Literal(self.logins[user]), sql.Literal(expires.isoformat())
                )
            )
        return self.logins[user], expires

    def running(self) -> postgres.Server:
        """Return the server.

        Raises:
            AwsError: ValidationException, no workgroup serves the namespace now.
        """
        if self.server is None or not self.serving:
            raise AwsError("ValidationException", "The workgroup is not available.")
        return self.server


@dataclass
class Workgroup:
    """The computing of a warehouse; ``members`` are what GetWorkgroup shows."""

    members: Members
    namespace: Namespace


Key = tuple[str, str, str]
"""Account, region and name."""

namespaces: dict[Key, Namespace] = {}
workgroups: dict[Key, Workgroup] = {}
tags: dict[str, dict[str, str]] = {}
"""Tags by ARN."""


def scope() -> tuple[str, str]:
    """Return account and region of the request or stack operation being served."""
    responses = emulator.module("core.responses")
    return responses.get_account_id(), responses.get_region()


def namespace(name: str) -> Namespace:
    """Return the namespace called ``name``.

    Raises:
        AwsError: ResourceNotFoundException.
    """
    found = namespaces.get((*scope(), name))
    if found is None:
        raise AwsError("ResourceNotFoundException", f"Namespace {name} was not found.", 404)
    return found


def workgroup(name: str) -> Workgroup:
    """Return the workgroup called ``name``.

    Raises:
        AwsError: ResourceNotFoundException.
    """
    found = workgroups.get((*scope(), name))
    if found is None:
        raise AwsError("ResourceNotFoundException", f"Workgroup {name} was not found.", 404)
    return found


def new_arn(kind: str) -> tuple[str, str]:
    """Return id and ARN of a new namespace or workgroup: ARNs name the id, not the name."""
    account, region = scope()
    name = str(uuid.uuid4())
    return name, f"arn:aws:redshift-serverless:{region}:{account}:{kind}/{name}"
