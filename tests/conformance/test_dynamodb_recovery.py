"""What DynamoDB remembers and forgets: exports, point-in-time recovery, time to live, global tables."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from local.launcher import clock, layout
from tests.conformance.event_sources import READ_CHANGES, Probe, eventually
from tests.conformance.test_cloudformation import create, failures, resource, settled, template
from tests.conformance.test_dynamodb import ATTRIBUTES, KEYS, item, key, table
from tests.conformance.test_iam import allow, arn, denied, unique, user
from tests.conftest import Aws, embedded_aws

RECOVERY = {"PointInTimeRecoveryEnabled": True}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """An embedded AWS of its own, whose clock may be moved and which exports short periods."""
    with embedded_aws(tmp_path_factory.mktemp("dynamodb"), ATLAS_DYNAMODB_EXPORT_SECONDS="1") as running:
        yield running


@pytest.fixture
def recovered(aws: Aws) -> str:
    """A table with point-in-time recovery."""
    name = table(aws)
    aws.client("dynamodb").update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=RECOVERY)
    return name


@pytest.fixture
def bucket(aws: Aws) -> str:
    name = unique("exports")
    aws.client("s3").create_bucket(Bucket=name)
    return name


def tick() -> datetime:
    """Return a whole second between what was done before and what is done after."""
    time.sleep(1.01)
    moment = datetime.fromtimestamp(int(time.time()), UTC)
    time.sleep(1 - time.time() % 1)
    return moment


def valued(sk: str, value: str) -> dict[str, Any]:
    return {**key(sk), "v": {"S": value}}


def value(line: dict[str, Any]) -> str:
    text: str = line["v"]["S"]
    return text


def code(failure: pytest.ExceptionInfo[ClientError]) -> str:
    return str(failure.value.response["Error"]["Code"])


# --- Exports -----------------------------------------------------------------------------------------------------


def export(client: Any, name: str, bucket: str, **members: Any) -> dict[str, Any]:
    """Export a table and return the description once the export has ended."""
    begun = client.export_table_to_point_in_time(TableArn=arn("dynamodb", f"table/{name}"), S3Bucket=bucket, **members)
    assert begun["ExportDescription"]["ExportStatus"] == "IN_PROGRESS"
    export_arn = begun["ExportDescription"]["ExportArn"]
    described: dict[str, Any] = eventually(
        lambda: client.describe_export(ExportArn=export_arn)["ExportDescription"],
        lambda found: found["ExportStatus"] != "IN_PROGRESS",
    )
    return described


def body(aws: Aws, bucket: str, object_key: str) -> bytes:
    data: bytes = aws.client("s3").get_object(Bucket=bucket, Key=object_key)["Body"].read()
    return data


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def summary(aws: Aws, export: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body(aws, export["S3Bucket"], export["ExportManifest"]))
    return found


def exported(aws: Aws, export: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of the data files, found and verified by the manifests."""
    bucket, lines = export["S3Bucket"], []
    files = body(aws, bucket, summary(aws, export)["manifestFilesS3Key"])
    for entry in map(json.loads, files.splitlines()):
        data = body(aws, bucket, entry["dataFileS3Key"])
        assert md5(data) == entry["md5Checksum"]
        assert aws.client("s3").head_object(Bucket=bucket, Key=entry["dataFileS3Key"])["ETag"] == f'"{entry["etag"]}"'
        found = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        assert len(found) == entry["itemCount"]
        lines += found
    return lines


