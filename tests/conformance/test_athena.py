"""Athena: SQL semantics, tables, results, permissions and states, each as the AWS documentation has it."""

from __future__ import annotations

import gzip
import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.conformance.test_iam import allow, user
from tests.conftest import Aws

PARQUET = "STORED AS PARQUET"
JSON = "ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'"
CSV = "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde'"


class Athena:
    """A database, a bucket and a client; ``query`` waits for the end of a statement."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.client = aws.client("athena")
        self.s3 = aws.client("s3")
        self.glue = aws.client("glue")
        self.bucket = f"athena-{uuid.uuid4().hex[:12]}"
        self.database = f"db_{uuid.uuid4().hex[:12]}"
        self.output = f"s3://{self.bucket}/results/"
        self.s3.create_bucket(Bucket=self.bucket)
        self.glue.create_database(DatabaseInput={"Name": self.database})

    def put(self, key: str, text: str | bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=text)

    def start(self, sql: str, client: Any = None, **arguments: Any) -> str:
        request = {
            "QueryString": sql,
            "QueryExecutionContext": {"Database": self.database},
            "ResultConfiguration": {"OutputLocation": self.output},
            **arguments,
        }
        started: str = (client or self.client).start_query_execution(**request)["QueryExecutionId"]
        return started

    def wait(self, query: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            execution: dict[str, Any] = self.client.get_query_execution(QueryExecutionId=query)["QueryExecution"]
            if execution["Status"]["State"] not in ("QUEUED", "RUNNING"):
                return execution
            time.sleep(0.02)
        raise AssertionError(f"{query} did not end")

    def run(self, sql: str, **arguments: Any) -> dict[str, Any]:
        """Run a statement that must succeed; return its execution."""
        execution = self.wait(self.start(sql, **arguments))
        assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
        return execution

    def fail(self, sql: str, **arguments: Any) -> str:
        """Run a statement that must fail; return why it did."""
        status = self.wait(self.start(sql, **arguments))["Status"]
        assert status["State"] == "FAILED"
        assert status["AthenaError"]["ErrorMessage"] == status["StateChangeReason"]
        reason: str = status["StateChangeReason"]
        return reason

    def results(self, query: str) -> list[list[str | None]]:
        pages = self.client.get_paginator("get_query_results").paginate(QueryExecutionId=query)
        rows = [row for page in pages for row in page["ResultSet"]["Rows"]]
        return [[datum.get("VarCharValue") for datum in row["Data"]] for row in rows]

    def rows(self, sql: str, **arguments: Any) -> list[list[str | None]]:
        """Run a SELECT; return its rows without the header."""
        return self.results(self.run(sql, **arguments)["QueryExecutionId"])[1:]

    def lines(self, sql: str) -> list[str | None]:
        """Run a DDL or utility statement; return the lines it prints."""
        return [row[0] for row in self.results(self.run(sql)["QueryExecutionId"])]

    def value(self, expression: str) -> str | None:
        [[value]] = self.rows(f"SELECT {expression}")
        return value


@pytest.fixture(scope="module")
def athena(aws: Aws) -> Athena:
    return Athena(aws)


@pytest.fixture
def name() -> str:
    return f"t_{uuid.uuid4().hex[:10]}"


# --- SQL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("5 / 2", "2"),
        ("-5 / 2", "-2"),
        ("5e0 / 2", "2.5"),
        ("DECIMAL '2.01' / 2", "1.01"),
        ("CAST(10 AS DECIMAL(10,2)) / 3", "3.33"),
        ("round(DECIMAL '1.2345', 2)", "1.2300"),
        ("DECIMAL '1.10' * DECIMAL '3.00'", "3.3000"),
        ("1e7", "1.0E7"),
        ("1.5e-5", "1.5E-5"),
        ("1e0 / 3", "0.3333333333333333"),
        ("try(1 / 0)", None),
        ("CAST('abc' AS varchar(2))", "ab"),
        ("CAST(TIMESTAMP '2020-01-01 00:00:00' AS varchar)", "2020-01-01 00:00:00.000"),
        ("TIMESTAMP '2001-08-22 03:04:05.321'", "2001-08-22 03:04:05.321"),
        ("TIMESTAMP '2001-08-22 03:04:05.321 UTC'", "2001-08-22 03:04:05.321 UTC"),
    ],
)
def test_arithmetic_and_casts_have_the_types_of_trino(athena: Athena, expression: str, expected: str | None) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/data-types.html; https://trino.io/docs/current/functions/decimal.html"""
    assert athena.value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("date_diff('day', TIMESTAMP '2020-03-01 00:00:00', TIMESTAMP '2020-03-02 00:00:00')", "1"),
        ("date_diff('hour', TIMESTAMP '2020-03-01 00:50:00', TIMESTAMP '2020-03-01 01:10:00')", "0"),
        ("date_add('month', -1, DATE '2020-03-31')", "2020-02-29"),
        ("DATE '2020-01-31' + INTERVAL '1' MONTH", "2020-02-29"),
        ("date_trunc('month', DATE '2001-08-22')", "2001-08-01"),
        ("date_trunc('hour', TIMESTAMP '2001-08-22 03:04:05.321')", "2001-08-22 03:00:00.000"),
        ("format_datetime(TIMESTAMP '2001-08-22 03:04:05', 'yyyy-MM-dd''T''HH:mm')", "2001-08-22T03:04"),
        ("parse_datetime('1994/11/5 10', 'yyyy/MM/dd HH')", "1994-11-05 10:00:00.000 UTC"),
        ("date_format(TIMESTAMP '2022-10-20 05:10:00', '%m-%d-%Y %H')", "10-20-2022 05"),
        ("date_parse('2022/10/20/05', '%Y/%m/%d/%H')", "2022-10-20 05:00:00.000"),
        ("from_unixtime(1475996660)", "2016-10-09 07:04:20.000 UTC"),
        ("at_timezone(TIMESTAMP '2021-08-22 12:00:00 UTC', 'America/New_York')", "2021-08-22 08:00:00.000"),
        ("day_of_week(DATE '2024-01-07')", "7"),
        ("to_iso8601(DATE '2020-01-02')", "2020-01-02"),
    ],
)
def test_dates(athena: Athena, expression: str, expected: str) -> None:
    """https://trino.io/docs/current/functions/datetime.html"""
    assert athena.value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("regexp_extract('1a 2b 14m', '(\\d+)([a-z]+)', 2)", "a"),
        ("regexp_extract('abc', '\\d')", None),
        ("regexp_replace('1a 2b 14m', '(\\d+)([ab]) ', '3c$2 ')", "3ca 3cb 14m"),
        ("split_part('a,b', ',', 3)", None),
        ("url_extract_host('https://user@example.com:8080/a/b?x=1&y=two#f')", "example.com"),
        ("url_extract_parameter('https://example.com/?x=1&y=two%20words', 'y')", "two words"),
        ("url_extract_path('https://example.com/a/b?x=1')", "/a/b"),
        ("url_extract_query('https://example.com/a')", None),
        ("format('%03d', 8)", "008"),
        ("ARRAY[1, NULL, 3]", "[1, null, 3]"),
        ("MAP(ARRAY['a'], ARRAY[1])", "{a=1}"),
        ("CAST(ROW(1, 'x') AS ROW(n integer, s varchar))", "{n=1, s=x}"),
        ("element_at(ARRAY[5], 3)", None),
        ("transform(ARRAY[5, 6], x -> x / 2)", "[2, 3]"),
        ("reduce(ARRAY[5, 20, 50], 0, (s, x) -> s + x, s -> s)", "75"),
        ("""json_extract_scalar('{"store": {"book": "x"}}', '$.store.book')""", "x"),
        ("X'6162'", "61 62"),
    ],
)
def test_text_and_nested_values(athena: Athena, expression: str, expected: str | None) -> None:
    """https://trino.io/docs/current/functions/url.html and its neighbours regexp, string, array, map, json"""
    assert athena.value(expression) == expected


