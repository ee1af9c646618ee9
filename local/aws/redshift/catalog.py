"""What a new database server gets before its first user: Redshift's functions, system views and administrator."""

from __future__ import annotations

from pathlib import Path

from psycopg import sql

from local.aws.postgres import Server

FUNCTIONS = (Path(__file__).parent / "functions.sql").read_text()
"""Functions and system views of Redshift that PostgreSQL lacks. Clients of the wire protocol have them, too."""

SYSTEM_DATABASES = ("postgres", "template0", "template1")


def install(server: Server, database: str, administrator: str, password: str) -> None:
    """Prepare a new server: every database, present and future, has ``FUNCTIONS``.

    The administrator is a superuser, as on Redshift:
    https://docs.aws.amazon.com/redshift/latest/dg/r_superusers.html
    """
    with server.connect("template1") as connection:
        # Redshift lets everybody create in public: https://docs.aws.amazon.com/redshift/latest/dg/r_Schemas_and_tables.html
        connection.execute("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC")
        connection.execute("SET allow_system_table_mods = on")
        connection.execute(FUNCTIONS)
    with server.connect() as connection:
        owner = sql.Identifier(administrator)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(owner, sql.Literal(password)))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), owner))
