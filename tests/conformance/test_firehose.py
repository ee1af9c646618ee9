"""Firehose to S3: buffers, object names, transformation, sources, roles, stacks and metrics."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_cloudformation import CLOUDFORMATION, create, failures, resource, settled, template
from tests.conformance.test_iam import allow, arn, denied, role, unique, user
from tests.conftest import Aws

FIREHOSE = "firehose.amazonaws.com"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

TRANSFORM = """
import base64, json

def handler(event, context):
    answers = []
    for record in event["records"]:
        data = base64.b64decode(record["data"]).decode()
        answer = {"recordId": record["recordId"], "result": "Ok", "data": record["data"]}
        if data == "describe":
            told = {**event, "records": [record]}
            answer["data"] = base64.b64encode(json.dumps(told).encode()).decode()
        if data in ("Dropped", "ProcessingFailed"):
            answer["result"] = data
        if data == "crash":
            raise ValueError("no")
        if data == "unreadable":
            return {"records": "none"}
        if data != "missing":
            answers.append(answer)
        if data == "twice":
            answers.append(answer)
    return {"records": answers}
"""


def eventually(look: Callable[[], Any], seconds: float = 8) -> Any:
    """Return what ``look`` returns once it is true, or at last."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def bucket(aws: Aws) -> str:
    name = unique("firehose")
    aws.client("s3").create_bucket(Bucket=name)
    return name


def writer(aws: Aws, *buckets: str) -> str:
    """Return a role that lets Firehose write to ``buckets``."""
    return role(aws, FIREHOSE, allow("s3:PutObject", [f"arn:aws:s3:::{name}/*" for name in buckets]))


def to_s3(role_arn: str, name: str, seconds: int = 0, **settings: Any) -> dict[str, Any]:
    hints = {"SizeInMBs": 1, "IntervalInSeconds": seconds}
    return {"RoleARN": role_arn, "BucketARN": f"arn:aws:s3:::{name}", "BufferingHints": hints, **settings}


def processing(*processors: dict[str, Any]) -> dict[str, Any]:
    return {"ProcessingConfiguration": {"Enabled": True, "Processors": list(processors)}}


def processor(kind: str, **parameters: str) -> dict[str, Any]:
    named = [{"ParameterName": name, "ParameterValue": value} for name, value in parameters.items()]
    return {"Type": kind, "Parameters": named}


def objects(aws: Aws, name: str, prefix: str = "") -> dict[str, bytes]:
    """Return what is in a bucket below ``prefix``, by key."""
    s3 = aws.client("s3")
    listed = s3.list_objects_v2(Bucket=name, Prefix=prefix).get("Contents", [])
    return {each["Key"]: s3.get_object(Bucket=name, Key=each["Key"])["Body"].read() for each in listed}


def lines(aws: Aws, name: str, prefix: str = "") -> list[Any]:
    """Return the JSON lines of all objects below ``prefix``."""
    return [json.loads(line) for body in objects(aws, name, prefix).values() for line in body.splitlines()]


@contextmanager
def stream(aws: Aws, configuration: dict[str, Any], **members: Any) -> Iterator[str]:
    """Yield the name of a Firehose stream, which is deleted afterwards."""
    firehose, name = aws.client("firehose"), unique("hose")
    firehose.create_delivery_stream(
        DeliveryStreamName=name, ExtendedS3DestinationConfiguration=configuration, **members
    )
    try:
        yield name
    finally:
        firehose.delete_delivery_stream(DeliveryStreamName=name)


def put(aws: Aws, name: str, *records: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = aws.client("firehose").put_record_batch(
        DeliveryStreamName=name, Records=[{"Data": record} for record in records]
    )
    return answer


def version(aws: Aws, name: str) -> str:
    description = aws.client("firehose").describe_delivery_stream(DeliveryStreamName=name)
    return str(description["DeliveryStreamDescription"]["VersionId"])


def update(aws: Aws, name: str, **changes: Any) -> None:
    aws.client("firehose").update_destination(
        DeliveryStreamName=name,
        CurrentDeliveryStreamVersionId=version(aws, name),
        DestinationId="destinationId-000000000001",
        ExtendedS3DestinationUpdate=changes,
    )


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """Return code and message of the error ``call`` ends in."""
    with pytest.raises(ClientError) as failure:
        call()
    error = failure.value.response["Error"]
    return str(error["Code"]), str(error["Message"])


def log(aws: Aws) -> dict[str, Any]:
    """Return the logging options of a new log stream."""
    logs, group = aws.client("logs"), f"/aws/kinesisfirehose/{unique()}"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="DestinationDelivery")
    return {"Enabled": True, "LogGroupName": group, "LogStreamName": "DestinationDelivery"}


