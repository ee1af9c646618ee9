"""EventBridge rules and schedules: targets, what they are sent, permissions, retries, dead letters, metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.launcher import faults
from tests.conformance.event_sources import eventually
from tests.conformance.event_targets import BY_POLICY, KINDS, Place, let_service_in, messages, place, total
from tests.conformance.test_cloudformation import create, failures, resource, settled, template
from tests.conformance.test_iam import allow, arn, denied, role, unique, user
from tests.conformance.test_stepfunctions import queue, queue_arn
from tests.conftest import Aws

EVENTS = "events.amazonaws.com"
SCHEDULER = "scheduler.amazonaws.com"
NEEDS_ROLE = [kind for kind in KINDS if kind not in BY_POLICY]


class Bus:
    """A bus of its own with one rule, for everything whose source is ``shop``, and a queue for its dead letters."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.client = aws.client("events")
        self.name, self.rule = unique("bus"), unique("rule")
        self.arn = self.client.create_event_bus(Name=self.name)["EventBusArn"]
        pattern = json.dumps({"source": ["shop"]})
        made = self.client.put_rule(Name=self.rule, EventBusName=self.name, EventPattern=pattern)
        self.rule_arn = made["RuleArn"]
        self.letters = queue(aws)
        let_service_in(aws, queue_arn(self.letters), EVENTS, self.rule_arn)

    def target(self, target_arn: str, **members: Any) -> None:
        """Make ``target_arn`` the rule's only target."""
        target = {"Id": "only", "Arn": target_arn, "DeadLetterConfig": {"Arn": queue_arn(self.letters)}, **members}
        self.client.put_targets(Rule=self.rule, EventBusName=self.name, Targets=[target])

    def put(self, **detail: Any) -> str:
        """Put an event and return its id."""
        entry = {"Source": "shop", "DetailType": "order", "Detail": json.dumps(detail), "EventBusName": self.name}
        put = self.client.put_events(Entries=[entry])
        assert put["FailedEntryCount"] == 0
        return str(put["Entries"][0]["EventId"])

    def letter(self) -> tuple[Any, dict[str, str]]:
        """Return the event and the attributes of the one dead letter, once it is there."""
        (found,) = eventually(lambda: messages(self.aws, self.letters))
        attributes = {name: value["StringValue"] for name, value in found["MessageAttributes"].items()}
        return json.loads(found["Body"]), attributes

    def total(self, metric: str) -> float:
        return total(self.aws, "AWS/Events", metric, RuleName=self.rule, EventBusName=self.name)


@pytest.fixture
def bus(aws: Aws) -> Bus:
    return Bus(aws)


def sent(target: Place) -> Any:
    """Return the JSON of the one thing that has arrived."""
    (text,) = eventually(target.read)
    return json.loads(text[text.index("{") :])


# --- Rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_gets_the_event_by_its_role_and_else_it_is_a_dead_letter(aws: Aws, bus: Bus, kind: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-targets.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    """
    target = place(aws, kind)
    bus.target(target.arn, RoleArn=role(aws, EVENTS, allow("s3:GetObject", "*")))
    event_id = bus.put(order=6)
    event, attributes = bus.letter()
    assert (event["id"], event["detail"]) == (event_id, {"order": 6})
    assert "not authorized" in attributes.pop("ERROR_MESSAGE")
    assert attributes == {"RULE_ARN": bus.rule_arn, "TARGET_ARN": target.arn, "ERROR_CODE": "NO_PERMISSIONS"}
    bus.target(target.arn, RoleArn=role(aws, EVENTS, target.statement))
    event_id = bus.put(order=7)
    found = sent(target)
    assert found == {
        "version": "0",
        "id": event_id,
        "detail-type": "order",
        "source": "shop",
        "account": "000000000000",
        "time": found["time"],
        "region": "us-east-1",
        "resources": [],
        "detail": {"order": 7},
    }
    assert len(messages(aws, bus.letters)) == 1


