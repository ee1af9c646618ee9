"""Redshift SQL: tables, functions, MERGE, materialized views, COPY and UNLOAD."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import warehouse as warehouses
from tests.conformance.test_iam import allow, role, unique
from tests.conformance.warehouse import REDSHIFT, Warehouse, manifest
from tests.conftest import Aws


@pytest.fixture(scope="module")
def warehouse(aws: Aws) -> Iterator[Warehouse]:
    made = warehouses.create(aws)
    yield made
    warehouses.remove(made)


# Tables -----------------------------------------------------------------------------------------------------------


def test_physical_design_and_keys_do_not_change_what_a_table_holds(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/t_Defining_constraints.html"""
    warehouse.do(
        "CREATE TABLE IF NOT EXISTS Designed (id BIGINT IDENTITY(1, 1), code VARCHAR(8) ENCODE zstd DISTKEY, "
        "UNIQUE (code), price DECIMAL, PRIMARY KEY (id)) BACKUP NO DISTSTYLE KEY COMPOUND SORTKEY (code, price)",
        "INSERT INTO designed (code, price) VALUES ('a', 1.5), ('a', 2)",
    )
    # Unique in name only, numbered from 1, whole by default: DECIMAL is DECIMAL(18, 0).
    assert warehouse.rows('SELECT "ID", Code, price FROM DESIGNED ORDER BY id') == [[1, "a", "2"], [2, "a", "2"]]
    assert 'column "id"' in warehouse.error("INSERT INTO designed VALUES (9, 'x', 1)")
    warehouse.do("CREATE TABLE keyed (id INT, PRIMARY KEY (id))", "INSERT INTO keyed VALUES (1), (1)")
    assert "null value" in warehouse.error("INSERT INTO keyed VALUES (NULL)")
    assert '"nothere" specified as sortkey' in warehouse.error("CREATE TABLE bad (id INT) SORTKEY (nothere)")


def test_text_is_measured_in_bytes(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_Character_types.html"""
    warehouse.do("CREATE TABLE measured (v VARCHAR(4), d VARCHAR)", "INSERT INTO measured VALUES ('éé', 'x')")
    too_long = "ERROR: Value too long for character type"
    assert warehouse.error("INSERT INTO measured VALUES ('ééé', 'x')") == too_long
    assert warehouse.error("INSERT INTO measured (d) VALUES (REPEAT('x', 257))") == too_long
    warehouse.do("CREATE TABLE alike (LIKE measured)")
    assert warehouse.error("INSERT INTO alike VALUES ('ééé', 'x')") == too_long


def test_tables_made_of_others(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_CREATE_TABLE_AS.html"""
    warehouse.do("CREATE TABLE made DISTSTYLE ALL SORTKEY (a) AS SELECT 1 AS a, 'x'::VARCHAR(5) AS b")
    batch = warehouse.batch(
        "CREATE TEMP TABLE passing (LIKE made)",
        "INSERT INTO passing SELECT * FROM made",
        "CREATE TABLE #short AS SELECT * FROM passing",
        "ALTER TABLE made ADD COLUMN c INT ENCODE az64",
        "UPDATE made SET c = s.a + 1 FROM #short s WHERE made.a = s.a",
        "DELETE FROM passing USING made WHERE passing.a = made.a",
    )
    assert batch["Status"] == "FINISHED", batch["Error"]
    assert [part["ResultRows"] for part in batch["SubStatements"]][4:] == [1, 1]
    assert warehouse.rows("SELECT * FROM made") == [[1, "x", 2]]
    assert "passing" in warehouse.error("SELECT * FROM passing")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO t VALUES (1) RETURNING id",
        "CREATE INDEX i ON t (id)",
        "CREATE TABLE bad (id UUID)",
        "CREATE TABLE bad (ids INT[])",
        "SELECT STRING_AGG(id::VARCHAR, ',') FROM t",
        "SELECT COUNT(*) FILTER (WHERE id > 1) FROM t",
        "SELECT DISTINCT ON (id) id FROM t",
        "SELECT * FROM GENERATE_SERIES(1, 3)",
    ],
)
def test_what_only_postgresql_has_is_refused(warehouse: Warehouse, sql: str) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/c_redshift-and-postgres-sql.html"""
    warehouse.do("CREATE TABLE IF NOT EXISTS t (id INT)")
    message = warehouse.error(sql)
    assert "does not exist" in message or "support" in message


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE EXTERNAL SCHEMA e FROM DATA CATALOG DATABASE 'd' IAM_ROLE DEFAULT",
        "CREATE MODEL m FROM t TARGET id FUNCTION f IAM_ROLE DEFAULT SETTINGS (S3_BUCKET 'b')",
        "CREATE VIEW late AS SELECT * FROM nowhere.t WITH NO SCHEMA BINDING",
        "COPY t FROM 'dynamodb://t' IAM_ROLE DEFAULT READRATIO 50",
        "COPY t FROM 's3://b/k' IAM_ROLE DEFAULT FORMAT ORC",
        "CALL nothing()",
    ],
)
def test_what_is_not_done_here_is_refused_by_name(warehouse: Warehouse, sql: str) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/c_SQL_commands.html"""
    assert "not supported by the embedded Redshift" in warehouse.error(sql)