def logged(aws: Aws, options: dict[str, Any]) -> list[dict[str, Any]]:
    names = {"logGroupName": options["LogGroupName"], "logStreamName": options["LogStreamName"]}
    return [json.loads(event["message"]) for event in aws.client("logs").get_log_events(**names)["events"]]


def logs_to(options: dict[str, Any]) -> dict[str, Any]:
    return allow("logs:PutLogEvents", arn("logs", f"log-group:{options['LogGroupName']}:log-stream:*"))


def may(aws: Aws, role_arn: str, *statements: dict[str, Any]) -> None:
    """Let a role do what ``statements`` allow, and nothing else."""
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    aws.client("iam").put_role_policy(RoleName=role_arn.rpartition("/")[2], PolicyName="only", PolicyDocument=document)


@pytest.fixture(scope="module")
def function(aws: Aws) -> str:
    """The ARN of a function that does with a record what its data says."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("index.py", TRANSFORM)
    made: str = aws.client("lambda").create_function(
        FunctionName=unique("transform"),
        Runtime="python3.11",
        Handler="index.handler",
        Role=role(aws, "lambda.amazonaws.com"),
        Code={"ZipFile": archive.getvalue()},
    )["FunctionArn"]
    return made


# --- Buffers and objects ------------------------------------------------------------------------------------------


def test_records_wait_for_the_interval_and_become_one_object(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/buffering-hints.html"""
    name = bucket(aws)
    with stream(aws, to_s3(writer(aws, name), name, 2)) as hose:
        before = datetime.now(UTC)
        answer = put(aws, hose, b"a", b"b")
        aws.client("firehose").put_record(DeliveryStreamName=hose, Record={"Data": b"c"})
        assert answer["FailedPutCount"] == 0
        assert len({each["RecordId"] for each in answer["RequestResponses"]}) == 2
        time.sleep(1)
        assert objects(aws, name) == {}
        [(key, body)] = eventually(lambda: objects(aws, name)).items()
    assert body == b"abc"
    # https://docs.aws.amazon.com/firehose/latest/dev/s3-object-name.html
    named = re.fullmatch(rf"(\d{{4}}/\d\d/\d\d/\d\d)/{hose}-1-(\d{{4}}-\d\d-\d\d-\d\d-\d\d-\d\d)-{UUID}", key)
    assert named, key
    arrived = datetime.strptime(named[2], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC)
    assert abs(arrived - before) < timedelta(seconds=2)
    assert named[1] == f"{arrived:%Y/%m/%d/%H}"


