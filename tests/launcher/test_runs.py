"""What a run takes and what is shown of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from local.launcher import LauncherError, runs


@pytest.mark.parametrize(
    ("conf", "complaint"),
    [("{x", "CONF is not JSON"), ("[1]", "has to be a JSON object"), ('{"source_uri": "./nowhere"}', "there is no /")],
    ids=["not-json", "not-an-object", "missing-source"],
)
def test_a_wrong_conf_is_refused_in_one_line(conf: str, complaint: str) -> None:
    with pytest.raises(LauncherError, match=complaint) as refused:
        runs.parameters(conf)
    assert "\n" not in str(refused.value)


def test_conf_goes_to_the_dag_as_it_is() -> None:
    assert runs.parameters('{"orders": 10, "source_uri": "s3://bucket/key"}') == {
        "orders": 10,
        "source_uri": "s3://bucket/key",
    }
    assert runs.parameters("") == {}


def test_a_local_source_is_uploaded_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "upload", lambda source: f"s3://lake/uploads/{source.name}/")
    conf = json.dumps({"source_uri": str(tmp_path), "seed": 7})
    assert runs.parameters(conf) == {"source_uri": f"s3://lake/uploads/{tmp_path.name}/", "seed": 7}


def test_an_empty_folder_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LauncherError, match=re.escape(f"{tmp_path} holds no file")):
        runs.source_files(tmp_path)


def test_the_files_of_a_source_come_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.csv", "a.csv", "sub/c.csv"):
        (tmp_path / name).write_text(name)
    found = [file.relative_to(tmp_path).as_posix() for file in runs.source_files(tmp_path)]
    assert found == ["a.csv", "b.csv", "sub/c.csv"]
    assert runs.source_files(tmp_path / "b.csv") == [tmp_path / "b.csv"]


@pytest.mark.parametrize(
    ("gates", "shown"),
    [
        ([], "-"),
        (
            [{"passed": True, "evaluated": 4, "failed": []}, {"passed": True, "evaluated": 3, "failed": []}],
            "passed (7)",
        ),
        ([{"passed": False, "evaluated": 4, "failed": ["revenue"]}], "failed: revenue"),
        ([{"missing": "task quality_gate did not succeed"}], "failed: no verdict"),
    ],
    ids=["none", "passed", "failed", "missing"],
)
def test_the_gates_are_summed_up(gates: list[dict[str, Any]], shown: str) -> None:
    outcome = runs.Outcome("s01", "success", 1.0, {"gates": gates}, None)
    assert outcome.gates == shown


def test_the_load_is_the_first_fact() -> None:
    facts = [{"name": "Rows", "value": "9721"}, {"name": "Days", "value": "3"}]
    assert runs.Outcome("s01", "success", 1.0, {"facts": facts}, None).load == "9721 rows"
    assert runs.Outcome("s01", "failed", 1.0, {}, None).load == "-"


class _Airflow(BaseHTTPRequestHandler):
    """Answers as Airflow's API does: a token, a list in pages, an error with its reason."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/auth/token":
            self._answer(201, {"access_token": "token"})
        elif self.headers["Authorization"] != "Bearer token":
            self._answer(401, {"detail": "Not authenticated"})
        elif path == "/api/v2/importErrors":
            offset = int(query.rpartition("=")[2])
            errors = [{"filename": f"{number}.py"} for number in range(250)]
            self._answer(200, {"import_errors": errors[offset : offset + 100], "total_entries": 250})
        else:
            self._answer(404 if path.endswith("/missing") else 403, {"detail": "Forbidden by policy"})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no part of a test's output."""


@pytest.fixture
def api() -> Iterator[runs.Api]:
    """The client, logged in at a server of the test's own."""
    with HTTPServer(("127.0.0.1", 0), _Airflow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield runs.Api(server.server_port)
        server.shutdown()
        thread.join()


def test_all_pages_of_a_list_are_read(api: runs.Api) -> None:
    names = [error["filename"] for error in api.pages("importErrors", "import_errors")]
    assert names == [f"{number}.py" for number in range(250)]


def test_what_is_not_there_is_none_and_a_refusal_is_told(api: runs.Api) -> None:
    assert api.find("dags/missing") is None
    with pytest.raises(LauncherError, match="Airflow refused: Forbidden by policy"):
        api.find("dags/forbidden")
    with pytest.raises(LauncherError, match="Airflow refused: Forbidden by policy"):
        api.call("GET", "dags/forbidden")
