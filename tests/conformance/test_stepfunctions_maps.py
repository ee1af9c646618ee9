"""Step Functions: Distributed Map with its readers, batches, results and thresholds; redriven executions."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_iam import allow, denied, role, unique, user
from tests.conformance.test_stepfunctions import (
    INTEGRATION,
    STATES,
    ended,
    history,
    machine,
    queue,
    queue_arn,
    run,
    start,
    until,
)
from tests.conftest import Aws

PASS = {"Type": "Pass", "End": True}
READ = f"{INTEGRATION}s3:getObject"
WRITE = f"{INTEGRATION}s3:putObject"
REFUSE_ODD = {
    "Ask": {
        "Type": "Choice",
        "Choices": [{"Condition": "{% $states.input % 2 = 1 %}", "Next": "Refuse"}],
        "Default": "Take",
    },
    "Refuse": {"Type": "Fail", "Error": "Odd", "Cause": "{% $string($states.input) %}"},
    "Take": {"Type": "Pass", "Output": "{% [$states.input, $states.input * 10] %}", "End": True},
}


class Store:
    """A bucket, and what a machine may do with it."""

    def __init__(self, aws: Aws) -> None:
        self.s3 = aws.client("s3")
        self.name = unique("maps").lower()
        self.s3.create_bucket(Bucket=self.name)
        self.allowed = allow(
            ["s3:GetObject", "s3:PutObject", "s3:ListBucket"],
            [f"arn:aws:s3:::{self.name}", f"arn:aws:s3:::{self.name}/*"],
        )

    def put(self, key: str, body: str | bytes) -> None:
        self.s3.put_object(Bucket=self.name, Key=key, Body=body)

    def get(self, key: str) -> Any:
        return json.loads(self.s3.get_object(Bucket=self.name, Key=key)["Body"].read())


@pytest.fixture
def store(aws: Aws) -> Store:
    return Store(aws)


def distributed(states: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a JSONata machine of one Distributed Map, with the first of ``states`` as its child's start."""
    states = states or {"Same": PASS}
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": next(iter(states)),
        "States": states,
    }
    state = {"Type": "Map", "ItemProcessor": processor, "End": True, **fields}
    return {"QueryLanguage": "JSONata", "StartAt": "Each", "States": {"Each": state}}


def children() -> dict[str, Any]:
    return allow(["states:StartExecution", "states:DescribeExecution", "states:StopExecution"], "*")


def map_run(aws: Aws, execution: str) -> dict[str, Any]:
    [listed] = aws.client("stepfunctions").list_map_runs(executionArn=execution)["mapRuns"]
    found: dict[str, Any] = aws.client("stepfunctions").describe_map_run(mapRunArn=listed["mapRunArn"])
    return found


