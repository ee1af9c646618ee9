"""Loads Airflow's plugins and says what is wrong with that: ``python plugins_probe.py <packages of the image>``.

The web server and the scheduler load plugins even where requirements.txt could not be installed, so plugins must need
nothing but the image's packages at load time. The program prints a line for each plugin that cannot be loaded and for
each package one brings in that the image does not have, and then ends with code 1.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from airflow import plugins_manager


def main(image: Path) -> int:
    """Print what is wrong; return the exit code."""
    before = set(sys.modules)
    _, errors = plugins_manager._get_plugins()  # nothing public tells the errors
    wrong = [f"{file}: {error}" for file, error in errors.items()]
    present = {_normalised(line.partition("==")[0]) for line in image.read_text().splitlines()}
    modules = {name.partition(".")[0] for name in set(sys.modules) - before}
    owners = packages_distributions()
    wrong += [
        f"the plugins import {module} at load time, which the image does not have"
        for module in sorted(modules & owners.keys())
        if not present & {_normalised(owner) for owner in owners[module]}
    ]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