@pytest.mark.parametrize("kind", BY_POLICY)
def test_a_target_without_role_needs_a_policy_for_this_rule(aws: Aws, bus: Bus, kind: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-resource-based.html"""
    target = place(aws, kind)
    bus.target(target.arn)
    let_service_in(aws, target.arn, EVENTS, f"{bus.rule_arn}-of-another")
    bus.put(order=1)
    assert bus.letter()[1]["ERROR_CODE"] == "NO_PERMISSIONS"
    let_service_in(aws, target.arn, EVENTS, bus.rule_arn)
    bus.put(order=2)
    assert sent(target)["detail"] == {"order": 2}


def test_metrics_tell_what_became_of_events(aws: Aws, bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-monitoring.html"""
    target = place(aws, "sqs")
    bus.target(target.arn)
    bus.put(order=1)
    bus.letter()
    bus.target(target.arn, DeadLetterConfig={})
    bus.put(order=2)
    eventually(lambda: bus.total("FailedInvocations") == 1)
    let_service_in(aws, target.arn, EVENTS, bus.rule_arn)
    bus.put(order=3)
    eventually(lambda: bus.total("Invocations") == 3)
    assert {name: bus.total(name) for name in ("MatchedEvents", "TriggeredRules", "InvocationsSentToDlq")} == {
        "MatchedEvents": 3,
        "TriggeredRules": 3,
        "InvocationsSentToDlq": 1,
    }


def test_a_target_that_is_gone_makes_a_dead_letter_at_once(aws: Aws, bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html"""
    gone = arn("sqs", unique("gone"))
    bus.target(gone)
    bus.put(order=1)
    _, attributes = bus.letter()
    assert (attributes["ERROR_CODE"], attributes["TARGET_ARN"]) == ("NO_RESOURCE", gone)
    assert "EXHAUSTED_RETRY_CONDITION" not in attributes


def test_a_dead_letter_queue_needs_a_policy_too(aws: Aws, bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html#eb-dlq-perms"""
    letters = place(aws, "sqs")
    bus.target(place(aws, "sqs").arn, DeadLetterConfig={"Arn": letters.arn})
    bus.put(order=1)
    eventually(lambda: bus.total("InvocationsFailedToBeSentToDlq") == 1)
    assert letters.read() == []


@pytest.mark.parametrize(("fault", "code"), [("throttle", "THROTTLING"), ("error", "ERROR_FROM_TARGET")])
def test_a_call_is_tried_again_until_the_policy_ends_it(aws: Aws, bus: Bus, fault: str, code: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-retry-policy.html"""
    target = place(aws, "kinesis")
    may = role(aws, EVENTS, target.statement)
    bus.target(target.arn, RoleArn=may, RetryPolicy={"MaximumRetryAttempts": 2})
    rule = {"actions": ["kinesis:PutRecord"], "fault": fault}
    with faults.on(aws.endpoint, [{**rule, "most": 3}]):
        bus.put(order=1)
        _, attributes = bus.letter()
    assert {name: attributes[name] for name in ("ERROR_CODE", "RETRY_ATTEMPTS", "EXHAUSTED_RETRY_CONDITION")} == {
        "ERROR_CODE": code,
        "RETRY_ATTEMPTS": "2",
        "EXHAUSTED_RETRY_CONDITION": "MaximumRetryAttempts",
    }
    assert target.read() == []
    with faults.on(aws.endpoint, [{**rule, "most": 2}]):
        bus.put(order=2)
        assert sent(target)["detail"] == {"order": 2}
    eventually(lambda: bus.total("RetryInvocationAttempts") == 4)
    assert bus.total("SuccessfulInvocationAttempts") == 1


def test_the_partition_key_is_found_in_the_event(aws: Aws, bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_KinesisParameters.html"""
    target = place(aws, "kinesis")
    may = role(aws, EVENTS, target.statement)
    bus.target(target.arn, RoleArn=may, KinesisParameters={"PartitionKeyPath": "$.detail.lines[0].sku"})
    bus.put(lines=[{"sku": "apple"}, {"sku": "pear"}])
    (text,) = eventually(target.read)
    assert text.startswith("apple {")


def test_a_fifo_queue_gets_messages_of_the_group(aws: Aws, bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_SqsParameters.html"""
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    url = aws.client("sqs").create_queue(QueueName=f"{unique()}.fifo", Attributes=attributes)["QueueUrl"]
    with pytest.raises(ClientError, match="SqsParameters"):
        bus.target(queue_arn(url))
    bus.target(queue_arn(url), SqsParameters={"MessageGroupId": "orders"}, Input='{"fixed": 1}')
    let_service_in(aws, queue_arn(url), EVENTS, bus.rule_arn)
    bus.put(order=1)
    (message,) = eventually(lambda: messages(aws, url))
    assert (message["Attributes"]["MessageGroupId"], message["Body"]) == ("orders", '{"fixed": 1}')


@pytest.mark.parametrize(
    ("members", "text"),
    [
        pytest.param({"InputPath": "$.detail.lines[1]"}, '{"sku": "pear"}', id="path"),
        pytest.param({"InputPath": "$.detail.lines[*].sku"}, '["apple", "pear"]', id="wildcard"),
        pytest.param(
            {
                "InputTransformer": {
                    "InputPathsMap": {"first": "$.detail.lines[0].sku", "all": "$.detail.lines", "none": "$.detail.x"},
                    "InputTemplate": '{"rule": <aws.events.rule-name>, "first": <first>, "all": <all>, "none": <none>, '
                    '"text": "the first is <first>"}',
                }
            },
            '{"rule": "RULE", "first": "apple", "all": [{"sku": "apple"}, {"sku": "pear"}], "none": "", '
            '"text": "the first is apple"}',
            id="template",
        ),
        pytest.param(
            {
                "InputTransformer": {
                    "InputPathsMap": {"n": "$.detail.n", "last": "$.detail.lines[1].sku"},
                    "InputTemplate": "<n>, the last is <last>",
                }
            },
            "2, the last is pear",
            id="text",
        ),
    ],
)
def test_the_input_is_transformed(aws: Aws, bus: Bus, members: dict[str, Any], text: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-transform-target-input.html"""
    target = place(aws, "sqs")
    bus.target(target.arn, **members)
    let_service_in(aws, target.arn, EVENTS, bus.rule_arn)
    bus.put(lines=[{"sku": "apple"}, {"sku": "pear"}], n=2)
    assert eventually(target.read) == [text.replace("RULE", bus.rule)]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        pytest.param({"Arn": arn("kinesis", "stream/s")}, "RoleArn is required for target", id="role"),
        pytest.param({"Arn": arn("batch", "job-queue/q")}, "no targets of batch", id="service"),
        pytest.param({"RetryPolicy": {"MaximumEventAgeInSeconds": 86401}}, "between 60 and 86400", id="age"),
        pytest.param({"RetryPolicy": {"MaximumRetryAttempts": 186}}, "between 0 and 185", id="attempts"),
        pytest.param({"Input": "{}", "InputPath": "$.detail"}, "Only one of Input", id="inputs"),
        pytest.param({"InputPath": "detail"}, "Invalid path", id="path"),
    ],
)
def test_a_wrong_target_is_refused(bus: Bus, members: dict[str, Any], reason: str) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutTargets.html"""
    with pytest.raises(ClientError, match=reason):
        bus.target(**{"target_arn": members.pop("Arn", arn("sqs", "q")), **members})


def test_a_rule_has_five_targets_at_most(bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html"""
    given = [{"Id": str(number), "Arn": arn("sqs", "q")} for number in range(6)]
    bus.client.put_targets(Rule=bus.rule, EventBusName=bus.name, Targets=given[:5])
    with pytest.raises(bus.client.exceptions.LimitExceededException):
        bus.client.put_targets(Rule=bus.rule, EventBusName=bus.name, Targets=given[5:])


def test_a_role_must_be_passed_and_trust_the_service(aws: Aws, bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-iam-roles.html"""
    target, mine = place(aws, "kinesis"), arn("events", f"rule/{bus.name}/{bus.rule}")
    able = role(aws, EVENTS, target.statement)
    request = {"Rule": bus.rule, "EventBusName": bus.name}
    member = {"Id": "only", "Arn": target.arn, "RoleArn": able}
    caller = aws.client("events", user(aws, allow("events:PutTargets", mine)))
    message = denied(lambda: caller.put_targets(**request, Targets=[member]))
    assert f"iam:PassRole on resource: {able}" in message
    elsewhere = allow("events:PutTargets", arn("events", f"rule/{bus.rule}")), allow("iam:PassRole", able)
    other = aws.client("events", user(aws, *elsewhere))
    assert f"on resource: {mine}" in denied(lambda: other.put_targets(**request, Targets=[member]))
    with pytest.raises(ClientError, match=r"cannot be assumed by principal 'events\.amazonaws\.com'"):
        bus.target(target.arn, RoleArn=role(aws, SCHEDULER, target.statement))


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"Detail": "no JSON"}, "MalformedDetail"),
        ({"Detail": "[1]"}, "MalformedDetail"),
        ({"Source": ""}, "InvalidArgument"),
        ({"Source": "aws.s3"}, "NotAuthorizedForSourceException"),
    ],
    ids=["text", "array", "source", "forbidden"],
)
def test_a_wrong_entry_is_refused_and_the_others_are_not(
    aws: Aws, bus: Bus, members: dict[str, str], code: str
) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsResultEntry.html"""
    target = place(aws, "sqs")
    bus.target(target.arn)
    let_service_in(aws, target.arn, EVENTS, bus.rule_arn)
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    good = {"Source": "shop", "DetailType": "order", "Detail": "{}", "EventBusName": bus.name, "Time": at}
    answer = bus.client.put_events(Entries=[{**good, **members}, good])
    assert answer["FailedEntryCount"] == 1
    assert answer["Entries"][0]["ErrorCode"] == code
    found = sent(target)
    assert (found["id"], found["time"]) == (answer["Entries"][1]["EventId"], "2030-01-02T03:04:05Z")


def test_a_request_has_256_kilobytes_at_most(bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevent-size.html"""
    with pytest.raises(ClientError, match="over the limit"):
        bus.put(text="x" * 256 * 1024)


def test_a_replay_reaches_the_targets_of_the_chosen_rules(aws: Aws, bus: Bus) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-replay-archived-event.html"""
    first, second = place(aws, "sqs"), place(aws, "sqs")
    bus.target(first.arn)
    let_service_in(aws, first.arn, EVENTS, bus.rule_arn)
    pattern = json.dumps({"source": ["shop"]})
    other = bus.client.put_rule(Name="other", EventBusName=bus.name, EventPattern=pattern)["RuleArn"]
    bus.client.put_targets(Rule="other", EventBusName=bus.name, Targets=[{"Id": "q", "Arn": second.arn}])
    let_service_in(aws, second.arn, EVENTS, other)
    archive = bus.client.create_archive(ArchiveName=unique("archive"), EventSourceArn=bus.arn)["ArchiveArn"]
    event_id = bus.put(order=1)
    eventually(first.read)
    eventually(second.read)
    bus.client.start_replay(
        ReplayName=(name := unique("replay")),
        EventSourceArn=archive,
        EventStartTime=datetime.now(UTC) - timedelta(minutes=5),
        EventEndTime=datetime.now(UTC) + timedelta(minutes=5),
        Destination={"Arn": bus.arn, "FilterArns": [bus.rule_arn]},
    )
    found = [json.loads(each) for each in eventually(first.read, lambda texts: len(texts) == 2)]
    assert [(each["id"], each.get("replay-name")) for each in found] == [(event_id, None), (event_id, name)]
    assert len(second.read()) == 1


# --- Schedules ---------------------------------------------------------------------------------------------------

OFF = {"Mode": "OFF"}


@pytest.fixture(scope="module", autouse=True)
def _no_schedules_left(aws: Aws) -> Iterator[None]:
    """Schedules go on by themselves."""
    yield
    client = aws.client("scheduler")
    for each in client.list_schedules()["Schedules"]:
        client.delete_schedule(Name=each["Name"], GroupName=each["GroupName"])


def schedule(aws: Aws, expression: str, target: dict[str, Any], **members: Any) -> str:
    """Return the name of a new schedule."""
    name = unique("schedule")
    members = {"FlexibleTimeWindow": OFF, **members}
    aws.client("scheduler").create_schedule(Name=name, ScheduleExpression=expression, Target=target, **members)
    return name


def soon(seconds: int = 1) -> str:
    return f"at({datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S})"


def in_vienna() -> str:
    return f"at({datetime.now(UTC) + timedelta(hours=1, seconds=1):%Y-%m-%dT%H:%M:%S})"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "logs"])
def test_a_schedule_calls_its_target_with_its_role(aws: Aws, kind: str) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-templated.html"""
    target = place(aws, kind)
    able, unable = role(aws, SCHEDULER, target.statement), role(aws, SCHEDULER, allow("s3:GetObject", "*"))
    extra = {
        "kinesis": {"KinesisParameters": {"PartitionKey": "k"}},
        "events": {"EventBridgeParameters": {"DetailType": "tick", "Source": "clock"}},
    }.get(kind, {})
    given = {"Arn": target.arn, "Input": '{"at": "<aws.scheduler.scheduled-time>"}', **extra}
    schedule(aws, soon(0), {**given, "RoleArn": unable})
    name = schedule(aws, soon(), {**given, "RoleArn": able}, ActionAfterCompletion="DELETE")
    found = sent(target)
    found = found["detail"] if kind == "events" else found
    assert abs(datetime.fromisoformat(found["at"]).timestamp() - time.time()) < 10
    client = aws.client("scheduler")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        eventually(lambda: not client.get_schedule(Name=name), seconds=5)
    assert len(target.read()) == 1  # the one whose role may do nothing did nothing


def test_a_failed_schedule_makes_a_dead_letter_with_its_role(aws: Aws) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/UserGuide/configuring-schedule-dlq.html"""
    letters, target = queue(aws), place(aws, "kinesis")
    able = role(aws, SCHEDULER, allow("sqs:SendMessage", queue_arn(letters)))
    group = unique("group")
    aws.client("scheduler").create_schedule_group(Name=group)
    given = {"Arn": target.arn, "RoleArn": able, "KinesisParameters": {"PartitionKey": "k"}, "Input": '{"n": 1}'}
    given["DeadLetterConfig"] = {"Arn": queue_arn(letters)}
    name = schedule(aws, soon(0), given, GroupName=group)
    (letter,) = eventually(lambda: messages(aws, letters))
    attributes = {key: value["StringValue"] for key, value in letter["MessageAttributes"].items()}
    assert letter["Body"] == '{"n": 1}'
    assert attributes["SCHEDULE_ARN"] == arn("scheduler", f"schedule/{group}/{name}")
    assert (attributes["ERROR_CODE"], attributes["TARGET_ARN"]) == ("AccessDeniedException", target.arn)
    eventually(lambda: total(aws, "AWS/Scheduler", "InvocationsSentToDeadLetterCount", ScheduleGroup=group) == 1)
    assert total(aws, "AWS/Scheduler", "InvocationDroppedCount", ScheduleGroup=group) == 1


def test_a_dead_letter_of_a_schedule_needs_a_role_that_may_send_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/UserGuide/configuring-schedule-dlq.html"""
    letters, group = place(aws, "sqs"), unique("group")
    aws.client("scheduler").create_schedule_group(Name=group)
    given = {"Arn": place(aws, "sqs").arn, "RoleArn": role(aws, SCHEDULER), "DeadLetterConfig": {"Arn": letters.arn}}
    schedule(aws, soon(0), given, GroupName=group)
    metric = "InvocationsFailedToBeSentToDeadLetterCount"
    eventually(lambda: total(aws, "AWS/Scheduler", metric, ScheduleGroup=group) == 1)
    assert letters.read() == []


def test_a_role_of_a_schedule_must_be_passed_and_trust_the_service(aws: Aws) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/UserGuide/security_iam_id-based-policies.html"""
    target = {"Arn": arn("sqs", "q"), "RoleArn": role(aws, SCHEDULER)}
    request = {"Name": unique("schedule"), "ScheduleExpression": "rate(1 hour)", "FlexibleTimeWindow": OFF}
    caller = aws.client("scheduler", user(aws, allow("scheduler:CreateSchedule", "*")))
    message = denied(lambda: caller.create_schedule(**request, Target=target))
    assert f"iam:PassRole on resource: {target['RoleArn']}" in message
    with pytest.raises(ClientError, match="must allow AWS EventBridge Scheduler to assume the role"):
        aws.client("scheduler").create_schedule(**request, Target={**target, "RoleArn": role(aws, EVENTS)})


def test_a_rate_begins_at_its_start_date_and_a_flexible_window_then(aws: Aws) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html#rate-based"""
    target = place(aws, "sqs")
    given = {"Arn": target.arn, "RoleArn": role(aws, SCHEDULER, target.statement)}
    begin = datetime.now(UTC) + timedelta(seconds=2)
    window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15}
    name = schedule(aws, "rate(1 minute)", given, StartDate=begin, FlexibleTimeWindow=window)
    time.sleep(1)
    assert target.read() == []
    event = sent(target)
    assert (event["source"], event["detail-type"]) == ("aws.scheduler", "Scheduled Event")
    assert event["resources"] == [arn("scheduler", f"schedule/default/{name}")]
    assert abs(datetime.fromisoformat(event["time"]).timestamp() - begin.timestamp()) < 1


def test_a_time_is_one_of_the_time_zone_and_a_disabled_schedule_waits(aws: Aws) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html#time-zones"""
    target = place(aws, "sqs")
    given = {"Arn": target.arn, "RoleArn": role(aws, SCHEDULER, target.statement)}
    zone = {"ScheduleExpressionTimezone": "Etc/GMT-1"}
    schedule(aws, soon(), {**given, "Input": "later"}, ScheduleExpressionTimezone="Etc/GMT+1")
    disabled = schedule(aws, in_vienna(), {**given, "Input": "enabled"}, State="DISABLED", **zone)
    schedule(aws, in_vienna(), {**given, "Input": "now"}, **zone)
    assert eventually(target.read) == ["now"]
    aws.client("scheduler").update_schedule(
        Name=disabled,
        ScheduleExpression=soon(),
        Target={**given, "Input": "enabled"},
        FlexibleTimeWindow=OFF,
        State="ENABLED",
    )
    found = eventually(target.read, lambda texts: len(texts) > 1)
    assert sorted(found) == ["enabled", "now"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"ScheduleExpression": "at(noon)"}, "Invalid Schedule Expression"),
        ({"ScheduleExpression": "cron(0 12 1 * 1 *)"}, "Invalid Schedule Expression"),
        ({"ScheduleExpressionTimezone": "Mars/Olympus"}, "Invalid Timezone"),
        ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "MaximumWindowInMinutes"),
        ({"Target": {"Arn": arn("batch", "job-queue/q")}}, "no schedule targets like"),
    ],
    ids=["time", "cron", "zone", "window", "target"],
)
def test_a_wrong_schedule_is_refused(aws: Aws, members: dict[str, Any], reason: str) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html"""
    given = {"Arn": arn("sqs", "q"), "RoleArn": role(aws, SCHEDULER), **members.pop("Target", {})}
    request = {"ScheduleExpression": "rate(1 hour)", "FlexibleTimeWindow": OFF, **members}
    with pytest.raises(ClientError, match=reason):
        aws.client("scheduler").create_schedule(Name=unique(), Target=given, **request)


def test_a_caller_needs_the_schedule_in_its_group(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoneventbridgescheduler.html"""
    group, given = unique("group"), {"Arn": arn("sqs", "q"), "RoleArn": role(aws, SCHEDULER)}
    aws.client("scheduler").create_schedule_group(Name=group)
    mine = arn("scheduler", f"schedule/{group}/*")
    statements = allow("scheduler:*", mine), allow("iam:PassRole", given["RoleArn"])
    caller = aws.client("scheduler", user(aws, *statements))
    request = {"ScheduleExpression": "rate(1 hour)", "FlexibleTimeWindow": OFF, "Target": given}
    caller.create_schedule(Name="mine", GroupName=group, **request)
    assert "schedule/default/mine" in denied(lambda: caller.create_schedule(Name="mine", **request))