@pytest.mark.parametrize(
    ("body", "config", "wanted"),
    [
        pytest.param("id,name\n1,a\n2\n", {"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW"}, None, id="csv"),
        pytest.param(
            "1|a\n2||x\n",
            {"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["id", "name"], "CSVDelimiter": "PIPE"},
            None,
            id="csv-given",
        ),
        pytest.param('{"id": "1", "name": "a"}\n{"id": "2", "name": ""}\n', {"InputType": "JSONL"}, None, id="jsonl"),
        pytest.param(
            '{"found": [{"id": "1", "name": "a"}, {"id": "2", "name": ""}]}',
            {"InputType": "JSON", "ItemsPointer": "/found"},
            None,
            id="json",
        ),
        pytest.param("[1, 2, 3]", {"InputType": "JSON", "MaxItems": "{% $states.input.most %}"}, [1, 2], id="most"),
    ],
)
def test_items_are_read_from_an_object(aws: Aws, store: Store, body: str, config: dict[str, Any], wanted: Any) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html"""
    store.put("data", body)
    reader = {"Resource": READ, "Arguments": {"Bucket": store.name, "Key": "data"}, "ReaderConfig": config}
    done = run(aws, distributed(ItemReader=reader), children(), store.allowed, given={"most": 2})
    assert done["status"] == "SUCCEEDED", done
    assert json.loads(done["output"]) == (wanted or [{"id": "1", "name": "a"}, {"id": "2", "name": ""}])


def test_items_are_read_from_what_a_manifest_or_a_listing_names(aws: Aws, store: Store) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html"""
    store.put("part/1.jsonl.gz", gzip.compress(b'{"n": 1}\n{"n": 2}\n'))
    store.put("part/2.jsonl", '{"n": 3}\n')
    store.put("unloaded.csv", f"s3://{store.name}/part/1.jsonl.gz\ns3://{store.name}/part/2.jsonl\n")
    store.put("inventory.csv", f'"{store.name}","part/2.jsonl","9"\n')
    files = {"destinationBucket": f"arn:aws:s3:::{store.name}", "files": [{"key": "inventory.csv"}]}
    store.put("manifest.json", json.dumps({**files, "fileFormat": "CSV", "fileSchema": "Bucket, Key, Size"}))

    def read(resource: str, arguments: dict[str, Any], config: dict[str, Any]) -> Any:
        reader = {"Resource": resource, "Arguments": {"Bucket": store.name, **arguments}, "ReaderConfig": config}
        done = run(aws, distributed(ItemReader=reader), children(), store.allowed)
        return json.loads(done["output"])

    unloaded = {"ManifestType": "ATHENA_DATA", "InputType": "JSONL"}
    assert read(READ, {"Key": "unloaded.csv"}, unloaded) == [{"n": 1}, {"n": 2}, {"n": 3}]
    entry = {"Bucket": store.name, "Key": "part/2.jsonl", "Size": "9"}
    assert read(READ, {"Key": "manifest.json"}, {"InputType": "MANIFEST"}) == [entry]
    listed = read(f"{INTEGRATION}s3:listObjectsV2", {"Prefix": "part/"}, {})
    assert [(each["Key"], each["Size"] > 0) for each in listed] == [("part/1.jsonl.gz", True), ("part/2.jsonl", True)]


def test_items_and_children_need_permissions(aws: Aws, store: Store) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html"""
    reader = {"Resource": READ, "Arguments": {"Bucket": store.name, "Key": "absent"}}
    missing = run(aws, distributed(ItemReader=reader), children(), store.allowed)
    assert (missing["status"], missing["error"]) == ("FAILED", "States.ItemReaderFailed")
    refused = run(aws, distributed(ItemReader=reader), children())
    assert refused["error"] == "States.ItemReaderFailed"
    assert "s3:GetObject" in refused["cause"]
    childless = run(aws, distributed(Items=[1]))
    assert childless["error"] == "States.Permissions"
    assert "states:StartExecution" in childless["cause"]
    writer = {"Resource": WRITE, "Arguments": {"Bucket": store.name, "Prefix": "results"}}
    unwritten = run(aws, distributed(Items=[1], ResultWriter=writer), children())
    assert unwritten["error"] == "States.ResultWriterFailed"


def test_items_are_selected_and_batched(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html"""
    selector = {"n": "{% $states.context.Map.Item.Value %}", "at": "{% $states.context.Map.Item.Index %}"}
    definition = distributed(
        Items="{% $states.input.items %}",
        ItemSelector=selector,
        ItemBatcher={"MaxItemsPerBatch": 2, "BatchInput": {"day": "{% $states.input.day %}"}},
        MaxConcurrency=1,
    )
    execution = start(aws, machine(aws, definition, children()), {"items": ["a", "b", "c"], "day": "today"})
    assert json.loads(ended(aws, execution)["output"]) == [
        {"BatchInput": {"day": "today"}, "Items": [{"n": "a", "at": 0}, {"n": "b", "at": 1}]},
        {"BatchInput": {"day": "today"}, "Items": [{"n": "c", "at": 2}]},
    ]
    found = map_run(aws, execution)
    assert (found["status"], found["maxConcurrency"]) == ("SUCCEEDED", 1)
    assert (found["itemCounts"]["succeeded"], found["executionCounts"]["succeeded"]) == (3, 2)
    small = distributed(Items=["x" * 40, "y" * 40, "z"], ItemBatcher={"MaxInputBytesPerBatch": 80})
    batches = json.loads(run(aws, small, children())["output"])
    assert [len(batch["Items"]) for batch in batches] == [1, 2]


def test_a_jsonpath_map_is_batched_and_counted_by_paths(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html"""
    processor = {"ProcessorConfig": {"Mode": "DISTRIBUTED"}, "StartAt": "Same", "States": {"Same": PASS}}
    state = {
        "Type": "Map",
        "ItemProcessor": processor,
        "ItemsPath": "$.items",
        "ItemSelector": {"n.$": "$$.Map.Item.Value"},
        "ItemBatcher": {"MaxItemsPerBatchPath": "$.size", "BatchInput": {"day.$": "$.day"}},
        "ResultPath": "$.results",
        "End": True,
    }
    given = {"items": [1, 2], "size": 2, "day": "today"}
    done = run(aws, {"StartAt": "Each", "States": {"Each": state}}, children(), given=given)
    batch = {"BatchInput": {"day": "today"}, "Items": [{"n": 1}, {"n": 2}]}
    assert json.loads(done["output"]) == {**given, "results": [batch]}


def test_results_are_written_with_a_manifest(aws: Aws, store: Store) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html"""
    definition = distributed(
        REFUSE_ODD,
        Items=[1, 2, 4],
        ToleratedFailurePercentage=40,
        ResultWriter={"Resource": WRITE, "Arguments": {"Bucket": store.name, "Prefix": "results"}},
    )
    execution = start(aws, machine(aws, definition, children(), store.allowed))
    done = ended(aws, execution)
    assert done["status"] == "SUCCEEDED", done
    result, found = json.loads(done["output"]), map_run(aws, execution)
    assert result["MapRunArn"] == found["mapRunArn"]
    manifest = store.get(result["ResultWriterDetails"]["Key"])
    assert manifest["DestinationBucket"] == store.name
    assert manifest["ResultFiles"]["PENDING"] == []
    [succeeded], [failed] = manifest["ResultFiles"]["SUCCEEDED"], manifest["ResultFiles"]["FAILED"]
    assert sorted(json.loads(entry["Output"]) for entry in store.get(succeeded["Key"])) == [[2, 20], [4, 40]]
    [entry] = store.get(failed["Key"])
    assert (entry["Status"], entry["Error"], entry["Cause"], entry["Input"]) == ("FAILED", "Odd", "1", "1")
    counts = found["itemCounts"]
    assert (counts["succeeded"], counts["failed"], counts["resultsWritten"]) == (2, 1, 3)
    arn = found["mapRunArn"]
    listed = aws.client("stepfunctions").list_executions(mapRunArn=arn, statusFilter="FAILED")["executions"]
    assert [each["executionArn"] for each in listed] == [entry["ExecutionArn"]]


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"Transformation": "COMPACT", "OutputType": "JSON"}, [[2, 20], [4, 40]]),
        ({"Transformation": "FLATTEN", "OutputType": "JSON"}, [2, 20, 4, 40]),
    ],
)
def test_results_are_transformed(aws: Aws, config: dict[str, str], wanted: list[Any]) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html"""
    done = run(aws, distributed(REFUSE_ODD, Items=[2, 4], ResultWriter={"WriterConfig": config}), children())
    assert json.loads(done["output"]) == wanted


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({}, "FAILED", id="none"),
        pytest.param({"ToleratedFailureCount": 1}, "FAILED", id="count-exceeded"),
        pytest.param({"ToleratedFailureCount": 2}, "SUCCEEDED", id="count"),
        pytest.param({"ToleratedFailurePercentage": 49}, "FAILED", id="share-exceeded"),
        pytest.param({"ToleratedFailurePercentage": "{% $states.input.share %}"}, "SUCCEEDED", id="share"),
    ],
)
def test_failures_are_tolerated_up_to_a_threshold(aws: Aws, fields: dict[str, Any], status: str) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html#maprun-fail-threshold"""
    definition = distributed(REFUSE_ODD, Items=[1, 2, 3, 4], MaxConcurrency=1, **fields)
    execution = start(aws, machine(aws, definition, children()), {"share": 50})
    done = ended(aws, execution)
    assert (done["status"], map_run(aws, execution)["status"]) == (status, status)
    if status == "FAILED":
        assert done["error"] == "States.ExceedToleratedFailureThreshold"
        assert "MapRunFailed" in [event["type"] for event in history(aws, execution)]
    else:
        assert json.loads(done["output"]) == [None, [2, 20], None, [4, 40]]