def test_aggregates_keep_decimals_exact(athena: Athena) -> None:
    """https://trino.io/docs/current/functions/aggregate.html"""
    values = "(VALUES (1, DECIMAL '0.10'), (2, DECIMAL '0.20'), (3, NULL)) AS t(id, amount)"
    [row] = athena.rows(
        f"SELECT sum(amount), avg(amount), avg(id), avg(amount) FILTER (WHERE id = 2), count(amount), "
        f"sum(id) / 4, map_agg(id, amount)[1] FROM {values}"
    )
    assert row == ["0.30", "0.15", "2.0", "0.20", "2", "1", "0.10"]
    running = athena.rows(f"SELECT avg(amount) OVER (ORDER BY id) FROM {values} ORDER BY id")
    assert running == [["0.10"], ["0.15"], ["0.15"]]


def test_nulls_come_last_in_both_orders(athena: Athena) -> None:
    """https://trino.io/docs/current/sql/select.html#order-by-clause"""
    values = "(VALUES 1, NULL, 2) AS t(x)"
    assert athena.rows(f"SELECT x FROM {values} ORDER BY x DESC") == [["2"], ["1"], [None]]
    assert athena.rows(f"SELECT x FROM {values} ORDER BY x") == [["1"], ["2"], [None]]


def test_unnest(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/flattening-arrays.html"""
    assert athena.rows("SELECT k, v FROM UNNEST(MAP(ARRAY['a', 'b'], ARRAY[1, 2])) AS t(k, v) ORDER BY k") == [
        ["a", "1"],
        ["b", "2"],
    ]
    assert athena.rows("SELECT e, n FROM UNNEST(ARRAY['x', 'y']) WITH ORDINALITY AS t(e, n) ORDER BY n") == [
        ["x", "1"],
        ["y", "2"],
    ]
    rows = athena.rows(
        "WITH dataset AS (SELECT 'eng' AS dept, ARRAY['Sharon', 'John'] AS users) "
        "SELECT dept, names FROM dataset CROSS JOIN UNNEST(users) AS t(names) ORDER BY names"
    )
    assert rows == [["eng", "John"], ["eng", "Sharon"]]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (
            "SELECT nope FROM (VALUES 1) AS t(x)",
            "COLUMN_NOT_FOUND: line 1:8: Column 'nope' cannot be resolved or requester is not authorized to access "
            "requested resources",
        ),
        ("SELECT list_sum(ARRAY[1])", "FUNCTION_NOT_FOUND: line 1:8: Function 'list_sum' not registered"),
        ("SELECT 1 / 0", "DIVISION_BY_ZERO: Division by zero"),
        ("SELECT CAST('x' AS integer)", "INVALID_CAST_ARGUMENT: "),
        ("SELECT x, count(*) FROM (VALUES 1) AS t(x)", "EXPRESSION_NOT_AGGREGATE: line 1:8: 'x' must be an aggregate"),
        ("SELECT * FROM read_csv('/etc/passwd')", "NOT_SUPPORTED: Table function"),
        ("SELECT format_datetime(now(), 'G')", "NOT_SUPPORTED: Date pattern field 'G' is not supported"),
    ],
)
def test_failures_say_what_is_wrong(athena: Athena, sql: str, reason: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/troubleshooting-athena.html"""
    assert athena.fail(sql).startswith(reason)


def test_a_missing_table_and_a_missing_database_are_told_apart(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/error-reference.html"""
    query = athena.start("SELECT *\nFROM nowhere")
    status = athena.wait(query)["Status"]
    expected = f"TABLE_NOT_FOUND: line 2:6: Table 'awsdatacatalog.{athena.database}.nowhere' does not exist"
    assert status["StateChangeReason"] == expected
    assert status["AthenaError"]["ErrorCategory"] == 2
    assert athena.fail("SELECT * FROM absent.t") == "SCHEMA_NOT_FOUND: line 1:22: Schema 'absent' does not exist"


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT 1 FROM", "SELECT 1; SELECT 2"])
def test_what_cannot_be_parsed_is_refused_at_once(athena: Athena, sql: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/APIReference/API_StartQueryExecution.html"""
    with pytest.raises(athena.client.exceptions.InvalidRequestException):
        athena.start(sql)


# --- Tables -------------------------------------------------------------------------------------------------------


def test_csv_by_its_catalog_types(athena: Athena, name: str) -> None:
    """Header lines are skipped, quotes removed, empty numbers NULL, hidden files not read.

    https://docs.aws.amazon.com/athena/latest/ug/csv-serde.html
    """
    athena.put(f"{name}/a.csv", 'id,label,amount\n1,"x, y",10.50\n2,"say ""hi""",\n')
    athena.put(f"{name}/_hidden.csv", "id,label,amount\n9,no,1\n")
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id int, label string, amount decimal(10,2)) {CSV} "
        f"LOCATION 's3://{athena.bucket}/{name}/' TBLPROPERTIES ('skip.header.line.count'='1')"
    )
    assert athena.rows(f"SELECT * FROM {name} ORDER BY id") == [["1", "x, y", "10.50"], ["2", 'say "hi"', None]]
    athena.put(f"{name}/b.csv", "id,label,amount\nx,y,z\n")
    assert athena.fail(f"SELECT sum(id) FROM {name}").startswith("INVALID_CAST_ARGUMENT")


