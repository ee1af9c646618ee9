"""Glue scripts as modules, outside of Glue."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from unittest import mock

from local.launcher import layout

FOLDER = layout.REPOSITORY / "include" / "glue_scripts"
SPARK_MODULES = ("awsglue", "awsglue.utils", "pyspark", "pyspark.sql")


def without_spark(name: str) -> ModuleType:
    """Return the script ``name`` for tests of what needs no Spark, which Airflow's environment lacks."""
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    with mock.patch.dict(sys.modules, {module: mock.MagicMock() for module in SPARK_MODULES}):
        specification.loader.exec_module(script)
    return script