# Functions: values from the documentation's examples --------------------------------------------------------------

FUNCTIONS = [
    ("DATEADD(month, 18, '2008-02-28'::DATE)", "2009-08-28 00:00:00"),
    ("DATEADD(month, 1, '2008-01-31'::DATE)", "2008-02-29 00:00:00"),
    ("ADD_MONTHS('2008-04-30'::DATE, 1)", "2008-05-31 00:00:00"),
    ("DATEADD(m, 18, '2008-02-28 10:00'::TIMESTAMP)", "2008-02-28 10:18:00"),
    ("DATEDIFF(week, '2009-01-01'::DATE, '2009-12-31'::DATE)", 52),
    ("DATEDIFF(qtr, '1998-07-01'::DATE, '2008-10-15'::DATE)", 41),
    ("DATEDIFF(hour, '2009-01-01 10:59'::TIMESTAMP, '2009-01-01 11:00'::TIMESTAMP)", 1),
    ("DATEDIFF(day, '2024-03-01'::DATE, '2024-02-28'::DATE)", -2),
    ("DATE_TRUNC('week', '2008-09-05'::DATE)", "2008-09-01 00:00:00"),
    ("DATE_PART(epoch, '2024-01-01 00:00:01'::TIMESTAMP)", 1704067201),
    ("EXTRACT(minute FROM '2024-01-01 10:42:59.9'::TIMESTAMP)", 42),
    ("LAST_DAY('2024-02-05'::DATE)", "2024-02-29"),
    ("TRUNC('2011-07-21 10:32:38'::TIMESTAMP)", "2011-07-21"),
    ("CONVERT_TIMEZONE('EST', '2008-08-21 07:23:54'::TIMESTAMP)", "2008-08-21 02:23:54"),
    ("CONVERT_TIMEZONE('Europe/Berlin', 'UTC', '2024-07-01 12:00'::TIMESTAMP)", "2024-07-01 10:00:00"),
    ("MONTHS_BETWEEN('1969-01-18'::DATE, '1969-03-18'::DATE)", -2.0),
    ("GETDATE() BETWEEN DATEADD(minute, -5, SYSDATE) AND DATEADD(minute, 5, SYSDATE)", True),
    ("TO_CHAR('2009-12-31 23:15:59'::TIMESTAMP, 'MONTH-DY-DD-YYYY HH12:MIPM')", "DECEMBER -THU-31-2009 11:15PM"),
    ("TO_DATE('02 Oct 2001', 'DD Mon YYYY')", "2001-10-02"),
    ("NVL(NULL, 'x')", "x"),
    ("NVL2(NULL, 'set', 'unset')", "unset"),
    ("DECODE(3, 1, 'one', 3, 'three', 'many')", "three"),
    ("LEN('français')", 8),
    ("OCTET_LENGTH('français')", 9),
    ("CHARINDEX('fish', 'dogfish')", 4),
    ("SPLIT_PART('abc$def$ghi', '$', 2)", "def"),
    ("REGEXP_REPLACE('the fox', '[a-z]+', 'x')", "x x"),
    ("REGEXP_SUBSTR('a fox', 'f.x')", "fox"),
    ("STRTOL('abcd1234', 16)", 2882343476),
    ("STRTOL('110101', 2)", 53),
    ("SHA2('abc', 256)", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ('JSON_EXTRACT_PATH_TEXT(\'{"f4":{"f5":99,"f6":"star"}}\', \'f4\', \'f6\')', "star"),
    ("JSON_EXTRACT_PATH_TEXT('broken', 'f4', TRUE)", None),
    ("JSON_EXTRACT_ARRAY_ELEMENT_TEXT('[111,112,113]', 2)", "113"),
    ("JSON_ARRAY_LENGTH('[11,12,13]')", 3),
    ("IS_VALID_JSON('{\"a\":2}')", True),
    ("IS_VALID_JSON('{a:2}')", False),
    ("10 / 4", 2),
    ("TRUE::INT + 1", 2),
]


@pytest.mark.parametrize(("expression", "value"), FUNCTIONS)
def test_a_function_gives_what_the_documentation_says(warehouse: Warehouse, expression: str, value: Any) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/c_SQL_functions.html"""
    assert warehouse.value(f"SELECT {expression}") == value


def test_aggregates_and_windows(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/c_Aggregate_Functions.html"""
    warehouse.do(
        "CREATE TABLE sold (who VARCHAR(9), amount INT)",
        "INSERT INTO sold VALUES ('ann', 10), ('bob', 20), ('ann', 35), ('cid', 35)",
    )
    one = (
        "SELECT AVG(amount), MEDIAN(amount), APPROXIMATE COUNT(DISTINCT who), SUM(amount), "
        "LISTAGG(DISTINCT who, '+') WITHIN GROUP (ORDER BY who DESC), "
        "LISTAGG(amount, ',') WITHIN GROUP (ORDER BY amount) FROM sold"
    )
    # The average of whole numbers is one.
    assert warehouse.rows(one) == [[25, 27.5, 3, 100, "cid+bob+ann", "10,20,35,35"]]
    ranked = (
        "SELECT who, amount FROM sold QUALIFY ROW_NUMBER() OVER (PARTITION BY who ORDER BY amount DESC) = 1 ORDER BY 1"
    )
    assert warehouse.rows(ranked) == [["ann", 35], ["bob", 20], ["cid", 35]]
    assert warehouse.rows("SELECT TOP 1 amount FROM sold ORDER BY amount DESC") == [[35]]
    share = "SELECT RATIO_TO_REPORT(amount) OVER (PARTITION BY who) FROM sold WHERE who = 'ann' ORDER BY 1"
    assert [round(value, 4) for (value,) in warehouse.rows(share)] == [0.2222, 0.7778]


# MERGE and materialized views -------------------------------------------------------------------------------------


def test_merge_updates_what_matches_and_inserts_the_rest(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html"""
    warehouse.do(
        "CREATE TABLE target (id INT, name VARCHAR(9))",
        "CREATE TABLE source (id INT, name VARCHAR(9))",
        "INSERT INTO target VALUES (101, 'Bob'), (102, 'John'), (103, 'Susan')",
        "INSERT INTO source VALUES (102, 'Tony'), (103, 'Alice'), (104, 'Bill')",
    )
    merge = (
        "MERGE INTO target USING source ON target.id = source.id WHEN MATCHED THEN {} WHEN NOT MATCHED THEN INSERT {}"
    )
    update = "UPDATE SET id = source.id, name = source.name"
    statement = warehouse.run(merge.format(update, "VALUES (source.id, source.name)"))
    assert (statement["Status"], statement["ResultRows"]) == ("FINISHED", 3), statement.get("Error")
    everything = "SELECT * FROM target ORDER BY id"
    merged = [[101, "Bob"], [102, "Tony"], [103, "Alice"], [104, "Bill"]]
    assert warehouse.rows(everything) == merged
    warehouse.do("INSERT INTO source VALUES (102, 'Twice')")
    message = warehouse.error(merge.format(update, "(id, name) VALUES (source.id, source.name)"))
    assert message == "ERROR: Found multiple matches to update the same tuple."
    assert warehouse.rows(everything) == merged
    warehouse.do("DELETE FROM source WHERE id <> 104", merge.format("DELETE", "VALUES (source.id, source.name)"))
    assert warehouse.rows(everything) == merged[:3]
    assert "table" in warehouse.error(
        "MERGE INTO target USING (SELECT 1 AS id) s ON target.id = s.id WHEN MATCHED THEN DELETE "
        "WHEN NOT MATCHED THEN INSERT VALUES (1, 'x')"
    )


def test_merges_of_one_table_wait_for_each_other(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/c_write_readwrite.html"""
    warehouse.do(
        "CREATE TABLE shared (id INT, loads INT)",
        "CREATE TABLE arriving AS SELECT 1 AS id",
        "CREATE TABLE again AS SELECT 1 AS id",
    )
    merge = (
        "MERGE INTO shared USING {0} ON shared.id = {0}.id WHEN MATCHED THEN UPDATE SET loads = loads + 1 "
        "WHEN NOT MATCHED THEN INSERT VALUES ({0}.id, 1)"
    )
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT COUNT(*) FROM n"
    started = [
        warehouse.data.batch_execute_statement(Sqls=[merge.format(source), slow], **warehouse.login)["Id"]
        for source in ("arriving", "again")
    ]
    assert [warehouse.ended(identifier)["Status"] for identifier in started] == ["FINISHED", "FINISHED"]
    assert warehouse.rows("SELECT * FROM shared") == [[1, 2]]


def test_merge_remove_duplicates(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html"""
    warehouse.do(
        "CREATE TABLE kept (id INT, name VARCHAR(9))",
        "CREATE TABLE coming (id INT, name VARCHAR(9))",
        "INSERT INTO kept VALUES (30, 'Tony'), (11, 'Alice'), (23, 'Bill')",
        "INSERT INTO coming VALUES (23, 'David'), (22, 'Clarence'), (22, 'Clarence')",
        "MERGE INTO kept USING coming ON kept.id = coming.id REMOVE DUPLICATES",
    )
    assert warehouse.rows("SELECT * FROM kept ORDER BY id") == [
        [11, "Alice"],
        [22, "Clarence"],
        [23, "David"],
        [30, "Tony"],
    ]


def test_materialized_views_are_refreshed_on_demand_or_by_themselves(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/materialized-view-refresh.html"""
    warehouse.do(
        "CREATE TABLE base (id INT)",
        "CREATE MATERIALIZED VIEW manual BACKUP NO DISTSTYLE EVEN SORTKEY (n) AUTO REFRESH NO "
        "AS SELECT COUNT(*) AS n FROM base",
        "CREATE MATERIALIZED VIEW automatic AUTO REFRESH YES AS SELECT COUNT(*) AS n FROM base",
        "INSERT INTO base VALUES (1), (2)",
    )
    assert warehouse.value("SELECT n FROM manual") == 0
    deadline = time.monotonic() + 10
    while (seen := warehouse.value("SELECT n FROM automatic")) != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == 2
    warehouse.do("REFRESH MATERIALIZED VIEW manual")
    assert warehouse.value("SELECT n FROM manual") == 2
    assert "manual" in warehouse.error("INSERT INTO manual VALUES (3)")
    known = "SELECT name, autorefresh FROM svv_mv_info WHERE name IN ('manual', 'automatic') ORDER BY 1"
    assert warehouse.rows(known) == [["automatic", True], ["manual", False]]
    warehouse.do("DROP MATERIALIZED VIEW automatic", "DROP MATERIALIZED VIEW IF EXISTS automatic")


def test_maintenance_is_accepted(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_VACUUM_command.html"""
    warehouse.do("CREATE TABLE swept (id INT)", "VACUUM FULL swept", "VACUUM", "ANALYZE swept", "ANALYZE VERBOSE swept")
    assert "nothere" in warehouse.error("VACUUM nothere")
    assert "transaction" in warehouse.batch("VACUUM swept", "SELECT 1")["Error"]


# COPY -------------------------------------------------------------------------------------------------------------


def table(warehouse: Warehouse, columns: str) -> str:
    """Create a table of a new name and return the name."""
    name = unique("t").replace("-", "_")
    warehouse.do(f"CREATE TABLE {name} ({columns})")
    return name


def loaded(warehouse: Warehouse, name: str, source: str, options: str) -> list[list[Any]]:
    """Copy into a table and return its rows."""
    warehouse.do(f"COPY {name} FROM '{source}' IAM_ROLE DEFAULT {options}")
    return warehouse.rows(f"SELECT * FROM {name} ORDER BY 1")


def test_copy_of_json_by_a_manifest(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/copy-usage_notes-copy-from-json.html"""
    name = table(
        warehouse,
        "id INT, at TIMESTAMP, price DECIMAL(9, 2), note VARCHAR(20), ok BOOLEAN, more SUPER, n INT DEFAULT 7",
    )
    rows: list[dict[str, Any]] = [
        {
            "id": 1,
            "at": "2024-01-02T03:04:05.678Z",
            "price": "1.25",
            "note": 'a "quoted", \\N é',
            "ok": True,
            "more": {"k": [1]},
        },
        {"id": 2, "at": "2024-01-02 03:04:05", "price": 2.5, "note": None, "ok": False, "unknown": 1},
    ]
    text = "".join(json.dumps(row) for row in rows)  # objects need no separator
    first = warehouse.put("json/1.gz", gzip.compress(text.encode()))
    second = warehouse.put("json/2.gz", gzip.compress(b'{"id": 3,\n "note": ""}\n\n{"ID": 9, "id": 4}\n'))
    listed = warehouse.put("json/manifest", manifest(first, second))
    assert loaded(warehouse, name, listed, "MANIFEST GZIP FORMAT JSON 'auto' TIMEFORMAT 'auto'") == [
        [1, "2024-01-02 03:04:05.678", "1.25", 'a "quoted", \\N é', True, '{"k": [1]}', None],
        [2, "2024-01-02 03:04:05", "2.50", None, False, None, None],
        [3, None, None, "", None, None, None],
        [4, None, None, None, None, None, None],
    ]


def test_copy_of_json_by_paths_and_without_case(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-data-format.html"""
    name = table(warehouse, "id INT, city VARCHAR(20), first INT")
    source = warehouse.put("paths/1", json.dumps({"Key": 5, "home": {"the city": "Oslo"}, "list": [8, 9]}))
    paths = warehouse.put("paths.json", json.dumps({"jsonpaths": ["$.Key", "$['home']['the city']", "$.list[1]"]}))
    assert loaded(warehouse, name, source, f"JSON '{paths}'") == [[5, "Oslo", 9]]
    other = table(warehouse, "id INT, city VARCHAR(20) DEFAULT 'none'")
    source = warehouse.put("cases/1", '{"ID": 1, "City": "Rome"}')
    warehouse.do(f"COPY {other} (id) FROM '{source}' IAM_ROLE DEFAULT JSON 'auto ignorecase'")
    assert warehouse.rows(f"SELECT * FROM {other}") == [[1, "none"]]


def test_copy_of_csv(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-data-conversion.html"""
    name = table(warehouse, "id INT, note VARCHAR(20), day DATE, amount FLOAT")
    source = warehouse.put("csv/1", 'id,note,day,amount\n1,"a ""b""\nc",2024-02-29,1.5\n2,,,\n3,NIX, ,0\n')
    assert loaded(warehouse, name, source, "CSV IGNOREHEADER 1 NULL AS 'NIX' COMPUPDATE OFF STATUPDATE ON") == [
        [1, 'a "b"\nc', "2024-02-29", 1.5],
        [2, "", None, None],
        [3, None, None, 0.0],
    ]
    warehouse.do(f"TRUNCATE {name}")
    source = warehouse.put("text/1", "1|x y|02/29/2024|2\n2|   |03/01/2024|\n")
    options = "DATEFORMAT 'MM/DD/YYYY' BLANKSASNULL"
    assert loaded(warehouse, name, source, options) == [[1, "x y", "2024-02-29", 2.0], [2, None, "2024-03-01", None]]
    warehouse.do(f"TRUNCATE {name}")
    source = warehouse.put("long/1", "1;" + "é" * 15 + ";;\n")
    assert loaded(warehouse, name, source, "DELIMITER ';' EMPTYASNULL TRUNCATECOLUMNS") == [[1, "é" * 10, None, None]]


def test_copy_of_parquet(warehouse: Warehouse, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/copy-usage_notes-copy-from-columnar.html"""
    name = table(warehouse, "id BIGINT, price DECIMAL(9, 2), day DATE, at TIMESTAMP, note VARCHAR(20)")
    path = tmp_path / "rows.parquet"
    warehouses.parquet(
        "COPY (SELECT 1::BIGINT a, 1.25::DECIMAL(9, 2) b, DATE '2024-02-29' c, TIMESTAMP '2024-02-29 01:02:03' d, "
        f"'é' e) TO '{path}' (FORMAT parquet); SELECT 1"
    )
    source = warehouse.put("parquet/day=1/rows.parquet", path.read_bytes())
    expected = [[1, "1.25", "2024-02-29", "2024-02-29 01:02:03", "é"]]
    assert loaded(warehouse, name, source, "FORMAT AS PARQUET") == expected
    narrow = table(warehouse, "id BIGINT")
    assert "5 columns" in warehouse.error(f"COPY {narrow} FROM '{source}' IAM_ROLE DEFAULT PARQUET")
    wrong = table(warehouse, "id VARCHAR(9), price DECIMAL(9, 2), day DATE, at TIMESTAMP, note VARCHAR(20)")
    assert "incompatible Parquet schema" in warehouse.error(f"COPY {wrong} FROM '{source}' IAM_ROLE DEFAULT PARQUET")


def test_rows_that_cannot_be_loaded_are_named(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/SYS_LOAD_ERROR_DETAIL.html"""
    name = table(warehouse, "id INT NOT NULL, note VARCHAR(3), at TIMESTAMP, price DECIMAL(5, 2)")
    lines = [
        '{"id": 1, "note": "ok"}',
        '{"id": "x1"}',
        '{"id": 3, "note": "long"}',
        '{"id": 4, "at": "yesterday"}',
        '{"note": "no"}',
        "damaged",
        '{"id": 7, "price": 12345}',
    ]
    source = warehouse.put("errors/1", "\n".join(lines))
    copy = f"COPY {name} FROM '{source}' IAM_ROLE DEFAULT JSON 'auto' TIMEFORMAT 'auto'"
    message = warehouse.error(copy)
    assert message == (
        f"ERROR: Load into table '{name}' failed.  Check 'sys_load_error_detail' system table for details."
    )
    assert warehouse.value(f"SELECT COUNT(*) FROM {name}") == 0
    query = (
        "SELECT line_number, column_name, error_code, error_message FROM sys_load_error_detail "
        f"WHERE table_id = '{name}'::REGCLASS::OID::INT ORDER BY line_number"
    )
    found = warehouse.rows(query)
    assert [row[:3] for row in found] == [
        [2, "id", 1207],
        [3, "note", 1204],
        [4, "at", 1206],
        [5, "id", 1213],
        [6, "", 1216],
        [7, "price", 1209],
    ]
    assert found[0][3] == "Invalid digit, Value 'x', Pos 0, Type: Integer"
    assert found[1][3] == "String length exceeds DDL length"
    warehouse.do(f"{copy} MAXERROR 6")
    assert warehouse.rows(f"SELECT id FROM {name}") == [[1]]
    again = warehouse.batch(f"{copy} MAXERROR 6", "SELECT PG_LAST_COPY_COUNT()")
    assert warehouses.fetched(warehouse.data, f"{again['Id']}:2") == [[1]]
    history = (
        f"SELECT status, loaded_rows, error_count FROM sys_load_history WHERE table_name = '{name}' ORDER BY query_id"
    )
    assert warehouse.rows(history)[:2] == [["failed", 0, 6], ["completed", 1, 6]]


def test_rows_of_csv_that_cannot_be_loaded_are_named(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_Load_Error_Reference.html"""
    name = table(warehouse, "id INT, note VARCHAR(9)")
    source = warehouse.put("csverrors/1", "id,note\n1,a\n2\n3,b,c\nx,d\n5,e\n")
    copy = f"COPY {name} FROM '{source}' IAM_ROLE DEFAULT CSV IGNOREHEADER 1"
    assert "sys_load_error_detail" in warehouse.error(copy)
    query = f"SELECT line_number, err_code FROM stl_load_errors WHERE tbl = '{name}'::REGCLASS::OID::INT ORDER BY 1"
    assert warehouse.rows(query) == [[3, 1201], [4, 1202], [5, 1207]]
    warehouse.do(f"{copy} MAXERROR 3")
    assert warehouse.rows(f"SELECT * FROM {name} ORDER BY 1") == [[1, "a"], [5, "e"]]


def test_a_batch_that_fails_after_its_copy_loads_nothing(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_BatchExecuteStatement.html"""
    name = table(warehouse, "id INT")
    source = warehouse.put("undone/1", "1\n")
    failed = warehouse.batch(f"COPY {name} FROM '{source}' IAM_ROLE DEFAULT CSV", "SELECT 1 / 0")
    assert failed["SubStatements"][0]["ResultRows"] == 1
    assert warehouse.rows(f"SELECT * FROM {name}") == []


def test_a_manifest_names_what_is_loaded(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/loading-data-files-using-manifest.html"""
    name = table(warehouse, "id INT")
    there = warehouse.put("named/1", "1\n")
    warehouse.put("named/2", "2\n")
    missing = f"s3://{warehouse.bucket}/named/3"
    lax = warehouse.put("manifests/lax", manifest(there, missing, mandatory=False))
    assert loaded(warehouse, name, lax, "MANIFEST CSV") == [[1]]
    strict = warehouse.put("manifests/strict", manifest(there, missing))
    copy = f"COPY {name} FROM '{{}}' IAM_ROLE DEFAULT MANIFEST CSV"
    assert "named/3" in warehouse.error(copy.format(strict))
    assert "NoSuchKey" in warehouse.error(copy.format(f"s3://{warehouse.bucket}/manifests/none"))
    assert "manifest" in warehouse.error(copy.format(there))
    # Without a manifest the address is the start of keys.
    assert loaded(warehouse, name, f"s3://{warehouse.bucket}/named/", "CSV") == [[1], [1], [2]]
    assert "does not exist" in warehouse.error(f"COPY {name} FROM 's3://{warehouse.bucket}/none/' IAM_ROLE DEFAULT CSV")


def test_copy_needs_a_role_that_is_attached_trusts_redshift_and_may_read(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-authorization.html"""
    name = table(warehouse, "id INT")
    source = warehouse.put("guarded/1", "1\n")
    serverless = aws.client("redshift-serverless")
    read = allow(["s3:GetObject", "s3:ListBucket"], "*")
    attached = [warehouse.role, role(aws, "glue.amazonaws.com", read), role(aws, REDSHIFT), role(aws, REDSHIFT, read)]
    copy = f"COPY {name} FROM '{source}' IAM_ROLE '{{}}' CSV"
    assert "is not associated to cluster" in warehouse.error(copy.format(attached[3]))
    serverless.update_namespace(namespaceName=warehouse.name, iamRoles=attached)
    assert "is not authorized to assume IAM Role" in warehouse.error(copy.format(attached[1]))
    assert "S3ServiceException:Access Denied,Status 403" in warehouse.error(copy.format(attached[2]))
    warehouse.do(copy.format(attached[3]))
    assert warehouse.rows(f"SELECT * FROM {name}") == [[1]]
    assert "IAM_ROLE" in warehouse.error(f"COPY {name} FROM '{source}' CSV")


def test_unload_needs_a_role_that_may_write(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_UNLOAD.html"""
    reader = role(aws, REDSHIFT, allow(["s3:GetObject", "s3:ListBucket"], "*"))
    writer = role(aws, REDSHIFT, allow(["s3:PutObject", "s3:ListBucket"], "*"))
    roles = [warehouse.role, reader, writer]
    aws.client("redshift-serverless").update_namespace(namespaceName=warehouse.name, iamRoles=roles)
    unload = f"UNLOAD ('SELECT 1') TO 's3://{warehouse.bucket}/denied/' IAM_ROLE '{{}}'"
    assert "Access Denied" in warehouse.error(unload.format(reader))
    assert warehouse.objects("denied/") == {}
    warehouse.do(unload.format(writer))
    assert warehouse.objects("denied/") != {}


def test_copy_of_a_hundred_thousand_rows_is_fast(warehouse: Warehouse) -> None:
    """A load is not what the tests of the scenarios wait for; a million rows take less than ten seconds."""
    name = table(warehouse, "id INT, name VARCHAR(40), amount DECIMAL(12, 2), at TIMESTAMP")
    line = '{{"id":{0},"name":"product {0}","amount":"{0}.25","at":"2024-01-02T03:04:05Z"}}\n'
    source = warehouse.put("many/1.gz", gzip.compress("".join(map(line.format, range(100_000))).encode(), 1))
    began = time.monotonic()
    warehouse.do(f"COPY {name} FROM '{source}' IAM_ROLE DEFAULT GZIP JSON 'auto' TIMEFORMAT 'auto'")
    assert time.monotonic() - began < 8
    assert warehouse.rows(f"SELECT COUNT(*), SUM(amount), MAX(at) FROM {name}") == [
        [100_000, "4999975000.00", "2024-01-02 03:04:05"]
    ]


# UNLOAD -----------------------------------------------------------------------------------------------------------


def test_unload_to_csv_json_and_text(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_UNLOAD.html"""
    name = table(warehouse, "id INT, note VARCHAR(20), ok BOOLEAN")
    warehouse.do(f"INSERT INTO {name} VALUES (1, 'a, \"b\"', true), (2, NULL, false)")
    target = f"s3://{warehouse.bucket}/unloaded/"
    query = f"SELECT * FROM {name} WHERE note = ''a, \"b\"'' OR note IS NULL ORDER BY id"
    unload = f"UNLOAD ('{query}') TO '{target}{{}}' IAM_ROLE DEFAULT {{}}"
    statement = warehouse.run(unload.format("csv_", "CSV HEADER PARALLEL OFF MANIFEST"))
    assert (statement["Status"], statement["ResultRows"]) == ("FINISHED", 2), statement.get("Error")
    written = warehouse.objects("unloaded/csv_")
    assert written["000"] == b'id,note,ok\n1,"a, ""b""",t\n2,,f\n'
    [entry] = json.loads(written["manifest"])["entries"]
    assert entry["url"] == f"{target}csv_000"
    assert "is not empty" in warehouse.error(unload.format("csv_", "CSV"))
    warehouse.do(unload.format("csv_", "CSV PARALLEL OFF ALLOWOVERWRITE"))
    assert warehouse.objects("unloaded/csv_")["000"].startswith(b"1,")
    warehouse.do(unload.format("json_", "FORMAT AS JSON GZIP"))
    [(key, packed)] = warehouse.objects("unloaded/json_").items()
    assert key == "0000_part_00.gz"
    assert [json.loads(line) for line in gzip.decompress(packed).splitlines()] == [
        {"id": 1, "note": 'a, "b"', "ok": True},
        {"id": 2, "note": None, "ok": False},
    ]
    warehouse.do(unload.format("text_", "DELIMITER ';' NULL AS '-'"))
    assert warehouse.objects("unloaded/text_")["0000_part_00"] == b'1;a, "b";t\n2;-;f\n'
    assert "imit clause" in warehouse.error(f"UNLOAD ('SELECT 1 LIMIT 1') TO '{target}x' IAM_ROLE DEFAULT")


def test_unload_to_parquet_by_partition_loads_again(warehouse: Warehouse, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_UNLOAD_command_examples.html"""
    name = table(warehouse, "id INT, price DECIMAL(9, 2), day DATE, at TIMESTAMP, region VARCHAR(9)")
    rows = "(1, 1.25, '2024-01-01', '2024-01-01 01:02:03.5', 'eu'), (2, 2, NULL, NULL, 'us'), (3, 3, NULL, NULL, 'eu')"
    warehouse.do(f"INSERT INTO {name} VALUES {rows}")
    target = f"s3://{warehouse.bucket}/lake/"
    warehouse.do(
        f"UNLOAD ($$SELECT * FROM {name} ORDER BY id$$) TO '{target}' IAM_ROLE DEFAULT PARQUET PARTITION BY (region)"
    )
    written = warehouse.objects("lake/")
    assert set(written) == {"region=eu/0000_part_00.parquet", "region=us/0000_part_00.parquet"}
    path = tmp_path / "eu.parquet"
    path.write_bytes(written["region=eu/0000_part_00.parquet"])
    assert warehouses.parquet(f"SELECT * FROM read_parquet('{path}')") == [
        [1, "1.25", "2024-01-01", "2024-01-01 01:02:03.500000"],
        [3, "3.00", None, None],
    ]
    again = table(warehouse, "id INT, price DECIMAL(9, 2), day DATE, at TIMESTAMP")
    assert [row[0] for row in loaded(warehouse, again, target, "PARQUET")] == [1, 2, 3]