def test_text_with_a_separator(athena: Athena, name: str) -> None:
    r"""LazySimpleSerDe: \N is NULL, and so is what is not of the column's type; columns may be missing at the end.

    https://docs.aws.amazon.com/athena/latest/ug/lazy-simple-serde.html
    """
    body = gzip.compress(b"1\tx\t2024-01-02\n\\N\ty\nno\tz\t2024-01-03\n")
    athena.put(f"{name}/a.tsv.gz", body)
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id int, label string, day date) ROW FORMAT DELIMITED "
        f"FIELDS TERMINATED BY '\\t' LOCATION 's3://{athena.bucket}/{name}/'"
    )
    execution = athena.run(f"SELECT * FROM {name} ORDER BY label")
    assert athena.results(execution["QueryExecutionId"])[1:] == [
        ["1", "x", "2024-01-02"],
        [None, "y", None],
        [None, "z", "2024-01-03"],
    ]
    assert execution["Statistics"]["DataScannedInBytes"] == len(body)


def test_json_lines_with_nested_columns(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/openx-json-serde.html"""
    lines = [{"id": 1, "user": {"name": "a"}, "tags": ["x", "y"]}, {"id": 2, "other": True}]
    athena.put(f"{name}/a.json", "\n".join(map(json.dumps, lines)))
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id bigint, user struct<name:string>, tags array<string>) {JSON} "
        f"LOCATION 's3://{athena.bucket}/{name}/'"
    )
    rows = athena.rows(f'SELECT id, "user".name, tags, cardinality(tags) FROM {name} ORDER BY id')
    assert rows == [["1", "a", "[x, y]", "2"], ["2", None, None, None]]
    athena.put(f"{name}/b.json", "{broken\n")
    assert athena.wait(athena.start(f"SELECT id FROM {name}"))["Status"]["State"] == "FAILED"


def test_json_keys_match_columns_whatever_their_case(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/openx-json-serde.html"""
    athena.put(f"{name}/a.json", '{"userId": 5}\n')
    athena.run(f"CREATE EXTERNAL TABLE {name} (userId int) {JSON} LOCATION 's3://{athena.bucket}/{name}/'")
    execution = athena.run(f"SELECT userid FROM {name}")
    assert athena.results(execution["QueryExecutionId"])[1:] == [["5"]]
    assert execution["Statistics"]["DataScannedInBytes"] == len('{"userId": 5}\n')


def test_a_table_without_objects_has_no_rows(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/tables-location-format.html"""
    athena.run(f"CREATE EXTERNAL TABLE {name} (id int) {PARQUET} LOCATION 's3://{athena.bucket}/{name}/'")
    assert athena.rows(f"SELECT id FROM {name}") == []
    assert athena.rows(f"SELECT count(*) FROM {name}") == [["0"]]
    assert athena.run(f"SELECT max(id) FROM {name}")["Statistics"]["DataScannedInBytes"] == 0
    assert athena.fail(f"SELECT absent FROM {name}").startswith("COLUMN_NOT_FOUND: line 1:8")


def test_only_the_needed_columns_and_partitions_are_scanned(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/partitions.html"""
    numbers = "SELECT n AS id, cast(random() AS varchar) AS filler, n % 4 AS part FROM UNNEST(sequence(1, 4000)) t(n)"
    athena.run(f"CREATE TABLE {name} WITH (partitioned_by = ARRAY['part']) AS {numbers}")

    def scanned(sql: str) -> int:
        count: int = athena.run(sql)["Statistics"]["DataScannedInBytes"]
        return count

    everything = scanned(f"SELECT * FROM {name}")
    listed = athena.s3.list_objects_v2(Bucket=athena.bucket, Prefix="results/tables/")["Contents"]
    size = sum(item["Size"] for item in listed)
    assert 0.8 * size < everything < size
    ids = scanned(f"SELECT sum(id) FROM {name}")
    assert 0 < ids < everything / 2
    one = scanned(f"SELECT sum(id) FROM {name} WHERE part = 3")
    assert ids / 5 < one < ids / 3
    deep = f"WITH a AS (SELECT *, row_number() OVER (PARTITION BY part ORDER BY id) r FROM {name}) "
    assert scanned(deep + "SELECT sum(id) FROM a WHERE part = 3") == one
    assert scanned(f"SELECT count(*) FROM {name}") == 0
    assert scanned(f"SELECT sum(id) FROM {name} WHERE part + 1 > 9") == 0


def test_text_counts_whole_objects(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/APIReference/API_QueryExecutionStatistics.html"""
    athena.put(f"{name}/a.csv", "1,x\n" * 100)
    athena.run(f"CREATE EXTERNAL TABLE {name} (id int, s string) {CSV} LOCATION 's3://{athena.bucket}/{name}/'")
    assert athena.run(f"SELECT count(id) FROM {name}")["Statistics"]["DataScannedInBytes"] == 400


def test_parquet_columns_match_by_name_and_missing_ones_are_null(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/handling-schema-updates-chapter.html"""
    athena.run(f"UNLOAD (SELECT 1 AS a, 'x' AS b) TO 's3://{athena.bucket}/{name}/' WITH (format = 'PARQUET')")
    athena.run(f"CREATE EXTERNAL TABLE {name} (c int, b string) {PARQUET} LOCATION 's3://{athena.bucket}/{name}/'")
    assert athena.rows(f"SELECT * FROM {name}") == [[None, "x"]]


def test_path_is_a_hidden_column(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/select.html"""
    athena.put(f"{name}/day=2024-01-01/a b.json", '{"id": 1}')
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id int) PARTITIONED BY (day date) {JSON} "
        f"LOCATION 's3://{athena.bucket}/{name}/'"
    )
    athena.run(f"MSCK REPAIR TABLE {name}")
    path = f"s3://{athena.bucket}/{name}/day=2024-01-01/a b.json"
    assert athena.rows(f'SELECT "$path", id, day FROM {name}') == [[path, "1", "2024-01-01"]]
    assert athena.rows(f"SELECT * FROM {name} WHERE \"$path\" = '{path}'") == [["1", "2024-01-01"]]


def test_partitions_by_statement(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/alter-table-add-partition.html and its neighbours"""
    athena.put(f"{name}/a.json", '{"id": 1}')
    athena.put(f"elsewhere/{name}/b.json", '{"id": 2}')
    athena.put(f"{name}/region=eu%2Fwest/day=2/c.json", '{"id": 3}')
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id int) PARTITIONED BY (region string, day int) {JSON} "
        f"LOCATION 's3://{athena.bucket}/{name}/'"
    )
    assert athena.rows(f"SELECT * FROM {name}") == []
    added = f"PARTITION (region='us', day=1) LOCATION 's3://{athena.bucket}/elsewhere/{name}/'"
    athena.run(f"ALTER TABLE {name} ADD {added}")
    assert "AlreadyExistsException" in athena.fail(f"ALTER TABLE {name} ADD {added}")
    athena.run(f"ALTER TABLE {name} ADD IF NOT EXISTS {added}")
    repaired = athena.lines(f"MSCK REPAIR TABLE {name}")
    assert repaired == [f"Repair: Added partition to metastore {name}:region=eu%2Fwest/day=2"]
    assert athena.lines(f"SHOW PARTITIONS {name}") == ["region=eu%2Fwest/day=2", "region=us/day=1"]
    assert athena.rows(f"SELECT * FROM {name} ORDER BY id") == [["2", "us", "1"], ["3", "eu/west", "2"]]
    athena.run(f"ALTER TABLE {name} DROP PARTITION (region='us', day=1)")
    assert athena.rows(f"SELECT id FROM {name}") == [["3"]]
    assert "Partition not found" in athena.fail(f"ALTER TABLE {name} DROP PARTITION (region='us', day=1)")


def test_partition_projection(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/partition-projection-supported-types.html"""
    for key in ("eu/2024-01-02/07", "eu/2024-02-01/07", "xx/2024-01-02/07", "eu/2024-01-02/99", "us/2024-01-31/23"):
        athena.put(f"{name}/{key}/a.json", json.dumps({"id": key}))
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id string) PARTITIONED BY (region string, day string, hour int) {JSON} "
        f"LOCATION 's3://{athena.bucket}/{name}/' TBLPROPERTIES ('projection.enabled'='true', "
        "'projection.region.type'='enum', 'projection.region.values'='eu,us', 'projection.day.type'='date', "
        "'projection.day.range'='2024-01-01,2024-01-31', 'projection.day.format'='yyyy-MM-dd', "
        "'projection.hour.type'='integer', 'projection.hour.range'='0,23', 'projection.hour.digits'='2', "
        f"'storage.location.template'='s3://{athena.bucket}/{name}/${{region}}/${{day}}/${{hour}}')"
    )
    assert athena.rows(f"SELECT * FROM {name} ORDER BY 1") == [
        ["eu/2024-01-02/07", "eu", "2024-01-02", "7"],
        ["us/2024-01-31/23", "us", "2024-01-31", "23"],
    ]
    assert athena.rows(f"SELECT id FROM {name} WHERE hour > 20") == [["us/2024-01-31/23"]]
    other = f"{name}_injected"
    athena.run(
        f"CREATE EXTERNAL TABLE {other} (id string) PARTITIONED BY (region string) {JSON} "
        f"LOCATION 's3://{athena.bucket}/{name}/' TBLPROPERTIES ('projection.enabled'='true', "
        f"'projection.region.type'='injected', "
        f"'storage.location.template'='s3://{athena.bucket}/{name}/${{region}}/')"
    )
    assert athena.rows(f"SELECT id FROM {other} WHERE region = 'xx'") == [["xx/2024-01-02/07"]]
    assert "injected projected partition column region" in athena.fail(f"SELECT id FROM {other}")


@pytest.mark.parametrize(
    ("settings", "folders", "expected"),
    [
        pytest.param(
            {"type": "integer", "range": "0,20", "interval": "5"},
            ["0", "5", "7", "010", "10"],
            ["0", "10", "5"],
            id="integer",
        ),
        pytest.param(
            {
                "type": "date",
                "range": "2024-01-31,NOW",
                "format": "yyyy-MM-dd",
                "interval": "1",
                "interval.unit": "MONTHS",
            },
            ["2024-01-31", "2024-02-29", "2024-03-01", "2024-03-31"],
            ["2024-01-31", "2024-02-29", "2024-03-31"],
            id="months",
        ),
        pytest.param(
            {
                "type": "date",
                "range": "NOW-2YEARS,NOW",
                "format": "yyyy",
            },
            [str(datetime.now(UTC).year), "1999"],
            [str(datetime.now(UTC).year)],
            id="now",
        ),
    ],
)
def test_projected_partitions_are_an_interval_apart(
    athena: Athena, name: str, settings: dict[str, str], folders: list[str], expected: list[str]
) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/partition-projection-supported-types.html"""
    for folder in folders:
        athena.put(f"{name}/key={folder}/a.json", json.dumps({"id": folder}))
    properties = {"projection.enabled": "true"} | {f"projection.key.{name}": text for name, text in settings.items()}
    listed = ", ".join(f"'{setting}'='{text}'" for setting, text in properties.items())
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id string) PARTITIONED BY (key string) {JSON} "
        f"LOCATION 's3://{athena.bucket}/{name}/' TBLPROPERTIES ({listed})"
    )
    assert athena.rows(f"SELECT id FROM {name} ORDER BY id") == [[each] for each in expected]


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ("'projection.key.type'='enum'", "projection.key.values is required"),
        ("'projection.key.type'='hash', 'projection.key.values'='a'", "projection.key.type is hash"),
        (
            "'projection.key.type'='date', 'projection.key.range'='2024-01-01,NOW', "
            "'projection.key.format'='yyyy-MM-dd', 'projection.key.interval'='1'",
            "projection.key.interval.unit is required",
        ),
    ],
)
def test_a_wrong_projection_fails_the_query(athena: Athena, name: str, properties: str, reason: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/partition-projection-supported-types.html"""
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id string) PARTITIONED BY (key string) {JSON} "
        f"LOCATION 's3://{athena.bucket}/{name}/' TBLPROPERTIES ('projection.enabled'='true', {properties})"
    )
    assert reason in athena.fail(f"SELECT id FROM {name}")


# --- Statements that write ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PARQUET", "JSON", "TEXTFILE"])
def test_create_table_as_and_insert(athena: Athena, name: str, form: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/ctas-examples.html; /insert-into.html"""
    location = f"s3://{athena.bucket}/{name}/"
    created = athena.run(
        f"CREATE TABLE {name} WITH (format = '{form}', external_location = '{location}', "
        "partitioned_by = ARRAY['part']) AS SELECT 1 AS id, DECIMAL '1.50' AS amount, DATE '2024-01-02' AS day, "
        "'a' AS part UNION ALL SELECT 2, NULL, NULL, 'b'"
    )
    assert (created["StatementType"], created["SubstatementType"]) == ("DDL", "CREATE_TABLE_AS_SELECT")
    inserted = athena.run(f"INSERT INTO {name} VALUES (3, 2.25, DATE '2024-01-03', 'c d'), (4, 0, NULL, 'a')")
    athena.run(f"INSERT INTO {name} (part, id) WITH x AS (SELECT 'b' AS p, 5 AS n) SELECT p, n FROM x")
    assert athena.client.get_query_results(QueryExecutionId=inserted["QueryExecutionId"])["UpdateCount"] == 2
    assert athena.rows(f"SELECT id, amount, day, part FROM {name} ORDER BY id") == [
        ["1", "1.50", "2024-01-02", "a"],
        ["2", None, None, "b"],
        ["3", "2.25", "2024-01-03", "c d"],
        ["4", "0.00", None, "a"],
        ["5", None, None, "b"],
    ]
    manifest = inserted["Statistics"]["DataManifestLocation"]
    bucket, key = manifest.removeprefix("s3://").split("/", 1)
    listed = athena.s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode().split()
    assert len(listed) == 2
    assert all(item.startswith(f"{location}part=") for item in listed)
    table = athena.glue.get_table(DatabaseName=athena.database, Name=name)["Table"]
    assert [c["Type"] for c in table["StorageDescriptor"]["Columns"]] == ["int", "decimal(3,2)", "date"]
    assert len(athena.lines(f"SHOW PARTITIONS {name}")) == 3


def test_create_table_as_refuses_what_it_would_overwrite(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/ctas-considerations-limitations.html"""
    athena.run(f"CREATE TABLE {name} AS SELECT 1 AS a")
    assert athena.fail(f"CREATE TABLE {name} AS SELECT 1 AS a").startswith("TABLE_ALREADY_EXISTS: line 1:14")
    athena.put(f"{name}/x", "data")
    again = f"CREATE TABLE {name}_2 WITH (external_location = 's3://{athena.bucket}/{name}/') AS SELECT 1 AS a"
    assert athena.fail(again).startswith("HIVE_PATH_ALREADY_EXISTS")
    assert athena.fail(f"CREATE TABLE {name}_3 AS SELECT 1").startswith("MISSING_COLUMN_NAME")
    wrong = f"CREATE TABLE {name}_4 WITH (partitioned_by = ARRAY['a']) AS SELECT 1 AS a, 2 AS b"
    assert athena.fail(wrong).startswith("HIVE_COLUMN_ORDER_MISMATCH")
    numbers = "SELECT n AS m, n FROM UNNEST(sequence(1, 101)) t(n)"
    many = f"CREATE TABLE {name}_5 WITH (partitioned_by = ARRAY['n']) AS {numbers}"
    assert athena.fail(many).startswith("HIVE_TOO_MANY_OPEN_PARTITIONS")
    assert athena.fail(f"INSERT INTO {name} SELECT 1, 2").startswith("TYPE_MISMATCH")


def test_unload(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/unload.html"""
    athena.run(f"UNLOAD (SELECT 1 AS id, 'x' AS s) TO 's3://{athena.bucket}/{name}/' WITH (format = 'JSON')")
    [item] = athena.s3.list_objects_v2(Bucket=athena.bucket, Prefix=f"{name}/")["Contents"]
    body = athena.s3.get_object(Bucket=athena.bucket, Key=item["Key"])["Body"].read()
    assert json.loads(gzip.decompress(body)) == {"id": 1, "s": "x"}
    again = f"UNLOAD (SELECT 1 AS id) TO 's3://{athena.bucket}/{name}/' WITH (format = 'JSON')"
    assert athena.fail(again).startswith("HIVE_PATH_ALREADY_EXISTS")


def test_unload_in_partitions_and_other_formats(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/unload.html"""
    rows = "SELECT * FROM (VALUES (1, 'eu'), (2, 'us')) AS t(id, region)"
    athena.run(
        f"UNLOAD ({rows}) TO 's3://{athena.bucket}/{name}/' "
        "WITH (format = 'PARQUET', compression = 'SNAPPY', partitioned_by = ARRAY['region'])"
    )
    found = athena.s3.list_objects_v2(Bucket=athena.bucket, Prefix=f"{name}/")["Contents"]
    assert {item["Key"].split("/")[1] for item in found} == {"region=eu", "region=us"}
    athena.run(
        f"CREATE EXTERNAL TABLE {name} (id int) PARTITIONED BY (region string) {PARQUET} "
        f"LOCATION 's3://{athena.bucket}/{name}/'"
    )
    athena.lines(f"MSCK REPAIR TABLE {name}")
    assert athena.rows(f"SELECT * FROM {name} ORDER BY id") == [["1", "eu"], ["2", "us"]]
    text = f"UNLOAD ({rows}) TO 's3://{athena.bucket}/{name}_text/' WITH (format = 'TEXTFILE', field_delimiter = '|')"
    athena.run(text)
    [item] = athena.s3.list_objects_v2(Bucket=athena.bucket, Prefix=f"{name}_text/")["Contents"]
    body = athena.s3.get_object(Bucket=athena.bucket, Key=item["Key"])["Body"].read()
    assert gzip.decompress(body).decode().splitlines() == ["1|eu", "2|us"]


def test_views_live_in_the_catalog(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/views.html"""
    athena.run(f"CREATE TABLE {name} AS SELECT 1 AS id, DECIMAL '2.50' AS amount")
    athena.run(f"CREATE VIEW {name}_v AS SELECT id, amount * 2 AS twice FROM {name}")
    table = athena.glue.get_table(DatabaseName=athena.database, Name=f"{name}_v")["Table"]
    assert table["TableType"] == "VIRTUAL_VIEW"
    assert table["ViewOriginalText"].startswith("/* Presto View: ")
    elsewhere = {"QueryExecutionContext": {"Database": "other"}}
    assert athena.rows(f"SELECT * FROM {athena.database}.{name}_v", **elsewhere) == [["1", "5.00"]]
    assert athena.fail(f"CREATE VIEW {name}_v AS SELECT 1 AS x").startswith("TABLE_ALREADY_EXISTS")
    athena.run(f"CREATE OR REPLACE VIEW {name}_v AS SELECT 'new' AS x")
    assert athena.rows(f"SELECT * FROM {name}_v") == [["new"]]
    assert athena.lines("SHOW VIEWS LIKE 't_*_v'") == [f"{name}_v"]
    athena.run(f"DROP VIEW {name}_v")
    assert athena.fail(f"SELECT * FROM {name}_v").startswith("TABLE_NOT_FOUND")


def test_catalog_statements(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/ddl-reference.html"""
    athena.run(f"CREATE DATABASE IF NOT EXISTS {name}")
    athena.run(f"CREATE DATABASE IF NOT EXISTS {name}")
    assert name in athena.lines(f"SHOW DATABASES LIKE '{name}'")
    athena.run(
        f"CREATE EXTERNAL TABLE {name}.t (`id` int COMMENT 'key', m map<string,array<int>>) COMMENT 'c' "
        f"PARTITIONED BY (d string) {PARQUET} LOCATION 's3://{athena.bucket}/x/' TBLPROPERTIES ('a'='b')"
    )
    assert athena.lines(f"SHOW TABLES IN {name}") == ["t"]
    described = [str(line).split() for line in athena.lines(f"DESCRIBE {name}.t")][:3]
    assert described == [["id", "int"], ["m", "map<string,array<int>>"], ["d", "string"]]
    assert [str(line).strip() for line in athena.lines(f"SHOW COLUMNS IN {name}.t")] == ["id", "m", "d"]
    assert "is not empty" in athena.fail(f"DROP DATABASE {name}")
    athena.run(f"DROP TABLE {name}.t")
    athena.run(f"DROP TABLE IF EXISTS {name}.t")
    assert "Table not found" in athena.fail(f"DROP TABLE {name}.t")
    athena.run(f"DROP DATABASE {name}")
    assert athena.lines(f"SHOW DATABASES LIKE '{name}'") == []


@pytest.mark.parametrize(
    "sql", ["VACUUM t", "SHOW CREATE TABLE t", "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE"]
)
def test_unsupported_statements_are_refused_by_name(athena: Athena, sql: str) -> None:
    """What the embedded Athena does not run never passes for run."""
    with pytest.raises(
        athena.client.exceptions.InvalidRequestException, match=f"NOT_SUPPORTED: Statement {sql.split(maxsplit=1)[0]}"
    ):
        athena.start(sql)


# --- Results ------------------------------------------------------------------------------------------------------


def test_the_result_object_is_csv_with_every_value_quoted(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/querying-finding-output-files.html"""
    execution = athena.run("SELECT 1 AS a, NULL AS b, '' AS c, 'x\"y\nz' AS d, 2")
    address = execution["ResultConfiguration"]["OutputLocation"]
    assert address == f"{athena.output}{execution['QueryExecutionId']}.csv"
    key = address.removeprefix(f"s3://{athena.bucket}/")
    body = athena.s3.get_object(Bucket=athena.bucket, Key=key)["Body"].read().decode()
    assert body == '"a","b","c","d","_col4"\n"1",,"","x""y\nz","2"\n'
    assert athena.results(execution["QueryExecutionId"])[1] == ["1", None, "", 'x"y\nz', "2"]


def test_results_describe_their_columns(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/APIReference/API_ColumnInfo.html"""
    query = athena.run(
        "SELECT 1 AS i, CAST(1 AS bigint) AS b, DECIMAL '1.50' AS d, 'x' AS s, 1e0 AS f, DATE '2020-01-01' AS day, "
        "TIMESTAMP '2020-01-01 00:00:00' AS t, ARRAY[1] AS a, true AS l, count(*) AS n, sum(1) AS total"
    )["QueryExecutionId"]
    info = athena.client.get_query_results(QueryExecutionId=query)["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
    types = [column["Type"] for column in info]
    assert ", ".join(types) == (
        "integer, bigint, decimal, varchar, double, date, timestamp, array, boolean, bigint, bigint"
    )
    assert (info[2]["Precision"], info[2]["Scale"]) == (3, 2)


def test_results_come_in_pages(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html"""
    query = athena.run("SELECT n, 'ä' AS s FROM UNNEST(sequence(1, 2500)) AS t(n) ORDER BY n")["QueryExecutionId"]
    first = athena.client.get_query_results(QueryExecutionId=query)
    assert len(first["ResultSet"]["Rows"]) == 1000
    assert first["ResultSet"]["Rows"][0]["Data"][0]["VarCharValue"] == "n"
    rows = athena.results(query)
    assert [row[0] for row in rows[1:]] == [str(n) for n in range(1, 2501)]
    with pytest.raises(athena.client.exceptions.InvalidRequestException, match="MaxResults"):
        athena.client.get_query_results(QueryExecutionId=query, MaxResults=1001)


def test_parameters_and_prepared_statements(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html"""
    sql = "SELECT s FROM (VALUES (1, 'a'), (2, 'b')) AS t(id, s) WHERE id = ? OR s = ?"
    assert athena.rows(sql, ExecutionParameters=["2", "'none'"]) == [["b"]]
    athena.client.create_prepared_statement(StatementName=name, WorkGroup="primary", QueryStatement=sql)
    assert athena.rows(f"EXECUTE {name} USING 7, 'a'") == [["a"]]
    with pytest.raises(athena.client.exceptions.InvalidRequestException, match="expected 2 but found 1"):
        athena.start(sql, ExecutionParameters=["2"])


def test_prepared_statements_are_changed_and_deleted(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html"""
    where = {"StatementName": name, "WorkGroup": "primary"}
    athena.run(f"PREPARE {name} FROM SELECT ? + 1")
    assert athena.client.get_prepared_statement(**where)["PreparedStatement"]["QueryStatement"] == "SELECT ? + 1"
    assert athena.rows(f"EXECUTE {name}", ExecutionParameters=["41"]) == [["42"]]
    athena.client.update_prepared_statement(**where, QueryStatement="SELECT ? * 2")
    assert athena.rows(f"EXECUTE {name} USING 21") == [["42"]]
    listed = athena.client.list_prepared_statements(WorkGroup="primary")["PreparedStatements"]
    assert name in {each["StatementName"] for each in listed}
    athena.run(f"DEALLOCATE PREPARE {name}")
    with pytest.raises(athena.client.exceptions.ResourceNotFoundException):
        athena.client.get_prepared_statement(**where)
    with pytest.raises(athena.client.exceptions.InvalidRequestException, match=f"not found: {name}"):
        athena.start(f"EXECUTE {name} USING 1")
    assert "ResourceNotFoundException" in athena.fail(f"DEALLOCATE PREPARE {name}")
    allowed = allow(["athena:StartQueryExecution", "s3:*"], "*")
    powerless = athena.aws.client("athena", user(athena.aws, allowed))
    query = athena.start(f"PREPARE {name} FROM SELECT 1", client=powerless)
    assert "athena:CreatePreparedStatement" in athena.wait(query)["Status"]["StateChangeReason"]


# --- Workgroups, permissions, states --------------------------------------------------------------------------------


def test_an_enforcing_workgroup_decides_where_results_go(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/workgroups-settings-override.html"""
    athena.client.create_work_group(
        Name=name,
        Configuration={
            "EnforceWorkGroupConfiguration": True,
            "ResultConfiguration": {"OutputLocation": f"s3://{athena.bucket}/enforced"},
        },
    )
    execution = athena.run("SELECT 1", WorkGroup=name)
    assert execution["ResultConfiguration"]["OutputLocation"].startswith(f"s3://{athena.bucket}/enforced/")
    refused = f"CREATE TABLE {name} WITH (external_location = 's3://{athena.bucket}/{name}/') AS SELECT 1 AS a"
    assert "enforces a centralized output location" in athena.fail(refused, WorkGroup=name)
    athena.client.update_work_group(WorkGroup=name, State="DISABLED")
    with pytest.raises(athena.client.exceptions.InvalidRequestException, match="disabled"):
        athena.start("SELECT 1", WorkGroup=name)
    with pytest.raises(athena.client.exceptions.InvalidRequestException):
        athena.start("SELECT 1", WorkGroup="absent")
    assert athena.client.list_query_executions(WorkGroup=name)["QueryExecutionIds"][-1] == execution["QueryExecutionId"]


def test_a_query_over_the_scan_limit_is_cancelled(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/workgroups-setting-control-limits-cloudwatch.html"""
    athena.client.create_work_group(Name=name, Configuration={"BytesScannedCutoffPerQuery": 10_000_000})
    athena.put(f"{name}/a.csv", "1,xxxxxxxx\n" * 1_000_000)
    athena.run(f"CREATE EXTERNAL TABLE {name} (id int, s string) {CSV} LOCATION 's3://{athena.bucket}/{name}/'")
    assert athena.rows(f"SELECT sum(id) FROM {name}") == [["1000000"]]
    status = athena.wait(athena.start(f"SELECT sum(id) FROM {name}", WorkGroup=name))["Status"]
    assert status["State"] == "CANCELLED"
    assert "Bytes scanned limit was exceeded" in status["StateChangeReason"]


def test_queries_have_the_callers_permissions(athena: Athena, name: str) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/s3-permissions.html; /fine-grained-access-to-glue-resources.html"""
    athena.put(f"{name}/a.csv", "1,x\n")
    athena.run(f"CREATE EXTERNAL TABLE {name} (id int, s string) {CSV} LOCATION 's3://{athena.bucket}/{name}/'")
    iam = athena.aws.client("iam")
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    caller = athena.aws.client("athena", key)
    results = f"arn:aws:s3:::{athena.bucket}/results/*"

    def allow(*statements: tuple[list[str], str]) -> None:
        items = [{"Effect": "Allow", "Action": actions, "Resource": resource} for actions, resource in statements]
        document = json.dumps({"Version": "2012-10-17", "Statement": items})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)

    def status() -> dict[str, Any]:
        outcome: dict[str, Any] = athena.wait(athena.start(f"SELECT id FROM {name}", client=caller))["Status"]
        return outcome

    base = [(["athena:*"], "*"), (["s3:PutObject", "s3:GetObject"], results)]
    allow(*base)
    assert status()["StateChangeReason"].startswith("Insufficient permissions to execute the query")
    bucket = (["s3:ListBucket"], f"arn:aws:s3:::{athena.bucket}")
    allow(*base, (["glue:GetTable", "glue:GetDatabase"], "*"), bucket)
    assert status()["StateChangeReason"].startswith("PERMISSION_DENIED: Access denied when reading s3://")
    data = (["s3:GetObject"], f"arn:aws:s3:::{athena.bucket}/{name}/*")
    allow(*base, (["glue:GetTable", "glue:GetDatabase"], "*"), bucket, data)
    assert status()["State"] == "SUCCEEDED"
    allow(base[0], (["glue:GetTable", "glue:GetDatabase"], "*"), bucket, data)
    assert "writing output to url" in status()["StateChangeReason"]


def test_stop_interrupts_a_running_query(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/APIReference/API_StopQueryExecution.html"""
    numbers = "UNNEST(sequence(1, 3000000))"
    query = athena.start(f"SELECT count(*) FROM {numbers} AS a(x) JOIN {numbers} AS b(y) ON x % 7 < y % 5")
    deadline = time.monotonic() + 10
    while athena.client.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]["State"] == "QUEUED":
        assert time.monotonic() < deadline
    time.sleep(0.5)
    asked = time.monotonic()
    athena.client.stop_query_execution(QueryExecutionId=query)
    status = athena.wait(query)["Status"]
    assert status["State"] == "CANCELLED"
    assert time.monotonic() - asked < 5
    with pytest.raises(athena.client.exceptions.InvalidRequestException, match="CANCELLED"):
        athena.client.get_query_results(QueryExecutionId=query)


def test_the_same_request_token_is_the_same_query(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/APIReference/API_StartQueryExecution.html"""
    token = uuid.uuid4().hex * 2
    first = athena.start("SELECT 1", ClientRequestToken=token)
    assert athena.start("SELECT 1", ClientRequestToken=token) == first
    with pytest.raises(athena.client.exceptions.InvalidRequestException, match="Idempotent parameters"):
        athena.start("SELECT 2", ClientRequestToken=token)


def test_batches_name_what_they_do_not_know(athena: Athena) -> None:
    """https://docs.aws.amazon.com/athena/latest/APIReference/API_BatchGetQueryExecution.html"""
    known, unknown = athena.run("SELECT 1")["QueryExecutionId"], str(uuid.uuid4())
    answer = athena.client.batch_get_query_execution(QueryExecutionIds=[known, unknown])
    assert [execution["QueryExecutionId"] for execution in answer["QueryExecutions"]] == [known]
    assert [item["QueryExecutionId"] for item in answer["UnprocessedQueryExecutionIds"]] == [unknown]
    timeline = athena.client.get_query_runtime_statistics(QueryExecutionId=known)["QueryRuntimeStatistics"]["Timeline"]
    assert timeline["TotalExecutionTimeInMillis"] >= timeline["EngineExecutionTimeInMillis"] > 0
