"""EventBridge Pipes: sources, filters, enrichment, templates, targets, failures, permissions, states, stacks."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.launcher import faults
from tests.conformance.event_sources import READ_CHANGES, READ_QUEUE, READ_STREAM, eventually
from tests.conformance.event_targets import KINDS, Place, bodies, messages, place, printed, records, total
from tests.conformance.test_cloudformation import create, failures, resource, settled, template
from tests.conformance.test_event_source_queues import Queue
from tests.conformance.test_event_sources import Stream
from tests.conformance.test_iam import allow, arn, denied, role, unique, user
from tests.conformance.test_lambda import pending_function
from tests.conformance.test_stepfunctions import queue, queue_arn
from tests.conftest import Aws

PIPES = "pipes.amazonaws.com"
READ = {"sqs": READ_QUEUE, "kinesis": READ_STREAM, "dynamodb": READ_CHANGES}
STREAMS = {"kinesis": "KinesisStreamParameters", "dynamodb": "DynamoDBStreamParameters"}

# Fails, reports or drops single events, as their "does" says; otherwise it returns them with a mark.
ENRICHES = """
import base64, json

def row(event):
    if "body" in event:
        return json.loads(event["body"]), event["messageId"]
    return json.loads(base64.b64decode(event["data"])), event["eventID"]

def handler(events, context):
    print("GOT " + json.dumps(events), flush=True)
    rows = [row(event) for event in events]
    does = {each.get("does") for each, _ in rows}
    if "raise" in does:
        raise ValueError("as asked")
    failed = [{"itemIdentifier": position} for each, position in rows if each.get("does") == "fail"]
    if failed or "report" in does:
        return {"batchItemFailures": failed}
    return [{**each, "enriched": True} for each, _ in rows if each.get("does") != "drop"]
"""


@pytest.fixture(scope="module", autouse=True)
def _no_pipes_left(aws: Aws) -> Iterator[None]:
    """Pipes whose batches fail would go on trying."""
    yield
    client = aws.client("pipes")
    for each in client.list_pipes()["Pipes"]:
        client.delete_pipe(Name=each["Name"])


class Pipe:
    """A running pipe."""

    def __init__(self, aws: Aws, source: str, target: str, *statements: dict[str, Any], **settings: Any) -> None:
        self.aws, self.client, self.name = aws, aws.client("pipes"), unique("pipe")
        service = source.split(":")[2]
        self.role = role(aws, PIPES, allow(READ[service], source), *statements)
        if service != "sqs":
            given = settings.setdefault("SourceParameters", {}).setdefault(STREAMS[service], {})
            given.setdefault("StartingPosition", "TRIM_HORIZON")
        made = self.client.create_pipe(Name=self.name, Source=source, Target=target, RoleArn=self.role, **settings)
        assert made["CurrentState"] == "CREATING"
        self.arn = made["Arn"]

    def state(self) -> str:
        return str(self.client.describe_pipe(Name=self.name)["CurrentState"])

    def become(self, state: str) -> None:
        eventually(self.state, lambda found: found == state)

    def total(self, metric: str) -> float:
        return total(self.aws, "AWS/EventBridge/Pipes", metric, PipeName=self.name)


@pytest.fixture(scope="module")
def enriches(aws: Aws) -> str:
    """The ARN of a function that can stand for enrichment and target."""
    return pending_function(aws, unique("enriches"), ENRICHES)


def table(aws: Aws) -> tuple[str, str]:
    """Return the name of a new table and the ARN of its stream."""
    name = unique("table")
    made = aws.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )["TableDescription"]
    return name, made["LatestStreamArn"]


def may_enrich(function: str) -> dict[str, Any]:
    return allow("lambda:InvokeFunction", function)


def partition_key(kind: str, path: str) -> dict[str, Any]:
    """Return the target parameters that a Kinesis target needs."""
    return {"KinesisStreamParameters": {"PartitionKey": path}} if kind == "kinesis" else {}


# --- Targets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_gets_the_message_if_the_pipes_role_may_send_it(aws: Aws, kind: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-event-target.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-error-troubleshooting.html
    """
    source, other, target = Queue(aws, visibility=30), Queue(aws, visibility=30), place(aws, kind)
    settings = {"TargetParameters": partition_key(kind, "$.body.id")}
    pipe = Pipe(aws, source.arn, target.arn, target.statement, **settings)
    unable = Pipe(aws, other.arn, target.arn, **settings)
    other.put({"id": "6"})
    source.put({"id": "7"})
    (text,) = eventually(target.read)
    found = json.loads(text[text.index("[" if kind in {"lambda", "states"} else "{") :])
    if kind in {"lambda", "states"}:
        (found,) = found
    if kind == "events":
        assert (found["source"], found["detail-type"]) == (f"Pipe {pipe.name}", "Event from aws:sqs")
        found = found["detail"]
    if kind == "kinesis":
        assert text.startswith("7 {")
    assert (found["body"], found["eventSource"], found["eventSourceARN"]) == ('{"id": "7"}', "aws:sqs", source.arn)
    eventually(source.left, lambda left: left == 0)
    eventually(lambda: unable.total("TargetStageFailed") == unable.total("ExecutionFailed") == 1)
    eventually(lambda: pipe.total("Invocations") == 1)
    assert (len(target.read()), other.left()) == (1, 1)


