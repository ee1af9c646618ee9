"""The commands behind the Makefile: ``python -m local.launcher <command>``."""

from __future__ import annotations

import argparse
import os
import sys

from local.launcher import LauncherError

COMMANDS = ("setup", "up", "run", "demo", "replay", "status", "logs", "down", "reset", "lock")


def main() -> int:
    """Carry out one command; what the user can put right is said in one line."""
    parser = argparse.ArgumentParser(prog="make", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    try:
        return _carry_out(parser.parse_args().command)
    except LauncherError as error:
        print(f"atlas: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("atlas: interrupted; what was started goes on, make down stops it", file=sys.stderr)
        return 130


def _carry_out(command: str) -> int:
    if command == "setup":
        from local.launcher import environments

        environments.ensure()
        return 0
    if command == "lock":
        from local.launcher import lock

        lock.renew()
        return 0
    from local.launcher import runs, services

    if command == "run":
        return runs.run(os.environ.get("DAG", ""), os.environ.get("CONF", ""))
    if command == "demo":
        return runs.demo()
    if command == "replay":
        return runs.replay(os.environ.get("ARGS", ""))
    getattr(services, command)()
    return 0


if __name__ == "__main__":
    unproxied = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"127.0.0.1,localhost,{unproxied}"
    sys.exit(main())
