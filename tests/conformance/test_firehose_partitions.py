"""Firehose: dynamic partitioning, aggregated records, conversion to Parquet, and the throughput quota."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from local.launcher import embedded, layout
from tests.conformance.test_cloudformation import create, failures, resource, template
from tests.conformance.test_firehose import (
    FIREHOSE,
    bucket,
    eventually,
    lambda_processor,
    lines,
    log,
    logged,
    logs_to,
    may,
    objects,
    processing,
    processor,
    put,
    refused,
    stream,
    to_s3,
    update,
    writer,
)
from tests.conformance.test_iam import allow, arn, denied, role, unique, user
from tests.conformance.test_lambda import pending_function
from tests.conformance.warehouse import parquet
from tests.conftest import Aws

LARGE = {"SizeInMBs": 64, "IntervalInSeconds": 0}


def query(text: str) -> dict[str, Any]:
    return processor("MetadataExtraction", MetadataExtractionQuery=text, JsonParsingEngine="JQ-1.6")


def partitioned(role_arn: str, name: str, prefix: str, *processors: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a destination with dynamic partitioning, whose refused records go below ``failed/<their type>/``."""
    settings = {
        "DynamicPartitioningConfiguration": {"Enabled": True, "RetryOptions": {"DurationInSeconds": 300}},
        "BufferingHints": LARGE,
        "Prefix": prefix,
        "ErrorOutputPrefix": "failed/!{firehose:error-output-type}/",
        **processing(*processors),
    }
    return to_s3(role_arn, name, **{**settings, **more})


def rows(*documents: dict[str, Any]) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


# --- Dynamic partitioning -----------------------------------------------------------------------------------------


