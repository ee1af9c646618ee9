"""Runs one job script as ``__main__`` in a process of its own: ``driver.py FAILURE SCRIPT [--key value ...]``.

If the script fails, the file FAILURE holds what the job run reports as its error message. The process ends when its
standard input does, that is, with the process that started it.
"""

from __future__ import annotations

import itertools
import os
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path


def main() -> None:
    """Run the script; exit as it does."""
    _end_with_parent()
    failure = Path(sys.argv[1])
    del sys.argv[:2]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        if error.code:
            failure.write_text(f"SystemExit: {error.code}")
        raise
    except BaseException as error:
        failure.write_text(f"{type(error).__name__}: {_first_lines(str(error))}")
        traceback.print_exc()  # while the JVM, which errors from it are asked for their text, is there
        sys.exit(1)
    finally:
        _end_spark()


def _end_with_parent() -> None:
    """Keep the pipe to the parent out of the script's reach and kill this process when it closes."""
    pipe = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _end_spark() -> None:
    """Wait for the JVM, if there is one: it ends with its input, and removes its files before."""
    pyspark = sys.modules.get("pyspark")
    if pyspark and (gateway := pyspark.SparkContext._gateway):
        gateway.proc.stdin.close()
        gateway.proc.wait()


def _first_lines(message: str) -> str:
    """Leave out the stack trace of an error that came from the JVM."""
    return " ".join(itertools.takewhile(lambda line: not line.startswith("\tat "), message.splitlines()))


main()