# --- Stacks ------------------------------------------------------------------------------------------------------


def test_a_stack_makes_changes_and_deletes_bus_rule_archive_and_schedule(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-events-rule.html"""
    name, target = unique("stack"), place(aws, "sqs")
    may = role(aws, EVENTS, target.statement)
    ticking = role(aws, SCHEDULER, target.statement)

    def body(text: str, state: str) -> str:
        return template(
            Bus=resource("AWS::Events::EventBus", Name=name),
            Archive=resource("AWS::Events::Archive", ArchiveName=name, SourceArn={"Fn::GetAtt": ["Bus", "Arn"]}),
            Rule=resource(
                "AWS::Events::Rule",
                Name=name,
                EventBusName={"Ref": "Bus"},
                EventPattern={"source": ["shop"]},
                Targets=[{"Id": "q", "Arn": target.arn, "RoleArn": may, "Input": json.dumps(text)}],
            ),
            Schedule=resource(
                "AWS::Scheduler::Schedule",
                Name=name,
                ScheduleExpression="rate(1 day)",
                FlexibleTimeWindow=OFF,
                State=state,
                Target={"Arn": target.arn, "RoleArn": ticking, "Input": "tick"},
            ),
        )

    makers = [allow("events:*", arn("events", f"{kind}/{name}*")) for kind in ("event-bus", "rule", "archive")] + [
        allow("scheduler:*", arn("scheduler", f"schedule/default/{name}")),
        allow("iam:PassRole", [may, ticking]),
    ]
    client = aws.client("cloudformation")
    stack = create(
        client, body("first", "ENABLED"), StackName=name, RoleARN=role(aws, "cloudformation.amazonaws.com", *makers)
    )
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    entry = {"Source": "shop", "DetailType": "order", "Detail": "{}", "EventBusName": name}
    events = aws.client("events")
    events.put_events(Entries=[entry])
    found = eventually(target.read, lambda texts: len(texts) == 2)
    assert sorted(found) == ['"first"', "tick"]
    assert events.describe_archive(ArchiveName=name)["EventCount"] == 1
    client.update_stack(StackName=name, TemplateBody=body("second", "DISABLED"))
    assert settled(client, name)["StackStatus"] == "UPDATE_COMPLETE"
    assert aws.client("scheduler").get_schedule(Name=name)["State"] == "DISABLED"
    events.put_events(Entries=[entry])
    eventually(target.read, lambda texts: '"second"' in texts)
    client.delete_stack(StackName=name)
    eventually(lambda: name not in [each["Name"] for each in events.list_event_buses()["EventBuses"]])
    with pytest.raises(events.exceptions.ResourceNotFoundException):
        eventually(lambda: not events.describe_archive(ArchiveName=name), seconds=5)
    assert aws.client("scheduler").list_schedules(NamePrefix=name)["Schedules"] == []


@pytest.mark.parametrize(
    ("kind", "properties", "reason"),
    [
        pytest.param(
            "AWS::Events::Rule",
            {"ScheduleExpression": "rate(1 day)", "Targets": [{"Id": "s", "Arn": arn("kinesis", "stream/s")}]},
            "RoleArn is required",
            id="target",
        ),
        pytest.param(
            "AWS::Events::Rule", {"EventPattern": {"source": "text"}}, "Event pattern is not valid", id="pattern"
        ),
        pytest.param(
            "AWS::Scheduler::Schedule",
            {
                "ScheduleExpression": "rate(1 day)",
                "FlexibleTimeWindow": OFF,
                "Target": {"Arn": arn("sqs", "q"), "RoleArn": "arn:aws:iam::000000000000:role/none"},
            },
            "must allow AWS EventBridge Scheduler to assume the role",
            id="role",
        ),
    ],
)
def test_a_stack_is_refused_what_the_api_refuses(aws: Aws, kind: str, properties: dict[str, Any], reason: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/troubleshooting.html"""
    client = aws.client("cloudformation")
    stack = create(client, template(Wrong=resource(kind, **properties)))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert reason in failures(client, stack["StackId"])["Wrong"]