def test_records_go_to_the_prefix_of_their_keys(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-partitioning-keys.html"""
    name = bucket(aws)
    configuration = partitioned(
        writer(aws, name),
        name,
        "customer=!{partitionKeyFromQuery:customer}/year=!{partitionKeyFromQuery:year}/!{timestamp:HH}/",
        query('{customer: .who.id, year: (.at | strftime("%Y")), unused: .text}'),
        processor("AppendDelimiterToRecord", Delimiter="\\n"),
    )
    sent = [
        {"who": {"id": 7}, "at": 1_600_000_000, "text": "a"},
        {"who": {"id": "x y"}, "at": 1_700_000_000, "text": "b"},
        {"who": {"id": 7}, "at": 1_600_000_001, "text": "c"},
    ]
    with stream(aws, configuration) as hose:
        put(aws, hose, *rows(*sent))
        found = eventually(lambda: len(made := objects(aws, name)) == 2 and made)
    hour = f"{datetime.now(UTC):%H}"
    assert {
        key.rpartition("/")[0]: [json.loads(line) for line in body.splitlines()] for key, body in found.items()
    } == {
        f"customer=7/year=2020/{hour}": [sent[0], sent[2]],
        f"customer=x y/year=2023/{hour}": [sent[1]],
    }


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"no json", "Non JSON record provided"),
        (b'{"at": 1}', "partitionKeys values must not be null or empty"),
        (b'{"id": "", "at": 1}', "partitionKeys values must not be null or empty"),
        (b'{"id": 1, "at": "text"}', "The query failed"),
    ],
)
def test_records_without_keys_are_kept_apart(aws: Aws, record: bytes, message: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-error-handling.html"""
    name = bucket(aws)
    configuration = partitioned(
        writer(aws, name),
        name,
        "id=!{partitionKeyFromQuery:id}/!{partitionKeyFromQuery:year}/",
        query('{id: .id, year: (.at | strftime("%Y"))}'),
    )
    with stream(aws, configuration) as hose:
        put(aws, hose, record, b'{"id": 1, "at": 0}')
        assert eventually(lambda: len(objects(aws, name)) == 2)
    assert list(objects(aws, name, "id=1/1970/").values()) == [b'{"id": 1, "at": 0}']
    [failed] = lines(aws, name, "failed/metadata-extraction-failed/")
    assert failed["errorCode"] == "DynamicPartitioning.MetadataExtractionFailed"
    assert message in failed["errorMessage"]
    assert base64.b64decode(failed["rawData"]) == record


def test_a_function_may_name_the_keys(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-partitioning-keys.html"""
    source = """
def handler(event, context):
    keys = lambda record: {"metadata": {"partitionKeys": {"kind": "odd" if len(record["data"]) % 8 else "even"}}}
    return {"records": [
        {"recordId": each["recordId"], "result": "Ok", "data": each["data"], **keys(each)} for each in event["records"]
    ]}
"""
    name, function = bucket(aws), pending_function(aws, unique("keys"), source)
    role_arn = role(
        aws, FIREHOSE, allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), allow("lambda:InvokeFunction", function)
    )
    configuration = partitioned(
        role_arn,
        name,
        "kind=!{partitionKeyFromLambda:kind}/n=!{partitionKeyFromQuery:n}/",
        lambda_processor(function),
        query("{n: .n}"),
    )
    with stream(aws, configuration) as hose:
        put(aws, hose, b'{"n":1}', b'{"n": 1}', b'{"n":2}')
        found = eventually(lambda: len(made := objects(aws, name)) >= 2 and made)
    assert all(re.match(r"kind=(odd|even)/n=[12]/\d{4}/", key) for key in found), found
    assert sorted(b"".join(found.values())) == sorted(b'{"n":1}{"n": 1}{"n":2}')
    assert {key.split("/")[1] for key in found} == {"n=1", "n=2"}


@pytest.mark.parametrize(
    ("how", "aggregated", "refused_record"),
    [
        ({"SubRecordType": "JSON"}, b'{"id": "a", "n": 1}{"id": "b"}\n {"id":"a"}\n', b'{"id": "a"}[1]'),
        (
            {"SubRecordType": "DELIMITED", "Delimiter": base64.b64encode(b"##").decode()},
            b'{"id": "a", "n": 1}##{"id": "b"}##{"id":"a"}',
            b"##".join([b'{"id": "a"}'] * 501),
        ),
    ],
    ids=["json", "delimited"],
)
def test_aggregated_records_are_taken_apart(
    aws: Aws, how: dict[str, str], aggregated: bytes, refused_record: bytes
) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-multirecord-deaggergation.html"""
    name = bucket(aws)
    configuration = partitioned(
        writer(aws, name),
        name,
        "id=!{partitionKeyFromQuery:id}/",
        processor("RecordDeAggregation", **how),
        query("{id: .id}"),
        processor("AppendDelimiterToRecord", Delimiter="\\n"),
    )
    with stream(aws, configuration) as hose:
        put(aws, hose, aggregated, refused_record)
        assert eventually(lambda: len(objects(aws, name)) == 3)
    assert lines(aws, name, "id=a/") == [{"id": "a", "n": 1}, {"id": "a"}]
    assert lines(aws, name, "id=b/") == [{"id": "b"}]
    [failed] = lines(aws, name, "failed/metadata-extraction-failed/")
    assert base64.b64decode(failed["rawData"]) == refused_record


def test_partitions_that_wait_are_limited(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/limits.html"""
    name = bucket(aws)
    prefix = "id=!{partitionKeyFromQuery:id}/"
    hints = {"SizeInMBs": 64, "IntervalInSeconds": 900}
    configuration = partitioned(writer(aws, name), name, prefix, query("{id: .id}"), BufferingHints=hints)
    with stream(aws, configuration) as hose:
        put(aws, hose, *rows(*[{"id": number} for number in range(500)]))
        put(aws, hose, *rows({"id": 500}, {"id": 499}))
    failed = eventually(lambda: lines(aws, name, "failed/"), 15)
    assert [json.loads(base64.b64decode(each["rawData"])) for each in failed] == [{"id": 500}]
    assert "limit has been exceeded" in failed[0]["errorMessage"]
    assert eventually(lambda: len(objects(aws, name, "id=499/")) == 1)
    assert lines_of(objects(aws, name, "id=499/")) == [{"id": 499}, {"id": 499}]


def lines_of(found: dict[str, bytes]) -> list[Any]:
    """Return the JSON objects that follow each other without delimiter in ``found``."""
    text = b"".join(found.values()).decode().replace("}{", "}\n{")
    return [json.loads(line) for line in text.splitlines()]


KEY = "!{partitionKeyFromQuery:id}/"


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"BufferingHints": {"SizeInMBs": 63, "IntervalInSeconds": 0}}, "at least 64 when Dynamic Partitioning"),
        ({"Prefix": "!{timestamp:yyyy}/"}, "should contain Dynamic Partitioning namespaces"),
        ({"Prefix": "!{partitionKeyFromLambda:id}/"}, "needs a Lambda processor"),
        (
            {"DynamicPartitioningConfiguration": {"Enabled": False}, "Prefix": "p/"},
            "when Dynamic Partitioning is disabled",
        ),
        ({"ErrorOutputPrefix": ""}, "ErrorOutputPrefix cannot be null"),
        (processing(), "needs a MetadataExtraction processor"),
        (processing(query("{id: .id")), "MetadataExtractionQuery is not valid"),
        (processing(processor("MetadataExtraction", MetadataExtractionQuery="{id: .id}")), "must be JQ-1.6"),
        (processing(processor("RecordDeAggregation", SubRecordType="XML"), query("{id: .id}")), "JSON or DELIMITED"),
        (processing(processor("RecordDeAggregation", SubRecordType="DELIMITED", Delimiter="#")), "in base64"),
    ],
)
def test_a_wrong_partitioning_is_refused_by_name(aws: Aws, settings: dict[str, Any], part: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-enable.html"""
    configuration = partitioned(writer(aws, "anything"), "anything", KEY, query("{id: .id}"))
    code, message = refused(lambda: stream(aws, {**configuration, **settings}).__enter__())
    assert code == "InvalidArgumentException"
    assert part in message


def test_partitioning_is_decided_when_a_stream_is_made(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-enable.html"""
    name = bucket(aws)
    with stream(aws, partitioned(writer(aws, name), name, KEY, query("{id: .id}"))) as hose:
        off = {"DynamicPartitioningConfiguration": {"Enabled": False}, "Prefix": "p/", **processing()}
        code, message = refused(lambda: update(aws, hose, **off))
        assert (code, "only be enabled when a Firehose is created" in message) == ("InvalidArgumentException", True)
        update(aws, hose, Prefix=f"new/{KEY}")
        put(aws, hose, b'{"id": 1}')
        assert eventually(lambda: objects(aws, name, "new/1/"))


# --- Conversion ---------------------------------------------------------------------------------------------------

COLUMNS = {
    "id": "bigint",
    "name": "string",
    "price": "decimal(10,2)",
    "ok": "boolean",
    "day": "date",
    "at": "timestamp",
    "tags": "array<string>",
    "who": "struct<name:string,age:int>",
    "counts": "map<string,double>",
    "renamed_key": "string",
}


def catalog(aws: Aws, columns: dict[str, str]) -> tuple[str, str]:
    """Return database and table of a new table."""
    glue, database, table = aws.client("glue"), unique("db").replace("-", "_"), "events"
    glue.create_database(DatabaseInput={"Name": database})
    glue.create_table(
        DatabaseName=database,
        TableInput={
            "Name": table,
            "StorageDescriptor": {"Columns": [{"Name": name, "Type": type_} for name, type_ in columns.items()]},
            "PartitionKeys": [{"Name": "year", "Type": "string"}],
        },
    )
    return database, table


def reading(database: str, table: str) -> dict[str, Any]:
    """https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
    actions = ["glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"]
    return allow(
        actions, [arn("glue", each) for each in ("catalog", f"database/{database}", f"table/{database}/{table}")]
    )


def to_parquet(database: str, table: str, role_arn: str, reader: dict[str, Any], **writer: Any) -> dict[str, Any]:
    return {
        "BufferingHints": LARGE,
        "DataFormatConversionConfiguration": {
            "SchemaConfiguration": {
                "RoleARN": role_arn,
                "DatabaseName": database,
                "TableName": table,
                "Region": "us-east-1",
            },
            "InputFormatConfiguration": {"Deserializer": reader},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": writer}},
        },
    }


def converted(aws: Aws, name: str, folder: Path, columns: str = "*", reader: str = "read_parquet") -> list[list[Any]]:
    """Return the rows of the one Parquet file of a bucket, once it is there."""
    found = eventually(lambda: {key: body for key, body in objects(aws, name).items() if key.endswith(".parquet")})
    [body] = found.values()
    path = folder / "data.parquet"
    path.write_bytes(body)
    return parquet(f"SELECT {columns} FROM {reader}('{path}')")


def test_json_becomes_parquet_by_the_columns_of_the_catalog(aws: Aws, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/record-format-conversion.html"""
    name, (database, table) = bucket(aws), catalog(aws, COLUMNS)
    role_arn = role(aws, FIREHOSE, allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), reading(database, table))
    reader = {"OpenXJsonSerDe": {"ColumnToJsonKeyMappings": {"renamed_key": "Some-Key"}}}
    configuration = to_s3(role_arn, name, **to_parquet(database, table, role_arn, reader, Compression="GZIP"))
    whole = {
        "ID": "7",
        "name": "ä",
        "price": 12.5,
        "ok": True,
        "day": "2026-02-03",
        "at": "2026-02-03T04:05:06.789Z",
        "tags": ["x", None],
        "who": {"Name": "n", "age": 3, "more": 1},
        "counts": {"k": 1},
        "some-key": "found",
        "unknown": [],
    }
    with stream(aws, configuration) as hose:
        put(aws, hose, json.dumps(whole).encode() + b'{"id": 8, "at": 1518033528}', b'{"id": 9, "at": 1518033528123}')
        first, second, third = converted(aws, name, tmp_path)
    assert first == [
        *(7, "ä", "12.50", True, "2026-02-03", "2026-02-03 04:05:06.789000", ["x", None]),
        *({"name": "n", "age": 3}, {"k": 1.0}, "found"),
    ]
    assert second == [8, None, None, None, None, "2018-02-07 19:58:48", *[None] * 4]
    assert third == [9, None, None, None, None, "2018-02-07 19:58:48.123000", *[None] * 4]
    assert converted(aws, name, tmp_path, "DISTINCT compression", "parquet_metadata") == [["GZIP"]]


@pytest.mark.parametrize(
    "record",
    [b"no json", b"[1]", b'{"id": "text"}', b'{"id": 9223372036854775808}', b'{"price": 123456789.00}', b'{"tags": 1}'],
)
def test_what_does_not_match_the_schema_is_kept_apart(aws: Aws, tmp_path: Path, record: bytes) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/record-format-conversion-error-handling.html"""
    name, (database, table) = bucket(aws), catalog(aws, COLUMNS)
    role_arn = role(aws, FIREHOSE, allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), reading(database, table))
    configuration = to_s3(role_arn, name, **to_parquet(database, table, role_arn, {"OpenXJsonSerDe": {}}))
    with stream(aws, configuration) as hose:
        put(aws, hose, b'{"id": 1}', record)
        [failed] = eventually(lambda: lines(aws, name, "format-conversion-failed/"))
        assert converted(aws, name, tmp_path, "id") == [[1]]
    assert failed["lastErrorCode"] == "DataFormatConversion.MalformedData"
    assert base64.b64decode(failed["rawData"]) == record
    assert failed["dataCatalogTable"]["tableName"] == table


def test_partitions_are_converted_and_hive_reads_its_own_timestamps(aws: Aws, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_HiveJsonSerDe.html"""
    name, (database, table) = bucket(aws), catalog(aws, {"id": "int", "at": "timestamp"})
    role_arn = role(aws, FIREHOSE, allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), reading(database, table))
    converting = to_parquet(database, table, role_arn, {"HiveJsonSerDe": {"TimestampFormats": ["millis"]}})
    configuration = partitioned(role_arn, name, KEY, query("{id: .id}"), **converting)
    with stream(aws, configuration) as hose:
        put(aws, hose, b'{"id": 1, "at": 1518033528123}', b'{"id": 2, "at": "2026-02-03T04:05:06Z"}')
        assert converted(aws, name, tmp_path) == [[1, "2018-02-07 19:58:48.123000"]]
        assert eventually(lambda: len(objects(aws, name, "failed/format-conversion-failed/")) == 1)
    assert [key.split("/")[0] for key in objects(aws, name)] == ["1", "failed"]


def test_the_schema_needs_its_own_permissions(aws: Aws, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
    name, (database, table), options = bucket(aws), catalog(aws, {"id": "int"}), log(aws)
    write = allow("s3:PutObject", f"arn:aws:s3:::{name}/*")
    schema_role, role_arn = role(aws, FIREHOSE), role(aws, FIREHOSE, write, logs_to(options))
    converting = to_parquet(database, table, schema_role, {"OpenXJsonSerDe": {}})
    configuration = to_s3(role_arn, name, CloudWatchLoggingOptions=options, **converting)
    # The caller passes both roles, and the schema's one must be able to read it.
    keys = user(aws, allow("firehose:*", "*"), allow("iam:PassRole", role_arn))
    making = {"DeliveryStreamName": unique("hose"), "ExtendedS3DestinationConfiguration": configuration}
    message = denied(lambda: aws.client("firehose", keys).create_delivery_stream(**making))
    assert f"iam:PassRole on resource: {schema_role}" in message
    code, message = refused(lambda: stream(aws, configuration).__enter__())
    assert (code, "glue:GetTable on resource" in message) == ("InvalidArgumentException", True)
    may(aws, schema_role, reading(database, "another"))
    assert refused(lambda: stream(aws, configuration).__enter__())[0] == "InvalidArgumentException"
    may(aws, schema_role, reading(database, table))
    with stream(aws, configuration) as hose:
        may(aws, schema_role, reading(database, "another"))
        put(aws, hose, b'{"id": 1}')
        assert eventually(lambda: logged(aws, options))[0]["errorCode"] == "DataFormatConversion.AccessDenied"
        assert objects(aws, name) == {}
        may(aws, schema_role, reading(database, table))
        assert converted(aws, name, tmp_path) == [[1]]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"BufferingHints": {"SizeInMBs": 5, "IntervalInSeconds": 0}}, "at least 64 when data format conversion"),
        ({"CompressionFormat": "GZIP"}, "must be UNCOMPRESSED"),
        ({"DataFormatConversionConfiguration": {"Enabled": True}}, "needs SchemaConfiguration"),
    ],
)
def test_a_wrong_conversion_is_refused_by_name(aws: Aws, settings: dict[str, Any], part: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_DataFormatConversionConfiguration.html"""
    role_arn = writer(aws, "anything")
    converting = to_parquet("db", "t", role_arn, {"OpenXJsonSerDe": {}})
    code, message = refused(lambda: stream(aws, to_s3(role_arn, "anything", **{**converting, **settings})).__enter__())
    assert (code, part in message) == ("InvalidArgumentException", True), message


def test_a_template_may_partition_and_convert(aws: Aws, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-kinesisfirehose-deliverystream.html"""
    name, hose, (database, table) = bucket(aws), unique("hose"), catalog(aws, {"id": "int"})
    role_arn = role(aws, FIREHOSE, allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), reading(database, table))
    # Numbers and booleans are text, as parameters are.
    converting = to_parquet(database, table, role_arn, {"OpenXJsonSerDe": {"CaseInsensitive": "true"}})
    configuration = partitioned(role_arn, name, KEY, query("{id: .id}"), **converting)
    configuration["DynamicPartitioningConfiguration"]["Enabled"] = "true"
    configuration["BufferingHints"] = {"SizeInMBs": "64", "IntervalInSeconds": "0"}
    properties: dict[str, Any] = {"DeliveryStreamName": hose, "ExtendedS3DestinationConfiguration": configuration}
    client = aws.client("cloudformation")
    stack = create(client, template(H=resource("AWS::KinesisFirehose::DeliveryStream", **properties)))
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    put(aws, hose, b'{"ID": 5, "id": 5}')
    assert converted(aws, name, tmp_path) == [[5]]
    client.delete_stack(StackName=stack["StackName"])


# --- Quota --------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """An embedded AWS of its own, in which quotas hold."""
    state, bare = tmp_path_factory.mktemp("limited"), "ATLAS_BARE" in os.environ
    running = embedded.start(state, embedded.free_port(), bare=bare, ATLAS_LIMITS="1")
    try:
        yield Aws(running)
    finally:
        running.stop()


def test_records_above_the_quota_fail_one_by_one(limited: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html"""
    # Frankfurt's quota, 1 MiB a second, is less than one batch may have.
    firehose = boto3.client(
        "firehose",
        endpoint_url=limited.endpoint,
        region_name="eu-central-1",
        aws_access_key_id=layout.ROOT_KEYS[0],
        aws_secret_access_key=layout.ROOT_KEYS[1],
        config=Config(retries={"total_max_attempts": 1}),
    )
    name, hose, record = bucket(limited), unique("hose"), {"Data": b"x" * 900_000}
    configuration = to_s3(writer(limited, name), name)
    firehose.create_delivery_stream(DeliveryStreamName=hose, ExtendedS3DestinationConfiguration=configuration)
    answer = firehose.put_record_batch(DeliveryStreamName=hose, Records=[record, record, {"Data": b"small"}])
    assert answer["FailedPutCount"] == 1
    taken, failed, small = answer["RequestResponses"]
    assert (failed["ErrorCode"], "RecordId" in failed) == ("ServiceUnavailableException", False)
    assert "RecordId" in taken
    assert "RecordId" in small

    def once_more() -> bool:
        try:
            return bool(firehose.put_record(DeliveryStreamName=hose, Record=record))
        except firehose.exceptions.ServiceUnavailableException:
            return False

    assert eventually(once_more)
    firehose.delete_delivery_stream(DeliveryStreamName=hose)
    assert eventually(lambda: sum(map(len, objects(limited, name).values())) == 2 * 900_000 + len(b"small"))