# --- Sources -----------------------------------------------------------------------------------------------------


def test_kinesis_records_are_filtered_on_their_data_and_flat(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-kinesis.html"""
    source, target = Stream(aws), place(aws, "lambda")
    pattern = json.dumps({"data": {"amount": [{"numeric": [">", 10]}]}, "partitionKey": ["key"]})
    Pipe(
        aws,
        source.arn,
        target.arn,
        target.statement,
        SourceParameters={"FilterCriteria": {"Filters": [{"Pattern": pattern}]}},
    )
    source.put({"id": "small", "amount": 5}, {"id": "large", "amount": 50}, {"id": "other", "amount": 60, "key": "x"})
    (text,) = eventually(target.read)
    (event,) = json.loads(text)
    assert json.loads(base64.b64decode(event["data"]))["id"] == "large"
    assert event.keys() == {
        "kinesisSchemaVersion",
        "partitionKey",
        "sequenceNumber",
        "data",
        "approximateArrivalTimestamp",
        "eventSource",
        "eventVersion",
        "eventID",
        "eventName",
        "invokeIdentityArn",
        "awsRegion",
        "eventSourceARN",
    }


def test_changes_of_a_table_are_filtered_by_kind(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-dynamodb.html"""
    dynamodb, (name, changes), target = aws.client("dynamodb"), table(aws), place(aws, "sqs")
    Pipe(
        aws,
        changes,
        target.arn,
        target.statement,
        SourceParameters={"FilterCriteria": {"Filters": [{"Pattern": '{"eventName": ["REMOVE"]}'}]}},
        TargetParameters={"InputTemplate": '{"gone": <$.dynamodb.OldImage.id.S>, "was": <$.dynamodb.OldImage.n.N>}'},
    )
    dynamodb.put_item(TableName=name, Item={"id": {"S": "a"}, "n": {"N": "3"}})
    dynamodb.delete_item(TableName=name, Key={"id": {"S": "a"}})
    assert eventually(target.read) == ['{"gone": "a", "was": "3"}']


def test_messages_that_do_not_pass_are_deleted(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-event-filtering.html"""
    source, target = Queue(aws, visibility=30), place(aws, "sqs")
    filters = {"Filters": [{"Pattern": '{"body": {"id": [{"prefix": "good"}]}}'}]}
    Pipe(
        aws,
        source.arn,
        target.arn,
        target.statement,
        SourceParameters={"FilterCriteria": filters},
        TargetParameters={"InputTemplate": "<$.body.id>"},
    )
    source.put("bad", "good-1", "bad", "good-2")
    found = eventually(target.read, lambda texts: len(texts) == 2)
    assert sorted(found) == ["good-1", "good-2"]
    eventually(source.left, lambda left: left == 0)


def test_a_batch_waits_for_its_window(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-batching-concurrency.html"""
    source, target = Stream(aws), place(aws, "states")
    settings = {"BatchSize": 3, "MaximumBatchingWindowInSeconds": 2}
    Pipe(
        aws,
        source.arn,
        target.arn,
        target.statement,
        SourceParameters={"KinesisStreamParameters": settings},
        TargetParameters={"InputTemplate": '"<$.data.id>"'},
    )
    for name in ("1", "2", "3", "4"):
        source.put({"id": name})
        time.sleep(0.05)
    found = eventually(target.read, lambda texts: len(texts) == 2)
    assert sorted(json.loads(text) for text in found) == [["1", "2", "3"], ["4"]]


# --- Templates and parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param('{"id": <$.body.id>, "n": <$.body.lines[1].n>}', '{"id": "7", "n": 2}', id="values"),
        pytest.param('{"all": <$.body.lines>}', '{"all": [{"n": 1}, {"n": 2}]}', id="array"),
        pytest.param('{"text": "order <$.body.id> of <$.body.lines[0].n>"}', '{"text": "order 7 of 1"}', id="inside"),
        pytest.param("order <$.body.id>", "order 7", id="text"),
        pytest.param("<$.body>", "{id: 7, lines: [{n: 1}, {n: 2}]}", id="body-loses-its-quotes"),
        pytest.param('{"data": <$.body>}', '{"data": {"id": "7", "lines": [{"n": 1}, {"n": 2}]}}', id="wrapped-body"),
        pytest.param('{"pipe": <aws.pipes.pipe-name>, "none": <$.body.no>}', '{"pipe": "PIPE", "none": ""}', id="own"),
        pytest.param('{"id": "fixed"}', '{"id": "fixed"}', id="constant"),
    ],
)
def test_the_input_is_transformed(aws: Aws, given: str, expected: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-input-transformation.html"""
    source, target = Queue(aws, visibility=30), place(aws, "sqs")
    pipe = Pipe(aws, source.arn, target.arn, target.statement, TargetParameters={"InputTemplate": given})
    source.put({"id": "7", "lines": [{"n": 1}, {"n": 2}]})
    assert eventually(target.read) == [expected.replace("PIPE", pipe.name)]


def test_a_function_gets_json_or_nothing(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-input-transformation.html#input-transform-implicit"""
    source, target = Queue(aws, visibility=30), place(aws, "lambda")
    pipe = Pipe(aws, source.arn, target.arn, target.statement, TargetParameters={"InputTemplate": "<$.body>"})
    source.put({"id": "7"})
    eventually(lambda: pipe.total("TargetStageFailed") == 1)
    assert (target.read(), source.left()) == ([], 1)


def test_parameters_are_found_in_the_event(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/pipes-reference/API_PipeTargetParameters.html"""
    source, bus = Queue(aws, visibility=30), place(aws, "events")
    given = {"DetailType": "$.body.kind", "Source": "shop", "Resources": ["$.body.id"], "Time": "$.body.at"}
    Pipe(
        aws,
        source.arn,
        bus.arn,
        bus.statement,
        TargetParameters={"EventBridgeEventBusParameters": given, "InputTemplate": '{"id": <$.body.id>}'},
    )
    source.put({"id": "7", "kind": "order", "at": "2030-01-02T03:04:05Z"})
    (text,) = eventually(bus.read)
    event = json.loads(text)
    assert (event["detail-type"], event["source"], event["resources"]) == ("order", "shop", ["7"])
    assert event["detail"] == {"id": "7"}

    group, other = place(aws, "logs"), Queue(aws, visibility=30)
    logs = {"LogStreamName": "mine", "Timestamp": "$.body.at"}
    parameters = {"CloudWatchLogsParameters": logs, "InputTemplate": "<$.body.id>"}
    Pipe(aws, other.arn, group.arn, group.statement, TargetParameters=parameters)
    at = int(time.time() * 1000) - 60_000
    other.put({"id": "late", "at": at})
    name = group.arn.partition(":log-group:")[2]
    eventually(group.read)
    (found,) = aws.client("logs").get_log_events(logGroupName=name, logStreamName="mine")["events"]
    assert (found["timestamp"], found["message"]) == (at, "late")


# --- Enrichment --------------------------------------------------------------------------------------------------


def test_an_enrichment_answers_with_the_events_of_the_target(aws: Aws, enriches: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/pipes-enrichment.html"""
    source, target = Queue(aws, visibility=30), place(aws, "sqs")
    pipe = Pipe(
        aws,
        source.arn,
        target.arn,
        target.statement,
        may_enrich(enriches),
        Enrichment=enriches,
        TargetParameters={"InputTemplate": '{"id": <$.id>, "done": <$.enriched>}'},
    )
    source.put("1", {"id": "2", "does": "drop"})
    assert eventually(target.read) == ['{"id": "1", "done": true}']
    eventually(source.left, lambda left: left == 0)
    source.put({"id": "3", "does": "drop"})
    eventually(lambda: pipe.total("TargetStageSkipped") >= 1)


def express(aws: Aws, output: str) -> str:
    """Return the ARN of an express workflow with this output."""
    states = {"Only": {"Type": "Pass", "Output": output, "End": True}}
    made: str = aws.client("stepfunctions").create_state_machine(
        name=unique("express"),
        type="EXPRESS",
        definition=json.dumps({"QueryLanguage": "JSONata", "StartAt": "Only", "States": states}),
        roleArn=role(aws, "states.amazonaws.com"),
    )["stateMachineArn"]
    return made


@pytest.mark.parametrize("kind", ["lambda", "states"])
def test_an_enrichment_needs_permission(aws: Aws, enriches: str, kind: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-permissions.html"""
    source, target = Queue(aws, visibility=30), place(aws, "sqs")
    enrichment = enriches if kind == "lambda" else express(aws, "{% $states.input %}")
    pipe = Pipe(aws, source.arn, target.arn, target.statement, Enrichment=enrichment)
    source.put("1")
    eventually(lambda: pipe.total("EnrichmentStageFailed") == 1)
    assert (target.read(), source.left()) == ([], 1)


def test_an_express_workflow_enriches(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/pipes-enrichment.html"""
    source, target = Queue(aws, visibility=30), place(aws, "sqs")
    workflow = express(aws, "{% [$states.input.{'twice': id & id}] %}")
    Pipe(
        aws,
        source.arn,
        target.arn,
        target.statement,
        allow("states:StartSyncExecution", workflow),
        Enrichment=workflow,
        EnrichmentParameters={"InputTemplate": '{"id": <$.body.id>}'},
    )
    source.put("7")
    assert json.loads(eventually(target.read)[0]) == {"twice": "77"}


# --- Failures ----------------------------------------------------------------------------------------------------


def test_a_throttled_target_costs_no_attempt(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-error-troubleshooting.html"""
    source, target, letters = Stream(aws), place(aws, "firehose"), queue(aws)
    settings = {"MaximumRetryAttempts": 0, "DeadLetterConfig": {"Arn": queue_arn(letters)}}
    throttled = {"actions": ["firehose:PutRecordBatch"], "fault": "throttle", "most": 4}
    with faults.on(aws.endpoint, [throttled]):
        pipe = Pipe(
            aws,
            source.arn,
            target.arn,
            target.statement,
            allow("sqs:SendMessage", queue_arn(letters)),
            SourceParameters={"KinesisStreamParameters": settings},
            TargetParameters={"InputTemplate": '{"id": <$.data.id>}'},
        )
        source.put("7")
        assert eventually(target.read) == ['{"id": "7"}']
    eventually(lambda: pipe.total("TargetStageFailed") == 1)  # four calls, as the SDK repeats them
    assert bodies(aws, letters) == []


def test_only_failed_messages_come_back(aws: Aws, enriches: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-batching-concurrency.html"""
    source = Queue(aws, visibility=1)
    pipe = Pipe(aws, source.arn, enriches, may_enrich(enriches))
    source.put("1", {"id": "2", "does": "fail"}, "3")
    eventually(lambda: pipe.total("TargetStagePartiallyFailed") >= 2)
    assert source.left() == 1
    assert pipe.total("ExecutionFailed") == 0


def test_a_failed_batch_of_a_stream_is_cut_retried_and_described_in_a_dead_letter(aws: Aws, enriches: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-kinesis.html"""
    source, letters = Stream(aws), queue(aws)
    settings = {
        "BatchSize": 10,
        "MaximumBatchingWindowInSeconds": 1,
        "MaximumRetryAttempts": 1,
        "OnPartialBatchItemFailure": "AUTOMATIC_BISECT",
        "DeadLetterConfig": {"Arn": queue_arn(letters)},
    }
    pipe = Pipe(
        aws,
        source.arn,
        enriches,
        may_enrich(enriches),
        allow("sqs:SendMessage", queue_arn(letters)),
        SourceParameters={"KinesisStreamParameters": settings},
    )
    source.put("1", {"id": "poison", "does": "raise"}, "2", "3")
    (text,) = eventually(lambda: bodies(aws, letters))
    letter = json.loads(text)
    assert letter["context"] == {"partnerResourceArn": pipe.arn, "condition": "RetryAttemptsExhausted"}
    batch = letter["KinesisBatchInfo"]
    assert (batch["batchSize"], batch["streamArn"]) == (1, source.arn)
    poison = records(aws, source.name)[1]
    assert batch["startSequenceNumber"] == batch["endSequenceNumber"] == poison["SequenceNumber"]

    def ids() -> list[list[str]]:
        name = enriches.rpartition(":")[2]
        seen = [json.loads(text) for text in printed(aws, name)]
        mine = [batch for batch in seen if batch[0]["eventSourceARN"] == source.arn]
        return [[json.loads(base64.b64decode(event["data"]))["id"] for event in batch] for batch in mine]

    found = eventually(ids, lambda batches: ["2", "3"] in batches)
    assert found.count(["poison"]) == 2


def test_a_dead_letter_needs_a_role_that_may_send_it(aws: Aws, enriches: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-batching-concurrency.html#pipes-dlq"""
    source, letters, target = Stream(aws), place(aws, "sqs"), place(aws, "sqs")
    settings = {"BatchSize": 1, "MaximumRetryAttempts": 0, "DeadLetterConfig": {"Arn": letters.arn}}
    parameters = {"KinesisStreamParameters": settings}
    may = may_enrich(enriches), target.statement
    Pipe(aws, source.arn, target.arn, *may, Enrichment=enriches, SourceParameters=parameters)
    source.put({"id": "poison", "does": "raise"}, "next")
    eventually(target.read)  # the records of a shard are in order
    assert letters.read() == []


def test_records_are_retried_from_the_first_that_failed(aws: Aws, enriches: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-batching-concurrency.html"""
    source = Stream(aws)
    settings = {"BatchSize": 10, "MaximumBatchingWindowInSeconds": 1, "MaximumRetryAttempts": 1}
    pipe = Pipe(
        aws,
        source.arn,
        enriches,
        may_enrich(enriches),
        SourceParameters={"KinesisStreamParameters": settings},
    )
    source.put("1", {"id": "2", "does": "fail"}, "3")
    eventually(lambda: pipe.total("TargetStagePartiallyFailed") == 2)
    seen = [json.loads(text) for text in printed(aws, enriches.rpartition(":")[2])]
    assert [len(batch) for batch in seen if batch[0]["eventSourceARN"] == source.arn] == [3, 2]


def test_entries_that_a_target_refuses_stay(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-batching-concurrency.html"""
    source, bus = Queue(aws, visibility=30), place(aws, "events")
    parameters = {"EventBridgeEventBusParameters": {"Source": "$.body.from"}, "InputTemplate": '{"id": <$.body.id>}'}
    pipe = Pipe(aws, source.arn, bus.arn, bus.statement, TargetParameters=parameters)
    source.put({"id": "1", "from": "shop"}, {"id": "2", "from": "aws.forbidden"})
    assert json.loads(eventually(bus.read)[0])["detail"] == {"id": "1"}
    eventually(lambda: pipe.total("TargetStagePartiallyFailed") == 1)
    assert source.left() == 1


# --- States ------------------------------------------------------------------------------------------------------


def test_a_pipe_stops_starts_changes_and_ends(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-start-stop.html"""
    source, first, second = Stream(aws), place(aws, "sqs"), place(aws, "sqs")
    text = {"InputTemplate": "<$.data.id>"}
    pipe = Pipe(aws, source.arn, first.arn, first.statement, second.statement, TargetParameters=text)
    pipe.become("RUNNING")
    source.put("1")
    eventually(first.read)
    assert pipe.client.stop_pipe(Name=pipe.name)["CurrentState"] == "STOPPING"
    pipe.become("STOPPED")
    source.put("2")
    time.sleep(0.3)
    assert first.read() == ["1"]
    settings = {"KinesisStreamParameters": {"BatchSize": 5}}
    changed = pipe.client.update_pipe(
        Name=pipe.name, RoleArn=pipe.role, Target=second.arn, DesiredState="RUNNING", SourceParameters=settings
    )
    assert changed["CurrentState"] == "UPDATING"
    pipe.become("RUNNING")
    assert (eventually(second.read), first.read()) == (["2"], ["1"])
    described = pipe.client.describe_pipe(Name=pipe.name)
    kept = {"BatchSize": 5, "StartingPosition": "TRIM_HORIZON"}
    assert described["SourceParameters"]["KinesisStreamParameters"] == kept
    assert described["TargetParameters"] == text
    assert pipe.client.delete_pipe(Name=pipe.name)["CurrentState"] == "DELETING"
    with pytest.raises(pipe.client.exceptions.NotFoundException):
        eventually(lambda: not pipe.state())


@pytest.mark.parametrize(
    ("service", "trust"),
    [*((service, PIPES) for service in READ), pytest.param("sqs", "events.amazonaws.com", id="trust")],
)
def test_a_role_that_cannot_read_the_source_fails_the_creation(aws: Aws, service: str, trust: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-permissions.html"""
    sources = {"sqs": lambda: Queue(aws).arn, "kinesis": lambda: Stream(aws).arn, "dynamodb": lambda: table(aws)[1]}
    source, target, name = sources[service](), place(aws, "sqs"), unique("pipe")
    *others, last = READ[service]
    may = role(aws, trust, allow(others if trust == PIPES else READ[service], source), target.statement)
    client = aws.client("pipes")
    parameters = {STREAMS[service]: {"StartingPosition": "LATEST"}} if service in STREAMS else {}
    client.create_pipe(Name=name, Source=source, Target=target.arn, RoleArn=may, SourceParameters=parameters)
    described = eventually(lambda: client.describe_pipe(Name=name), lambda each: each["CurrentState"] != "CREATING")
    assert described["CurrentState"] == "CREATE_FAILED"
    assert (last if trust == PIPES else "not allowed to assume") in described["StateReason"]


SOURCE, STREAM, ROLE = arn("sqs", "q"), arn("kinesis", "stream/s"), "arn:aws:iam::000000000000:role/none"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"Source": arn("mq", "broker")}, "no pipe sources like"),
        ({"Target": arn("batch", "job-queue/q")}, "no pipe targets like"),
        ({"Source": STREAM}, "StartingPosition is required"),
        ({"Target": STREAM}, "PartitionKey is required"),
        ({"SourceParameters": {"SqsQueueParameters": {"BatchSize": 11}}}, "target's maximum of 10"),
        ({"SourceParameters": {"FilterCriteria": {"Filters": [{"Pattern": '{"body": 1}'}]}}}, "not valid"),
    ],
    ids=["source", "target", "position", "key", "size", "filter"],
)
def test_a_wrong_pipe_is_refused(aws: Aws, members: dict[str, Any], reason: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/pipes-reference/API_CreatePipe.html"""
    request = {"Name": unique(), "Source": SOURCE, "Target": arn("sqs", "other"), "RoleArn": ROLE, **members}
    with pytest.raises(ClientError, match=reason) as failure:
        aws.client("pipes").create_pipe(**request)
    assert failure.value.response["Error"]["Code"] == "ValidationException"


def test_a_role_must_be_passed(aws: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-permissions.html"""
    mine, name = role(aws, PIPES), unique("pipe")
    caller = aws.client("pipes", user(aws, allow("pipes:CreatePipe", arn("pipes", f"pipe/{name}"))))
    request = {"Source": SOURCE, "Target": SOURCE, "RoleArn": mine}
    assert f"iam:PassRole on resource: {mine}" in denied(lambda: caller.create_pipe(Name=name, **request))
    other = aws.client(
        "pipes", user(aws, allow("pipes:CreatePipe", arn("pipes", "pipe/x")), allow("iam:PassRole", mine))
    )
    assert f"pipe/{name}" in denied(lambda: other.create_pipe(Name=name, **request))


# --- Stacks ------------------------------------------------------------------------------------------------------


def stack_template(name: str, source: Queue, target: Place, may: str, given: str) -> str:
    return template(
        Pipe=resource(
            "AWS::Pipes::Pipe",
            Name=name,
            Source=source.arn,
            Target=target.arn,
            RoleArn=may,
            TargetParameters={"InputTemplate": given},
        )
    )


@pytest.fixture
def stack_name(aws: Aws) -> Iterator[str]:
    name = unique("stack")
    yield name
    aws.client("cloudformation").delete_stack(StackName=name)


def test_a_stack_makes_changes_and_deletes_a_pipe(aws: Aws, stack_name: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-pipes-pipe.html"""
    name, source, target = unique("pipe"), Queue(aws, visibility=30), place(aws, "sqs")
    may = role(aws, PIPES, allow(READ_QUEUE, source.arn), target.statement)
    makers = allow("pipes:*", arn("pipes", f"pipe/{name}")), allow("iam:PassRole", may)
    maker, client = role(aws, "cloudformation.amazonaws.com", *makers), aws.client("cloudformation")
    body = stack_template(name, source, target, may, "first <$.body.id>")
    stack = create(client, body, StackName=stack_name, RoleARN=maker)
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    source.put("1")
    assert eventually(target.read) == ["first 1"]
    client.update_stack(
        StackName=stack_name, TemplateBody=stack_template(name, source, target, may, "second <$.body.id>")
    )
    assert settled(client, stack_name)["StackStatus"] == "UPDATE_COMPLETE"
    source.put("2")
    found = eventually(target.read, lambda texts: len(texts) == 2)
    assert sorted(found) == ["first 1", "second 2"]
    client.delete_stack(StackName=stack_name)
    eventually(lambda: aws.client("pipes").list_pipes(NamePrefix=name)["Pipes"] == [])
    source.put("3")
    time.sleep(0.3)
    assert source.left() == 1


def test_a_stack_with_a_pipe_that_cannot_read_rolls_back(aws: Aws, stack_name: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-pipes-pipe.html"""
    name, source, target = unique("pipe"), Queue(aws), place(aws, "sqs")
    may, client = role(aws, PIPES, target.statement), aws.client("cloudformation")
    body = stack_template(name, source, target, may, "<$.body.id>")
    stack = create(client, body, StackName=stack_name)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "sqs:ReceiveMessage" in failures(client, stack["StackId"])["Pipe"]
    eventually(lambda: aws.client("pipes").list_pipes(NamePrefix=name)["Pipes"] == [])
    assert messages(aws, source.url) == []
