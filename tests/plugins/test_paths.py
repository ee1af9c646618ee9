"""Where include/ is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas.paths import include_folder


@pytest.mark.parametrize("place", ["include", "dags/include"], ids=["repository", "Amazon MWAA"])
def test_include_is_beside_or_inside_the_dags_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / place).mkdir()

    assert include_folder(tmp_path / "dags" / "s01.py") == tmp_path / place


def test_the_folder_inside_wins(tmp_path: Path) -> None:
    """A versioned bundle reads its own files, whatever lies beside it."""
    for place in ("include", "dags/include"):
        (tmp_path / place).mkdir(parents=True)

    assert include_folder(tmp_path / "dags" / "s01.py") == tmp_path / "dags" / "include"


def test_the_folder_of_the_file_itself_counts_not_that_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "repository" / "dags").mkdir(parents=True)
    (tmp_path / "repository" / "include").mkdir()
    (tmp_path / "repository" / "dags" / "s01.py").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "s01.py").symlink_to(tmp_path / "repository" / "dags" / "s01.py")

    assert include_folder(tmp_path / "home" / "s01.py") == tmp_path / "repository" / "include"


def test_a_missing_folder_is_an_error_that_says_where_it_was_sought(tmp_path: Path) -> None:
    (tmp_path / "include").touch()  # a file is no folder

    with pytest.raises(FileNotFoundError, match=rf"looked in {tmp_path}/dags and {tmp_path}\."):
        include_folder(tmp_path / "dags" / "s01.py")