def test_a_stopped_execution_aborts_its_children(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-examine-map-run.html"""
    definition = distributed({"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}, Items=[1, 2], MaxConcurrency=1)
    execution = start(aws, machine(aws, definition, children()))
    client = aws.client("stepfunctions")
    until(lambda: client.list_map_runs(executionArn=execution)["mapRuns"], bool)
    until(lambda: map_run(aws, execution)["executionCounts"]["running"], lambda seen: seen == 1)
    client.stop_execution(executionArn=execution)
    counts = until(lambda: map_run(aws, execution)["executionCounts"], lambda seen: seen["aborted"] == 1)
    assert (counts["pending"], counts["running"]) == (1, 0)


# --- Redrive -----------------------------------------------------------------------------------------------------


def send(url: str, **fields: Any) -> dict[str, Any]:
    """Return a JSONata state that sends its input to a queue."""
    arguments = {"QueueUrl": url, "MessageBody": "{% $string($states.input) %}"}
    return {"Type": "Task", "Resource": f"{INTEGRATION}sqs:sendMessage", "Arguments": arguments, **fields}


def grant(aws: Aws, machine_arn: str, *urls: str) -> None:
    """Let a machine's role send to queues."""
    role_arn = aws.client("stepfunctions").describe_state_machine(stateMachineArn=machine_arn)["roleArn"]
    policy = {"Version": "2012-10-17", "Statement": [allow("sqs:SendMessage", [queue_arn(url) for url in urls])]}
    aws.client("iam").put_role_policy(
        RoleName=role_arn.rpartition("/")[2], PolicyName="granted", PolicyDocument=json.dumps(policy)
    )


def bodies(aws: Aws, url: str) -> list[str]:
    """Return what is in a queue, and empty it."""
    found: list[str] = []
    while messages := aws.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        found += [message["Body"] for message in messages]
    return sorted(found)


def test_a_redriven_execution_goes_on_where_it_failed(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html"""
    first, second = queue(aws), queue(aws)
    again = "{% $merge([$states.input, {'more': 1}]) %}"
    states = {"One": send(first, Output=again, Next="Two"), "Two": send(second, End=True)}
    made = machine(aws, {"QueryLanguage": "JSONata", "StartAt": "One", "States": states})
    grant(aws, made, first)
    execution, client = start(aws, made, {"id": "a"}), aws.client("stepfunctions")
    failed = ended(aws, execution)
    assert (failed["status"], failed["redriveStatus"], failed["redriveCount"]) == ("FAILED", "REDRIVABLE", 0)
    grant(aws, made, first, second)
    client.redrive_execution(executionArn=execution)
    done = ended(aws, execution)
    assert (done["status"], done["redriveCount"]) == ("SUCCEEDED", 1)
    assert done["startDate"] == failed["startDate"] < done["redriveDate"]
    assert bodies(aws, first) == ['{"id":"a"}']
    assert bodies(aws, second) == ['{"id":"a","more":1}']
    events = [event["type"] for event in history(aws, execution)]
    assert events.count("ExecutionStarted") == events.count("ExecutionRedriven") == 1
    assert events[events.index("ExecutionRedriven") + 1] == "TaskScheduled"
    assert done["redriveStatusReason"] == "Execution is SUCCEEDED and cannot be redriven"
    with pytest.raises(client.exceptions.ExecutionNotRedrivable, match="SUCCEEDED and cannot be redriven"):
        client.redrive_execution(executionArn=execution)
    with pytest.raises(client.exceptions.ExecutionDoesNotExist):
        client.redrive_execution(executionArn=f"{execution}x")


def test_a_redrive_repeats_the_failed_branches_only(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html"""
    urls = [queue(aws) for _ in range(3)]
    item = {"StartAt": "Send", "States": {"Send": send("{% $states.input.url %}", End=True)}}
    states = {
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {"StartAt": "Map", "States": {"Map": {"Type": "Map", "Items": [], "ItemProcessor": item, "End": True}}},
                {"StartAt": "Alone", "States": {"Alone": send(urls[2], End=True)}},
            ],
            "Output": "{% $count($states.result) %}",
            "End": True,
        }
    }
    states["Both"]["Branches"][0]["States"]["Map"]["Items"] = [{"url": url} for url in urls[:2]]  # type: ignore[index]
    made = machine(aws, {"QueryLanguage": "JSONata", "StartAt": "Both", "States": states})
    grant(aws, made, urls[0], urls[2])
    execution = start(aws, made)
    assert ended(aws, execution)["status"] == "FAILED"
    grant(aws, made, *urls)
    aws.client("stepfunctions").redrive_execution(executionArn=execution)
    done = ended(aws, execution)
    assert (done["status"], done["output"]) == ("SUCCEEDED", "2")
    assert [len(bodies(aws, url)) for url in urls] == [1, 1, 1]