def test_a_full_buffer_does_not_wait(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/buffering-hints.html"""
    name, record = bucket(aws), b"x" * 300_000
    with stream(aws, to_s3(writer(aws, name), name, 900)) as hose:
        put(aws, hose, record, record, record)
        put(aws, hose, record, record)
        [body] = eventually(lambda: objects(aws, name)).values()
        assert len(body) == 4 * len(record)
    # The rest is delivered when the stream is deleted.
    assert eventually(lambda: len(objects(aws, name)) == 2)


@pytest.mark.parametrize(
    ("compression", "settings", "extension", "unpack"),
    [
        ("GZIP", {}, ".gz", gzip.decompress),
        ("ZIP", {}, ".zip", lambda data: zipfile.ZipFile(io.BytesIO(data)).read("data")),
        ("GZIP", {"FileExtension": ".json.gz"}, ".json.gz", gzip.decompress),
    ],
    ids=["gzip", "zip", "own extension"],
)
def test_objects_are_compressed(
    aws: Aws, compression: str, settings: dict[str, str], extension: str, unpack: Callable[[bytes], bytes]
) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/create-destination.html"""
    name = bucket(aws)
    with stream(aws, to_s3(writer(aws, name), name, 0, CompressionFormat=compression, **settings)) as hose:
        put(aws, hose, b"a" * 1000)
        [(key, body)] = eventually(lambda: objects(aws, name)).items()
    assert re.search(rf"{UUID}{re.escape(extension)}$", key)
    assert len(body) < 1000
    assert unpack(body) == b"a" * 1000


def test_prefixes_time_zone_and_delimiter(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html"""
    name = bucket(aws)
    configuration = to_s3(
        writer(aws, name),
        name,
        Prefix="rows/!{timestamp:'day='yyyy-MM-dd}/!{firehose:random-string}/",
        ErrorOutputPrefix="failed/!{firehose:error-output-type}/",
        CustomTimeZone="Asia/Tokyo",
        **processing(processor("AppendDelimiterToRecord", Delimiter="\\n")),
    )
    with stream(aws, configuration) as hose:
        now = datetime.now(ZoneInfo("Asia/Tokyo"))
        put(aws, hose, b"a", b"b")
        [(key, body)] = eventually(lambda: objects(aws, name)).items()
    assert re.match(rf"rows/day={now:%Y-%m-%d}/[0-9a-f-]{{11}}/{hose}-1-{now:%Y-%m-%d-%H}", key), key
    assert body == b"a\nb\n"


def test_objects_are_encrypted_with_the_key(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_EncryptionConfiguration.html"""
    name, key = bucket(aws), aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    encryption = {"EncryptionConfiguration": {"KMSEncryptionConfig": {"AWSKMSKeyARN": key}}}
    allowed = allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), allow(["kms:GenerateDataKey", "kms:Decrypt"], key)
    with stream(aws, to_s3(role(aws, FIREHOSE, *allowed), name, 0, **encryption)) as hose:
        put(aws, hose, b"a")
        [made] = eventually(lambda: list(objects(aws, name)))
    head = aws.client("s3").head_object(Bucket=name, Key=made)
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([b"x"] * 501, "ValidationException"),
        ([b"x" * (1000 * 1024 + 1)], "ValidationException"),
        ([b"x" * 1000 * 1024] * 5, "InvalidArgumentException"),
    ],
    ids=["501 records", "record over 1,000 KiB", "more than 4 MiB"],
)
def test_what_is_too_large_is_refused(aws: Aws, records: list[bytes], code: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html"""
    name = bucket(aws)
    with stream(aws, to_s3(writer(aws, name), name)) as hose:
        assert refused(lambda: put(aws, hose, *records))[0] == code
        put(aws, hose, *[b"x" * 1000] * 500)
        assert eventually(lambda: sum(map(len, objects(aws, name).values())) == 500_000)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"BufferingHints": {"SizeInMBs": 1}}, "both SizeInMBs and IntervalInSeconds"),
        ({"BufferingHints": {"SizeInMBs": 129, "IntervalInSeconds": 0}}, "from 1 to 128"),
        ({"BufferingHints": {"SizeInMBs": 1, "IntervalInSeconds": 901}}, "from 0 to 900"),
        ({"CompressionFormat": "Snappy"}, "Snappy"),
        ({"Prefix": "!{timestamp:yyyy}/"}, "ErrorOutputPrefix cannot be null"),
        ({"Prefix": "!{firehose:error-output-type}/", "ErrorOutputPrefix": "e/"}, "error-output-type"),
        ({"ErrorOutputPrefix": "!{timestamp:yyyy}/"}, "must contain !{firehose:error-output-type}"),
        ({"Prefix": "!{partitionKeyFromQuery:id}/", "ErrorOutputPrefix": "e/"}, "when Dynamic Partitioning is enabled"),
        ({"Prefix": "!{timestamp:yyyy/nn}/", "ErrorOutputPrefix": "e/"}, "letter n"),
        ({"Prefix": "!{timestamp/", "ErrorOutputPrefix": "e/"}, "not complete"),
        ({"CustomTimeZone": "Europe/Atlantis"}, "CustomTimeZone"),
        ({"S3BackupMode": "Enabled"}, "S3BackupConfiguration"),
        (processing(processor("Lambda", LambdaArn="arn:f", BufferSizeInMBs="4")), "from 0.2 to 3"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(aws: Aws, settings: dict[str, Any], part: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_ExtendedS3DestinationConfiguration.html"""
    configuration = to_s3(writer(aws, "anything"), "anything") | settings
    code, message = refused(lambda: stream(aws, configuration).__enter__())
    assert code == "InvalidArgumentException"
    assert part in message


def test_other_destinations_are_refused(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_CreateDeliveryStream.html"""
    endpoint = {"EndpointConfiguration": {"Url": "https://example.org"}, "S3Configuration": to_s3("arn:r", "b")}
    code, message = refused(
        lambda: aws.client("firehose").create_delivery_stream(
            DeliveryStreamName=unique(), HttpEndpointDestinationConfiguration=endpoint
        )
    )
    assert (code, "HttpEndpointDestinationConfiguration" in message) == ("InvalidArgumentException", True)


# --- Transformation -----------------------------------------------------------------------------------------------


def lambda_processor(function_arn: str, retries: int = 3) -> dict[str, Any]:
    return processor(
        "Lambda",
        LambdaArn=function_arn,
        NumberOfRetries=str(retries),
        BufferSizeInMBs="1",
        BufferIntervalInSeconds="0",
    )


def test_each_record_is_transformed_dropped_or_failed(aws: Aws, function: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/data-transformation-status-model.html"""
    name, backups = bucket(aws), bucket(aws)
    allowed = allow("s3:PutObject", [f"arn:aws:s3:::{name}/*", f"arn:aws:s3:::{backups}/*"])
    role_arn = role(aws, FIREHOSE, allowed, allow("lambda:InvokeFunction", function))
    configuration = to_s3(
        role_arn,
        name,
        Prefix="good/",
        S3BackupMode="Enabled",
        S3BackupConfiguration=to_s3(role_arn, backups, Prefix="raw/"),
        **processing(lambda_processor(function)),
    )
    with stream(aws, configuration) as hose:
        sent = [b"describe", b"Dropped", b"ProcessingFailed", b"missing", b"twice"]
        answer = put(aws, hose, *sent)
        failed = eventually(lambda: lines(aws, name, "good/processing-failed/"))
        [told] = eventually(lambda: lines(aws, name, "good/2"))
    assert eventually(lambda: list(objects(aws, backups, "raw/").values())) == [b"".join(sent)]
    # https://docs.aws.amazon.com/lambda/latest/dg/services-kinesisfirehose.html
    assert told.keys() == {"invocationId", "deliveryStreamArn", "region", "records"}
    assert told["deliveryStreamArn"] == arn("firehose", f"deliverystream/{hose}")
    assert told["records"][0].keys() == {"recordId", "approximateArrivalTimestamp", "data"}
    assert told["records"][0]["recordId"] == answer["RequestResponses"][0]["RecordId"]
    # https://docs.aws.amazon.com/firehose/latest/dev/data-transformation-failure-handling.html
    assert {base64.b64decode(each["rawData"]): each["errorCode"] for each in failed} == {
        b"ProcessingFailed": "Lambda.ProcessingFailedStatus",
        b"missing": "Lambda.MissingRecordId",
        b"twice": "Lambda.DuplicatedRecordId",
    }
    for each in failed:
        assert each["attemptsMade"] == 1
        assert each["lambdaArn"] == function
        assert 0 <= each["attemptEndingTimestamp"] - each["arrivalTimestamp"] < 8_000


@pytest.mark.parametrize(
    ("record", "attempts", "code"),
    [(b"crash", 3, "Lambda.FunctionError"), (b"unreadable", 1, "Lambda.JsonProcessingException")],
)
def test_a_batch_whose_invocation_fails_is_kept(
    aws: Aws, function: str, record: bytes, attempts: int, code: str
) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/data-transformation-failure-handling.html"""
    name, options = bucket(aws), log(aws)
    role_arn = role(
        aws,
        FIREHOSE,
        allow("s3:PutObject", f"arn:aws:s3:::{name}/*"),
        allow("lambda:InvokeFunction", function),
        logs_to(options),
    )
    configuration = to_s3(
        role_arn,
        name,
        ErrorOutputPrefix="failed/!{firehose:error-output-type}/",
        CloudWatchLoggingOptions=options,
        **processing(lambda_processor(function, retries=2)),
    )
    with stream(aws, configuration) as hose:
        put(aws, hose, record, b"good")
        failed = eventually(lambda: lines(aws, name))
    assert list(objects(aws, name, "failed/processing-failed/")) == list(objects(aws, name))
    assert [base64.b64decode(each["rawData"]) for each in failed] == [record, b"good"]
    assert {(each["attemptsMade"], each["errorCode"]) for each in failed} == {(attempts, code)}
    [event] = logged(aws, options)
    assert (event["errorCode"], event["processor"]) == (code, function)


def test_a_function_the_role_may_not_invoke(aws: Aws, function: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
    name = bucket(aws)
    with stream(aws, to_s3(writer(aws, name), name, **processing(lambda_processor(function, retries=0)))) as hose:
        put(aws, hose, b"a")
        [failed] = eventually(lambda: lines(aws, name, "processing-failed/"))
    assert (failed["errorCode"], failed["rawData"]) == ("Lambda.InvokeAccessDenied", base64.b64encode(b"a").decode())


# --- Roles and failures -------------------------------------------------------------------------------------------


def test_delivery_is_tried_again_until_the_role_may_write(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/retry.html"""
    name, options = bucket(aws), log(aws)
    role_arn = role(aws, FIREHOSE, logs_to(options))
    with stream(aws, to_s3(role_arn, name, CloudWatchLoggingOptions=options)) as hose:
        put(aws, hose, b"a")
        [event, *_] = eventually(lambda: logged(aws, options))
        put(aws, hose, b"b")
        assert objects(aws, name) == {}
        may(aws, role_arn, allow("s3:PutObject", f"arn:aws:s3:::{name}/*"))
        eventually(lambda: b"".join(objects(aws, name).values()) == b"ab")
        assert b"".join(sorted(objects(aws, name).values())) == b"ab"
    assert event["errorCode"] == "S3.AccessDenied"
    assert event["deliveryStreamARN"] == arn("firehose", f"deliverystream/{hose}")
    assert event["destination"] == f"arn:aws:s3:::{name}"


def test_an_error_log_needs_a_role_that_may_write_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
    name, options = bucket(aws), log(aws)
    role_arn = role(aws, FIREHOSE)
    with stream(aws, to_s3(role_arn, name, CloudWatchLoggingOptions=options)) as hose:
        put(aws, hose, b"a")
        assert eventually(lambda: total(aws, hose, "DeliveryToS3.Success") == 0)
        assert logged(aws, options) == []
        may(aws, role_arn, logs_to(options))
        assert eventually(lambda: logged(aws, options))[0]["errorCode"] == "S3.AccessDenied"


def test_a_backup_needs_a_role_that_may_write_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
    name, backups, options = bucket(aws), bucket(aws), log(aws)
    role_arn = role(aws, FIREHOSE, logs_to(options))
    backup = to_s3(role_arn, backups, CloudWatchLoggingOptions=options)
    configuration = to_s3(writer(aws, name), name, S3BackupMode="Enabled", S3BackupConfiguration=backup)
    with stream(aws, configuration) as hose:
        put(aws, hose, b"a")
        assert eventually(lambda: logged(aws, options))[0]["errorCode"] == "S3.AccessDenied"
        assert objects(aws, backups) == {}
        may(aws, role_arn, allow("s3:PutObject", f"arn:aws:s3:::{backups}/*"))
        assert list(eventually(lambda: objects(aws, backups)).values()) == [b"a"]


def test_delivery_waits_for_the_bucket(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/retry.html"""
    name, options = unique("later"), log(aws)
    role_arn = role(aws, FIREHOSE, allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), logs_to(options))
    with stream(aws, to_s3(role_arn, name, CloudWatchLoggingOptions=options)) as hose:
        put(aws, hose, b"a")
        assert eventually(lambda: logged(aws, options))[0]["errorCode"] == "S3.NoSuchBucket"
        aws.client("s3").create_bucket(Bucket=name)
        assert list(eventually(lambda: objects(aws, name)).values()) == [b"a"]


def test_roles_must_be_passed_and_trusted(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
    name = bucket(aws)
    trusted, stranger, backup = writer(aws, name), role(aws, "lambda.amazonaws.com"), writer(aws, name)
    configuration = to_s3(trusted, name, S3BackupMode="Enabled", S3BackupConfiguration=to_s3(backup, name))
    keys = user(aws, allow("firehose:*", "*"), allow("iam:PassRole", trusted))
    message = denied(
        lambda: aws.client("firehose", keys).create_delivery_stream(
            DeliveryStreamName=unique(), ExtendedS3DestinationConfiguration=configuration
        )
    )
    assert f"iam:PassRole on resource: {backup}" in message
    code, message = refused(lambda: stream(aws, to_s3(stranger, name)).__enter__())
    assert code == "InvalidArgumentException"
    assert stranger in message


def test_a_stream_with_tags_needs_permission_to_tag(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_CreateDeliveryStream.html"""
    name, hose = bucket(aws), unique("hose")
    role_arn = writer(aws, name)
    keys = user(aws, allow("firehose:CreateDeliveryStream", "*"), allow("iam:PassRole", role_arn))
    members = {"DeliveryStreamName": hose, "ExtendedS3DestinationConfiguration": to_s3(role_arn, name)}
    client = aws.client("firehose", keys)
    message = denied(lambda: client.create_delivery_stream(**members, Tags=[{"Key": "a", "Value": "b"}]))
    assert f"firehose:TagDeliveryStream on resource: {arn('firehose', f'deliverystream/{hose}')}" in message
    assert client.create_delivery_stream(**members)["DeliveryStreamARN"]
    aws.client("firehose").delete_delivery_stream(DeliveryStreamName=hose)


def test_a_caller_needs_permission_for_the_stream(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonkinesisfirehose.html"""
    name = bucket(aws)
    with stream(aws, to_s3(writer(aws, name), name)) as hose:
        keys = user(aws, allow("firehose:PutRecordBatch", arn("firehose", "deliverystream/other")))
        call = {"DeliveryStreamName": hose, "Records": [{"Data": b"a"}]}
        message = denied(lambda: aws.client("firehose", keys).put_record_batch(**call))
    assert f"firehose:PutRecordBatch on resource: {arn('firehose', f'deliverystream/{hose}')}" in message


# --- Changes ------------------------------------------------------------------------------------------------------


def test_an_update_keeps_what_it_does_not_name(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_UpdateDestination.html"""
    name = bucket(aws)
    with stream(aws, to_s3(writer(aws, name), name, 900, CompressionFormat="GZIP", Prefix="old/")) as hose:
        put(aws, hose, b"a")
        update(aws, hose, Prefix="new/", BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 0})
        [(key, body)] = eventually(lambda: objects(aws, name)).items()
        assert re.match(rf"new/\d{{4}}/.*/{hose}-2-.*\.gz$", key), key
        assert gzip.decompress(body) == b"a"
        stale = {"DeliveryStreamName": hose, "DestinationId": "destinationId-000000000001"}
        code, _ = refused(
            lambda: aws.client("firehose").update_destination(
                **stale, CurrentDeliveryStreamVersionId="1", ExtendedS3DestinationUpdate={"Prefix": "x/"}
            )
        )
        assert code == "ConcurrentModificationException"
        backup = to_s3(writer(aws, name), name)
        update(aws, hose, S3BackupMode="Enabled", S3BackupUpdate=backup)
        assert refused(lambda: update(aws, hose, S3BackupMode="Disabled"))[0] == "InvalidArgumentException"


def test_streams_are_described_listed_tagged_and_deleted(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_DescribeDeliveryStream.html"""
    firehose, name = aws.client("firehose"), bucket(aws)
    configuration = {"RoleARN": writer(aws, name), "BucketARN": f"arn:aws:s3:::{name}"}
    with stream(aws, configuration, Tags=[{"Key": "team", "Value": "data"}]) as hose:
        described = firehose.describe_delivery_stream(DeliveryStreamName=hose)["DeliveryStreamDescription"]
        assert (described["DeliveryStreamStatus"], described["DeliveryStreamType"]) == ("ACTIVE", "DirectPut")
        s3 = described["Destinations"][0]["ExtendedS3DestinationDescription"]
        assert s3["BufferingHints"] == {"SizeInMBs": 5, "IntervalInSeconds": 300}
        assert (s3["CompressionFormat"], s3["S3BackupMode"]) == ("UNCOMPRESSED", "Disabled")
        assert (
            refused(
                lambda: firehose.create_delivery_stream(
                    DeliveryStreamName=hose, ExtendedS3DestinationConfiguration=configuration
                )
            )[0]
            == "ResourceInUseException"
        )
        firehose.tag_delivery_stream(DeliveryStreamName=hose, Tags=[{"Key": "level", "Value": "raw"}])
        firehose.untag_delivery_stream(DeliveryStreamName=hose, TagKeys=["team"])
        assert firehose.list_tags_for_delivery_stream(DeliveryStreamName=hose)["Tags"] == [
            {"Key": "level", "Value": "raw"}
        ]
        found = aws.client("resourcegroupstaggingapi").get_resources(TagFilters=[{"Key": "level", "Values": ["raw"]}])
        assert described["DeliveryStreamARN"] in {each["ResourceARN"] for each in found["ResourceTagMappingList"]}
        assert hose in firehose.list_delivery_streams(Limit=1000)["DeliveryStreamNames"]
        assert (
            hose
            not in firehose.list_delivery_streams(Limit=1000, DeliveryStreamType="KinesisStreamAsSource")[
                "DeliveryStreamNames"
            ]
        )
        put(aws, hose, b"last")
    assert eventually(lambda: hose not in firehose.list_delivery_streams(Limit=1000)["DeliveryStreamNames"])
    assert list(objects(aws, name).values()) == [b"last"]
    assert refused(lambda: put(aws, hose, b"late"))[0] == "ResourceNotFoundException"


# --- Kinesis as the source ----------------------------------------------------------------------------------------


def kinesis_stream(aws: Aws, shards: int = 1) -> str:
    """Return the ARN of a new Kinesis stream."""
    kinesis, name = aws.client("kinesis"), unique("source")
    kinesis.create_stream(StreamName=name, ShardCount=shards)
    kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    return arn("kinesis", f"stream/{name}")


def reading(stream_arn: str) -> dict[str, Any]:
    """https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
    actions = ["DescribeStream", "GetShardIterator", "GetRecords", "ListShards"]
    return allow([f"kinesis:{action}" for action in actions], stream_arn)


def from_kinesis(stream_arn: str, role_arn: str) -> dict[str, Any]:
    source = {"KinesisStreamARN": stream_arn, "RoleARN": role_arn}
    return {"DeliveryStreamType": "KinesisStreamAsSource", "KinesisStreamSourceConfiguration": source}


def test_a_kinesis_stream_is_read_from_its_end_on_and_through_a_split(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/writing-with-kinesis-streams.html"""
    kinesis, name, source = aws.client("kinesis"), bucket(aws), kinesis_stream(aws)
    role_arn = role(aws, FIREHOSE, reading(source), allow("s3:PutObject", f"arn:aws:s3:::{name}/*"))

    def send(*texts: str) -> None:
        records = [{"Data": f"{text}\n".encode(), "PartitionKey": text} for text in texts]
        assert kinesis.put_records(StreamARN=source, Records=records)["FailedRecordCount"] == 0

    send("before")
    time.sleep(0.01)
    with stream(aws, to_s3(role_arn, name), **from_kinesis(source, role_arn)) as hose:
        described = aws.client("firehose").describe_delivery_stream(DeliveryStreamName=hose)
        shown = described["DeliveryStreamDescription"]["Source"]["KinesisStreamSourceDescription"]
        assert shown["KinesisStreamARN"] == source
        send("one", "two")
        assert refused(lambda: put(aws, hose, b"direct"))[0] == "InvalidArgumentException"
        kinesis.split_shard(StreamARN=source, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
        kinesis.get_waiter("stream_exists").wait(StreamARN=source, WaiterConfig={"Delay": 1})
        later = [f"later-{number}" for number in range(20)]
        send(*later)
        expected = sorted(["one", "two", *later])
        eventually(lambda: sorted(b"".join(objects(aws, name).values()).decode().split()) == expected)
        assert sorted(b"".join(objects(aws, name).values()).decode().split()) == expected


def test_records_of_a_kinesis_stream_carry_their_position_to_the_function(aws: Aws, function: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesisfirehose.html"""
    name, source = bucket(aws), kinesis_stream(aws)
    allowed = allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), allow("lambda:InvokeFunction", function)
    role_arn = role(aws, FIREHOSE, reading(source), *allowed)
    configuration = to_s3(role_arn, name, **processing(lambda_processor(function)))
    with stream(aws, configuration, **from_kinesis(source, role_arn)):
        sent = aws.client("kinesis").put_record(StreamARN=source, Data=b"describe", PartitionKey="k")
        [told] = eventually(lambda: lines(aws, name))
    assert told["sourceKinesisStreamArn"] == source
    position = told["records"][0]["kinesisRecordMetadata"]
    assert position.pop("approximateArrivalTimestamp") == told["records"][0]["approximateArrivalTimestamp"]
    assert position == {
        "shardId": sent["ShardId"],
        "sequenceNumber": sent["SequenceNumber"],
        "subsequenceNumber": 0,
        "partitionKey": "k",
    }


@pytest.mark.parametrize("missing", ["DescribeStream", "GetShardIterator", "GetRecords", "ListShards"])
def test_reading_is_tried_again_until_the_role_may_read(aws: Aws, missing: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/troubleshooting.html"""
    name, source, options = bucket(aws), kinesis_stream(aws), log(aws)
    write = allow("s3:PutObject", f"arn:aws:s3:::{name}/*")
    incomplete = reading(source)
    incomplete["Action"].remove(f"kinesis:{missing}")
    role_arn = role(aws, FIREHOSE, incomplete, write, logs_to(options))
    configuration = to_s3(role_arn, name, CloudWatchLoggingOptions=options)
    with stream(aws, configuration, **from_kinesis(source, role_arn)):
        aws.client("kinesis").put_record(StreamARN=source, Data=b"a", PartitionKey="k")
        assert eventually(lambda: logged(aws, options))[0]["errorCode"] == "Kinesis.AccessDenied"
        assert objects(aws, name) == {}
        may(aws, role_arn, reading(source), write)
        assert list(eventually(lambda: objects(aws, name)).values()) == [b"a"]


# --- CloudFormation -----------------------------------------------------------------------------------------------


def hose_template(name: str, role_arn: str, to: str, prefix: str, **properties: Any) -> str:
    """Return a template of one stream; its numbers are text, as parameters are."""
    hints = {"SizeInMBs": "1", "IntervalInSeconds": "0"}
    configuration = to_s3(role_arn, to, Prefix=prefix) | {"BufferingHints": hints}
    body = json.loads(
        template(
            Hose=resource(
                "AWS::KinesisFirehose::DeliveryStream",
                DeliveryStreamName=name,
                ExtendedS3DestinationConfiguration=configuration,
                **properties,
            )
        )
    )
    body["Outputs"] = {"Arn": {"Value": {"Fn::GetAtt": "Hose.Arn"}}, "Name": {"Value": {"Ref": "Hose"}}}
    return json.dumps(body)


def test_a_stack_makes_changes_and_deletes_a_stream(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-kinesisfirehose-deliverystream.html"""
    cloudformation, firehose = aws.client("cloudformation"), aws.client("firehose")
    to, name = bucket(aws), unique("hose")
    role_arn, made = writer(aws, to), arn("firehose", f"deliverystream/{name}")
    actions = ["Create", "Describe", "Delete"]
    allowed = [
        allow([f"firehose:{action}DeliveryStream" for action in actions], made),
        allow(["firehose:UpdateDestination", "firehose:TagDeliveryStream"], made),
        allow("iam:PassRole", role_arn, StringEquals={"iam:PassedToService": FIREHOSE}),
    ]
    operator = role(aws, CLOUDFORMATION, *allowed)
    tags = [{"Key": "team", "Value": "data"}]
    stack = create(cloudformation, hose_template(name, role_arn, to, "a/", Tags=tags), RoleARN=operator)
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]} == {"Arn": made, "Name": name}
    assert firehose.list_tags_for_delivery_stream(DeliveryStreamName=name)["Tags"] == tags
    put(aws, name, b"a")
    assert eventually(lambda: objects(aws, to, "a/"))

    cloudformation.update_stack(
        StackName=stack["StackId"], TemplateBody=hose_template(name, role_arn, to, "b/", Tags=tags)
    )
    assert settled(cloudformation, stack["StackId"])["StackStatus"] == "UPDATE_COMPLETE"
    assert version(aws, name) == "2"
    put(aws, name, b"b")
    assert eventually(lambda: objects(aws, to, "b/"))

    source = from_kinesis(arn("kinesis", "stream/any"), role_arn)
    cloudformation.update_stack(
        StackName=stack["StackId"], TemplateBody=hose_template(name, role_arn, to, "b/", **source)
    )
    assert settled(cloudformation, stack["StackId"])["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"

    cloudformation.delete_stack(StackName=stack["StackId"])
    assert settled(cloudformation, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    assert refused(lambda: put(aws, name, b"c"))[0] == "ResourceNotFoundException"


@pytest.mark.parametrize("problem", ["firehose:CreateDeliveryStream", "iam:PassRole", "is unable to assume role"])
def test_a_stack_that_may_not_make_a_stream_rolls_back(aws: Aws, problem: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html"""
    name, to = unique("hose"), bucket(aws)
    role_arn = role(aws, "lambda.amazonaws.com") if problem.startswith("is unable") else writer(aws, to)
    actions = {"firehose:CreateDeliveryStream", "firehose:DescribeDeliveryStream", "iam:PassRole"} - {problem}
    operator = role(aws, CLOUDFORMATION, allow(sorted(actions), "*"))
    cloudformation = aws.client("cloudformation")
    stack = create(cloudformation, hose_template(name, role_arn, to, "a/"), RoleARN=operator)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert problem in failures(cloudformation, stack["StackId"])["Hose"]
    assert name not in aws.client("firehose").list_delivery_streams(Limit=1000)["DeliveryStreamNames"]


# --- Metrics ------------------------------------------------------------------------------------------------------


def total(aws: Aws, hose: str, metric: str) -> float | None:
    """Return the sum of a metric in the last minutes, None without data points."""
    now = datetime.now(UTC)
    points = aws.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/Firehose",
        MetricName=metric,
        Dimensions=[{"Name": "DeliveryStreamName", "Value": hose}],
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(minutes=1),
        Period=600,
        Statistics=["Sum"],
    )["Datapoints"]
    return sum(point["Sum"] for point in points) if points else None


def test_a_stream_publishes_metrics(aws: Aws, function: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html"""
    name = bucket(aws)
    allowed = allow("s3:PutObject", f"arn:aws:s3:::{name}/*"), allow("lambda:InvokeFunction", function)
    configuration = to_s3(role(aws, FIREHOSE, *allowed), name, **processing(lambda_processor(function)))
    with stream(aws, configuration) as hose:
        assert total(aws, hose, "IncomingRecords") is None
        put(aws, hose, b"aa", b"bb", b"Dropped")
        assert eventually(lambda: total(aws, hose, "DeliveryToS3.Success")) == 1
        assert {
            metric: total(aws, hose, metric)
            for metric in ("IncomingRecords", "IncomingBytes", "DeliveryToS3.Records", "DeliveryToS3.Bytes")
        } == {"IncomingRecords": 3, "IncomingBytes": 11, "DeliveryToS3.Records": 2, "DeliveryToS3.Bytes": 4}
        assert total(aws, hose, "ExecuteProcessing.Success") == 1
        freshness = eventually(lambda: total(aws, hose, "DeliveryToS3.DataFreshness"))
        assert freshness is not None
        assert 0 < freshness < 8


def test_failed_delivery_shows_in_the_metrics(aws: Aws) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html"""
    with stream(aws, to_s3(writer(aws, "other"), bucket(aws))) as hose:
        put(aws, hose, b"a")
        assert eventually(lambda: total(aws, hose, "DeliveryToS3.Success") is not None)
        assert total(aws, hose, "DeliveryToS3.Success") == 0
        assert total(aws, hose, "DeliveryToS3.Records") is None