def test_a_full_export_holds_the_items_of_its_moment(aws: Aws, recovered: str, bucket: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html"""
    client = aws.client("dynamodb")
    rich = {**valued("0", "ä"), "b": {"B": b"\x00\xff"}, "n": {"N": "1.50"}, "l": {"L": [{"NULL": True}]}}
    client.put_item(TableName=recovered, Item=rich)
    client.put_item(TableName=recovered, Item=valued("1", "old"))
    moment = tick()
    client.put_item(TableName=recovered, Item=valued("1", "new"))
    client.delete_item(TableName=recovered, Key=key("0"))
    client.put_item(TableName=recovered, Item=valued("2", "late"))

    then = export(client, recovered, bucket, ExportTime=moment, S3Prefix="some/where")
    assert then["ExportStatus"] == "COMPLETED", then
    wire = {**rich, "b": {"B": "AP8="}, "n": {"N": "1.5"}}
    found = {each["Item"]["sk"]["S"]: each["Item"] for each in exported(aws, then)}
    assert found["1"] == valued("1", "old")
    assert {**found["0"], "n": {"N": "1.5"}} == wire
    assert found.keys() == {"0", "1"}
    told = summary(aws, then)
    assert (told["itemCount"], told["exportArn"], told["tableId"]) == (2, then["ExportArn"], then["TableId"])
    assert told["exportTime"] == moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    folder = f"some/where/AWSDynamoDB/{then['ExportArn'].rpartition('/')[2]}"
    assert then["ExportManifest"] == f"{folder}/manifest-summary.json"
    checksum = body(aws, bucket, f"{folder}/manifest-summary.md5").decode()
    assert checksum == md5(body(aws, bucket, then["ExportManifest"]))
    assert body(aws, bucket, f"{folder}/_started") == b""

    now = export(client, recovered, bucket)
    assert sorted(value(each["Item"]) for each in exported(aws, now)) == ["late", "new"]
    listed = client.list_exports(TableArn=arn("dynamodb", f"table/{recovered}"))["ExportSummaries"]
    assert {each["ExportArn"]: each["ExportStatus"] for each in listed} == {
        then["ExportArn"]: "COMPLETED",
        now["ExportArn"]: "COMPLETED",
    }


def test_an_incremental_export_holds_what_changed(aws: Aws, recovered: str, bucket: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html"""
    client = aws.client("dynamodb")
    for sk in ("changed", "deleted", "untouched"):
        client.put_item(TableName=recovered, Item=valued(sk, "before"))
    start = tick()
    client.put_item(TableName=recovered, Item=valued("changed", "between"))
    client.put_item(TableName=recovered, Item=valued("changed", "after"))
    client.delete_item(TableName=recovered, Key=key("deleted"))
    client.put_item(TableName=recovered, Item=valued("inserted", "after"))
    client.put_item(TableName=recovered, Item=valued("passing", "between"))
    client.delete_item(TableName=recovered, Key=key("passing"))
    end = tick()
    client.put_item(TableName=recovered, Item=valued("inserted", "late"))

    for view, old in (("NEW_AND_OLD_IMAGES", {"OldImage": "before"}), ("NEW_IMAGE", {})):
        period = {"ExportFromTime": start, "ExportToTime": end, "ExportViewType": view}
        done = export(client, recovered, bucket, ExportType="INCREMENTAL_EXPORT", IncrementalExportSpecification=period)
        assert done["ExportStatus"] == "COMPLETED", done
        lines = {each["Keys"]["sk"]["S"]: each for each in exported(aws, done)}
        for line in lines.values():
            written = int(line["Metadata"]["WriteTimestampMicros"]["N"]) / 1_000_000
            assert start.timestamp() < written <= end.timestamp()
            assert line["Keys"]["pk"] == {"S": "p"}
        images = ("OldImage", "NewImage")
        assert {sk: {name: value(line[name]) for name in images if name in line} for sk, line in lines.items()} == {
            "changed": {**old, "NewImage": "after"},
            "deleted": old,
            "inserted": {"NewImage": "after"},
            "passing": {},
        }
        told = summary(aws, done)
        assert (told["exportType"], told["outputView"], told["itemCount"]) == ("INCREMENTAL_EXPORT", view, 4)
    # The files of incremental exports share one folder.
    shared = aws.client("s3").list_objects_v2(Bucket=bucket, Prefix="AWSDynamoDB/data/")["Contents"]
    assert len(shared) == 2 * 4


def test_an_export_needs_recovery_and_a_moment_within_it(aws: Aws, recovered: str, bucket: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_ExportTableToPointInTime.html"""
    client, hour = aws.client("dynamodb"), timedelta(hours=1)
    with pytest.raises(ClientError) as failure:
        export(client, table(aws), bucket)
    assert code(failure) == "PointInTimeRecoveryUnavailableException"
    with pytest.raises(ClientError) as failure:
        export(client, recovered, bucket, ExportTime=datetime.now(UTC) - hour)
    assert code(failure) == "InvalidExportTimeException"
    period = {"ExportFromTime": datetime.now(UTC) - 25 * hour}
    with pytest.raises(ClientError) as failure:
        export(client, recovered, bucket, ExportType="INCREMENTAL_EXPORT", IncrementalExportSpecification=period)
    assert code(failure) == "ValidationException"
    with pytest.raises(ClientError) as failure:
        export(client, "nothing", bucket)
    assert code(failure) == "TableNotFoundException"


def test_a_repeated_request_is_the_same_export(aws: Aws, recovered: str, bucket: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_ExportTableToPointInTime.html"""
    client, token = aws.client("dynamodb"), unique("token")
    first = export(client, recovered, bucket, ClientToken=token)
    request = {"TableArn": first["TableArn"], "S3Bucket": bucket, "ClientToken": token}
    assert client.export_table_to_point_in_time(**request)["ExportDescription"]["ExportArn"] == first["ExportArn"]
    with pytest.raises(client.exceptions.ExportConflictException):
        client.export_table_to_point_in_time(**request, S3Prefix="other")


def test_an_export_acts_with_its_callers_permissions(aws: Aws, recovered: str, bucket: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport_Requesting.html"""
    actions = ["dynamodb:ExportTableToPointInTime", "dynamodb:DescribeExport"]
    own = [arn("dynamodb", f"table/{recovered}"), arn("dynamodb", f"table/{recovered}/export/*")]
    message = denied(lambda: export(aws.client("dynamodb", user(aws, allow(actions, own[1]))), recovered, bucket))
    assert f"dynamodb:ExportTableToPointInTime on resource: {own[0]}" in message
    failed = export(aws.client("dynamodb", user(aws, allow(actions, own))), recovered, bucket)
    assert (failed["ExportStatus"], failed["FailureCode"]) == ("FAILED", "S3AccessDenied")
    assert "Contents" not in aws.client("s3").list_objects_v2(Bucket=bucket)
    writer = user(aws, allow(actions, own), allow("s3:PutObject", f"arn:aws:s3:::{bucket}/AWSDynamoDB/*"))
    assert export(aws.client("dynamodb", writer), recovered, bucket)["ExportStatus"] == "COMPLETED"
    missing = export(aws.client("dynamodb"), recovered, unique("nowhere"))
    assert (missing["ExportStatus"], missing["FailureCode"]) == ("FAILED", "S3NoSuchBucket")


# --- Point-in-time recovery --------------------------------------------------------------------------------------


def items(aws: Aws, name: str) -> dict[str, str]:
    found = aws.client("dynamodb").scan(TableName=name)["Items"]
    return {each["sk"]["S"]: value(each) for each in found}


def test_a_table_is_restored_to_the_second(aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/pointintimerecovery_restores.html"""
    index = {
        "IndexName": "by-sk",
        "KeySchema": [{"AttributeName": "sk", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "ALL"},
    }
    client = aws.client("dynamodb")
    name = table(aws, GlobalSecondaryIndexes=[index])
    client.put_item(TableName=name, Item=valued("early", "kept"))
    client.update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=RECOVERY)
    client.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "e"})
    client.put_item(TableName=name, Item=valued("1", "first"))
    first = tick()
    client.transact_write_items(
        TransactItems=[
            {"Put": {"TableName": name, "Item": valued("1", "second")}},
            {"Delete": {"TableName": name, "Key": key("early")}},
        ]
    )
    client.batch_write_item(RequestItems={name: [{"PutRequest": {"Item": valued("2", "batch")}}]})
    second = tick()
    client.update_item(
        TableName=name, Key=key("1"), UpdateExpression="SET v = :v", ExpressionAttributeValues={":v": {"S": "third"}}
    )

    def restored(**moment: Any) -> str:
        target = unique("restored")
        described = client.restore_table_to_point_in_time(SourceTableName=name, TargetTableName=target, **moment)
        assert described["TableDescription"]["TableStatus"] == "CREATING"
        assert described["TableDescription"]["RestoreSummary"]["RestoreInProgress"]
        client.get_waiter("table_exists").wait(TableName=target, WaiterConfig={"Delay": 1, "MaxAttempts": 8})
        return target

    before = restored(RestoreDateTime=first)
    assert items(aws, before) == {"early": "kept", "1": "first"}
    assert items(aws, restored(RestoreDateTime=second)) == {"1": "second", "2": "batch"}
    assert items(aws, restored(UseLatestRestorableTime=True)) == {"1": "third", "2": "batch"}
    # It is a table of its own, whose indexes find its items and whose settings are those of a new table.
    client.put_item(TableName=before, Item=valued("1", "changed"))
    assert items(aws, name)["1"] == "third"
    found = client.query(
        TableName=before,
        IndexName="by-sk",
        KeyConditionExpression="sk = :sk",
        ExpressionAttributeValues={":sk": {"S": "early"}},
    )
    assert found["Count"] == 1
    assert client.describe_time_to_live(TableName=before)["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED"
    summary = client.describe_table(TableName=before)["Table"]["RestoreSummary"]
    assert (summary["RestoreDateTime"], summary["RestoreInProgress"]) == (first, False)


def test_only_the_recovery_period_can_be_restored(aws: Aws, recovered: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_RestoreTableToPointInTime.html"""
    client, target = aws.client("dynamodb"), unique("restored")
    described = client.describe_continuous_backups(TableName=recovered)["ContinuousBackupsDescription"]
    period = described["PointInTimeRecoveryDescription"]
    assert period["PointInTimeRecoveryStatus"] == "ENABLED"
    assert period["EarliestRestorableDateTime"] <= period["LatestRestorableDateTime"]
    request = {"SourceTableName": recovered, "TargetTableName": target}
    for moment in (datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)):
        with pytest.raises(client.exceptions.InvalidRestoreTimeException):
            client.restore_table_to_point_in_time(**request, RestoreDateTime=moment)
    with pytest.raises(client.exceptions.TableAlreadyExistsException):
        client.restore_table_to_point_in_time(
            **{**request, "TargetTableName": table(aws)}, UseLatestRestorableTime=True
        )
    # Disabled and enabled again, the table begins a new past.
    moment = tick()
    disabled = {"PointInTimeRecoveryEnabled": False}
    client.update_continuous_backups(TableName=recovered, PointInTimeRecoverySpecification=disabled)
    with pytest.raises(client.exceptions.PointInTimeRecoveryUnavailableException):
        client.restore_table_to_point_in_time(**request, UseLatestRestorableTime=True)
    client.update_continuous_backups(TableName=recovered, PointInTimeRecoverySpecification=RECOVERY)
    with pytest.raises(client.exceptions.InvalidRestoreTimeException):
        client.restore_table_to_point_in_time(**request, RestoreDateTime=moment)


def test_a_restore_needs_permission_for_both_tables(aws: Aws, recovered: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/backuprestore_IAM.html"""
    target = unique("restored")
    request = {"SourceTableName": recovered, "TargetTableName": target, "UseLatestRestorableTime": True}
    source, made = arn("dynamodb", f"table/{recovered}"), arn("dynamodb", f"table/{target}")
    message = denied(lambda: aws.client("dynamodb", user(aws)).restore_table_to_point_in_time(**request))
    assert f"dynamodb:RestoreTableToPointInTime on resource: {source}" in message
    keys = user(aws, allow("dynamodb:RestoreTableToPointInTime", source))
    message = denied(lambda: aws.client("dynamodb", keys).restore_table_to_point_in_time(**request))
    assert f"dynamodb:BatchWriteItem on resource: {made}" in message
    actions = ["BatchWriteItem", "DeleteItem", "GetItem", "PutItem", "Query", "Scan", "UpdateItem"]
    writing = allow([f"dynamodb:{action}" for action in actions], made)
    keys = user(aws, allow("dynamodb:RestoreTableToPointInTime", source), writing)
    assert aws.client("dynamodb", keys).restore_table_to_point_in_time(**request)["TableDescription"]


def test_the_past_of_a_deleted_table_is_gone(aws: Aws, recovered: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Point-in-time-recovery.html"""
    client = aws.client("dynamodb")
    client.put_item(TableName=recovered, Item=item("a"))
    identity = client.describe_table(TableName=recovered)["Table"]["TableId"]
    path = Path(aws.state) / "dynamodb" / f"{identity}.jsonl"
    assert path.exists()
    client.delete_table(TableName=recovered)
    assert not path.exists()


# --- Time to live ------------------------------------------------------------------------------------------------


def test_expired_items_are_deleted_with_a_record_that_names_the_service(aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/time-to-live-ttl-streams.html"""
    client = aws.client("dynamodb")
    stream = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    name = table(aws, StreamSpecification=stream)
    source = client.describe_table(TableName=name)["Table"]["LatestStreamArn"]
    told = Probe(aws, allow(READ_CHANGES, arn("dynamodb", f"table/{name}/stream/*")))
    pattern = {
        "userIdentity": {"type": ["Service"], "principalId": ["dynamodb.amazonaws.com"]},
        "eventName": ["REMOVE"],
    }
    settings: dict[str, Any] = {"StartingPosition": "TRIM_HORIZON"}
    told.map(source, **settings, FilterCriteria={"Filters": [{"Pattern": json.dumps(pattern)}]})
    client.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "e"})
    client.update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=RECOVERY)
    now, day = int(time.time() + clock.advance(aws.endpoint, 0)), 86_400
    due = {"due": now, "soon": now + day, "later": now + 7 * day, "long ago": now - 6 * 366 * day}
    for sk, expires in due.items():
        client.put_item(TableName=name, Item={**key(sk), "e": {"N": str(expires)}, "v": {"S": sk}, "id": {"S": sk}})
    client.put_item(TableName=name, Item={**valued("text", "text"), "e": {"S": str(now)}})
    client.put_item(TableName=name, Item=valued("by hand", "by hand"))
    client.delete_item(TableName=name, Key=key("by hand"))
    written = tick()
    clock.advance(aws.endpoint, 2 * day)
    eventually(lambda: items(aws, name), lambda found: found.keys() == {"later", "long ago", "text"})
    streams = aws.client("dynamodbstreams")
    shard = streams.describe_stream(StreamArn=source)["StreamDescription"]["Shards"][0]["ShardId"]
    iterator = streams.get_shard_iterator(StreamArn=source, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    records = streams.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
    removed = {each["dynamodb"]["OldImage"]["v"]["S"]: each for each in records if each["eventName"] == "REMOVE"}
    assert removed.keys() == {"by hand", "due", "soon"}
    assert "userIdentity" not in removed["by hand"]
    assert removed["due"]["userIdentity"] == {"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}
    told.after("due", "soon")
    assert set(told.ids()) == {"due", "soon"}
    identity = told.invocations()[0]["event"]["userIdentity"]
    assert identity == {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    # What has expired can be restored like everything else.
    target = unique("restored")
    client.restore_table_to_point_in_time(SourceTableName=name, TargetTableName=target, RestoreDateTime=written)
    assert items(aws, target).keys() == {"due", "soon", "later", "long ago", "text"}


# --- Global tables -----------------------------------------------------------------------------------------------


def region(aws: Aws, name: str) -> Any:
    """Return a DynamoDB client of another region."""
    return boto3.client(
        "dynamodb",
        endpoint_url=aws.endpoint,
        region_name=name,
        aws_access_key_id=layout.ROOT_KEYS[0],
        aws_secret_access_key=layout.ROOT_KEYS[1],
    )


def test_a_template_makes_changes_and_removes_replicas(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-dynamodb-globaltable.html"""
    client, dynamodb, name = aws.client("cloudformation"), aws.client("dynamodb"), unique("global")
    ireland, ohio = region(aws, "eu-west-1"), region(aws, "us-east-2")

    def body(*replicas: dict[str, Any]) -> str:
        return template(
            T=resource(
                "AWS::DynamoDB::GlobalTable",
                TableName=name,
                BillingMode="PAY_PER_REQUEST",
                KeySchema=KEYS,
                AttributeDefinitions=ATTRIBUTES,
                StreamSpecification={"StreamViewType": "NEW_AND_OLD_IMAGES"},
                TimeToLiveSpecification={"AttributeName": "e", "Enabled": True},
                Replicas=list(replicas),
            )
        )

    def replicas() -> set[str]:
        described = dynamodb.describe_table(TableName=name)["Table"].get("Replicas", [])
        return {each["RegionName"] for each in described}

    def recovery(of: Any) -> str:
        described = of.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        return str(described["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"])

    home = {"Region": "us-east-1"}
    stack = create(client, body({"Region": "eu-west-1"}))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "must include the region" in failures(client, stack["StackId"])["T"]

    stack = create(client, body(home, {"Region": "eu-west-1", "PointInTimeRecoverySpecification": RECOVERY}))
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    assert (replicas(), recovery(ireland), recovery(dynamodb)) == ({"eu-west-1"}, "ENABLED", "DISABLED")
    dynamodb.put_item(TableName=name, Item=item("a"))
    assert ireland.get_item(TableName=name, Key=key("a"))["Item"] == item("a")
    ireland.delete_item(TableName=name, Key=key("a"))
    assert "Item" not in dynamodb.get_item(TableName=name, Key=key("a"))
    dynamodb.put_item(TableName=name, Item=item("b"))

    client.update_stack(StackName=stack["StackName"], TemplateBody=body(home, {"Region": "us-east-2"}))
    assert settled(client, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    assert replicas() == {"us-east-2"}
    assert ohio.get_item(TableName=name, Key=key("b"))["Item"] == item("b")
    with pytest.raises(ireland.exceptions.ResourceNotFoundException):
        ireland.describe_table(TableName=name)

    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    for gone in (dynamodb, ohio):
        with pytest.raises(gone.exceptions.ResourceNotFoundException):
            gone.describe_table(TableName=name)