def test_a_redrive_runs_the_failed_children_of_a_map_again(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html"""
    urls = [queue(aws) for _ in range(2)]
    items = [{"url": url} for url in urls]
    made = machine(aws, distributed({"Send": send("{% $states.input.url %}", End=True)}, Items=items, MaxConcurrency=1))
    client = aws.client("stepfunctions")

    def may(*allowed: str) -> None:
        grant(aws, made, *allowed)
        name = client.describe_state_machine(stateMachineArn=made)["roleArn"].rpartition("/")[2]
        policy = json.dumps({"Version": "2012-10-17", "Statement": [children()]})
        aws.client("iam").put_role_policy(RoleName=name, PolicyName="children", PolicyDocument=policy)

    may(urls[0])
    execution = start(aws, made)
    assert ended(aws, execution)["error"] == "States.ExceedToleratedFailureThreshold"
    run_arn = map_run(aws, execution)["mapRunArn"]
    [child] = client.list_executions(mapRunArn=run_arn, statusFilter="FAILED")["executions"]
    assert client.describe_execution(executionArn=child["executionArn"])["redriveStatus"] == "REDRIVABLE_BY_MAP_RUN"
    with pytest.raises(ClientError, match="ExecutionNotRedrivable"):
        client.redrive_execution(executionArn=child["executionArn"])
    may(*urls)
    client.redrive_execution(executionArn=execution)
    assert ended(aws, execution)["status"] == "SUCCEEDED"
    found = map_run(aws, execution)
    assert (found["mapRunArn"], found["redriveCount"], found["itemCounts"]["succeeded"]) == (run_arn, 1, 2)
    assert [len(bodies(aws, url)) for url in urls] == [1, 1]
    assert "MapRunRedriven" in [event["type"] for event in history(aws, execution)]


def test_an_aborted_execution_is_redriven_by_who_may(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html"""
    states = {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}
    made = machine(aws, {"StartAt": "Wait", "States": states})
    execution, client = start(aws, made), aws.client("stepfunctions")
    with pytest.raises(client.exceptions.ExecutionNotRedrivable, match="RUNNING"):
        client.redrive_execution(executionArn=execution)
    client.stop_execution(executionArn=execution)
    stranger = aws.client("stepfunctions", user(aws, allow("states:StartExecution", "*")))
    assert "states:RedriveExecution" in denied(lambda: stranger.redrive_execution(executionArn=execution))
    client.redrive_execution(executionArn=execution)
    assert client.describe_execution(executionArn=execution)["status"] == "RUNNING"
    client.stop_execution(executionArn=execution)
    assert client.describe_execution(executionArn=execution)["redriveCount"] == 1


def test_an_express_execution_is_not_redriven(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html"""
    client = aws.client("stepfunctions")
    made = client.create_state_machine(
        name=unique("express"),
        definition=json.dumps({"StartAt": "Only", "States": {"Only": {"Type": "Fail"}}}),
        roleArn=role(aws, STATES),
        type="EXPRESS",
    )["stateMachineArn"]
    execution = start(aws, made)
    assert ended(aws, execution)["redriveStatus"] == "NOT_REDRIVABLE"
