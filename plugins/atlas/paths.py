"""Where the repository's files are.

``include/`` stands beside ``plugins/`` in the repository and inside ``dags/`` on Amazon MWAA, which syncs only
the dags folder. It is found from the DAG folder's own place, never from ``AIRFLOW_HOME``, so that versioned DAG
bundles read the files of their own version.
"""

from __future__ import annotations

from pathlib import Path


def include_folder(dag_file: str | Path) -> Path:
    """Return the ``include/`` folder that belongs to ``dag_file``.

    Raises:
        FileNotFoundError: there is no ``include/`` beside or inside the DAG file's folder.
    """
    dags = Path(dag_file).resolve().parent
    for candidate in (dags / "include", dags.parent / "include"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"No include/ folder for {dag_file}: looked in {dags} and {dags.parent}. "
        "Upload include/ into the dags folder (Amazon MWAA) or keep it beside it (repository)."
    )
