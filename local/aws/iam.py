"""IAM: which actions on which resources a request needs, and which roles it passes.

The emulator evaluates policies; this module tells it what to evaluate, as the Service Authorization Reference does
(https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html):
the action of every signed request, all resources of a call and not only the first, and ``iam:PassRole`` for a role
that is handed to a service. ``cloudformation`` asks the same question for the resources of a stack.
"""

from __future__ import annotations

import base64
import contextvars
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import jmespath  # type: ignore[import-untyped]  # the library has no types

from local.aws import emulator

_app = emulator.module("app")
_actions = emulator.module("core.iam_actions")
_evaluator = emulator.module("core.iam_evaluator")

caller_key: contextvars.ContextVar[str] = contextvars.ContextVar("caller_key", default="")
"""The access key id of the request being served; tasks the request starts inherit it. Empty is the account root."""

_resource: contextvars.ContextVar[str] = contextvars.ContextVar("resource", default="")


@dataclass(frozen=True)
class Check:
    """One permission a request needs: an action on a resource, with the request's condition keys."""

    action: str
    resource: str
    context: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """An API request as IAM sees it; ``members`` are its JSON members or its query parameters."""

    service: str
    action: str
    path: str
    members: Mapping[str, Any]
    region: str
    account: str

    @property
    def operation(self) -> str:
        """The action without its service prefix."""
        return self.action.partition(":")[2]

    def get(self, *names: str) -> str:
        """Return the first of the members ``names`` that is a non-empty string, else an empty one.

        A dot reaches into a structure: ``TableInput.Name``.
        """
        for name in names:
            value: Any = self.members
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if isinstance(value, str) and value:
                return value
        return ""

    def arn(self, resource: str) -> str:
        """Return the ARN of ``resource`` of this service in the caller's account, or ``resource`` if it is one."""
        if resource.partition("/")[2].startswith("arn:"):
            return resource.partition("/")[2]
        return f"arn:aws:{self.action.partition(':')[0]}:{self.region}:{self.account}:{resource}"


# --- Actions ----------------------------------------------------------------------------------------------------

# Operations that are authorized under another name.
_ACTION_OF_OPERATION = {
    "lambda:Invoke": "lambda:InvokeFunction",
    "lambda:InvokeAsync": "lambda:InvokeFunction",
    "lambda:InvokeWithResponseStream": "lambda:InvokeFunction",
    "lambda:GetLayerVersionByArn": "lambda:GetLayerVersion",
    "sns:PublishBatch": "sns:Publish",
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}

# The emulator's table of Lambda paths is coarse (every /concurrency is PutFunctionConcurrency); the SDK's is exact.
_actions._BOTOCORE_SERVICE_MAP["lambda"] = ["lambda"]


def _name_every_action(original: Callable[..., str | None]) -> Callable[..., str | None]:
    def extract(
        service: str, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]
    ) -> str | None:
        if service == "lambda":
            operation = _actions._match_rest_action(service, method, path, query)
            action = f"lambda:{operation}" if operation else None
        else:
            action = original(service, method, path, headers, body, query)
        if action is None and "authorization" in headers:
            # IAM denies what no statement allows, and no statement but a wildcard names this.
            return f"{_actions.SERVICE_TO_IAM_NAMESPACE.get(service, service)}:UnknownOperation"
        return _ACTION_OF_OPERATION.get(action, action) if action else None

    return extract


# --- Resources --------------------------------------------------------------------------------------------------
# One function per service; the emulator's own answer stands where it returns an empty list.


def _athena(request: Request) -> list[str]:
    """Calls about one query are authorized on the workgroup that runs it."""
    query = request.get("QueryExecutionId")
    queries = request.members.get("QueryExecutionIds") or ([query] if query else [])
    if queries:
        return sorted({request.arn(f"workgroup/{_workgroup_of_query.get(name, '*')}") for name in queries})
    if "DataCatalog" in request.operation or request.get("CatalogName"):
        return [request.arn(f"datacatalog/{request.get('CatalogName', 'Name') or '*'}")]
    if request.operation == "StartQueryExecution":
        return [request.arn(f"workgroup/{_workgroup(request)}")]
    return [request.arn(f"workgroup/{request.get('Name')}")] if request.operation == "CreateWorkGroup" else []


_workgroup_of_query: dict[str, str] = {}


def _workgroup(request: Request) -> str:
    return request.get("WorkGroup") or "primary"


def _cloudwatch(request: Request) -> list[str]:
    """A listing of alarms is authorized on all of them, whatever it selects."""
    if request.operation == "DescribeAlarms":
        return [request.arn("alarm:*")]
    if request.get("ResourceARN"):
        return [request.get("ResourceARN")]
    return [request.arn(f"alarm:{name}") for name in request.members.get("AlarmNames") or []]


def _glue(request: Request) -> list[str]:
    """A catalog call needs the object and everything above it: table, database and catalog.

    https://docs.aws.amazon.com/glue/latest/dg/glue-specifying-resource-arns.html
    """
    operation, catalog = request.operation, request.arn("catalog")
    if "Tag" in operation:
        return [request.get("ResourceArn")]
    if re.search("Table|Partition|ColumnStatistics", operation):
        database = request.get("DatabaseName") or "*"
        tables = request.members.get("TablesToDelete")
        tables = tables or [request.get("TableName", "Name", "TableInput.Name") or "*"]
        named = [request.arn(f"table/{database}/{table}") for table in tables]
        return [catalog, request.arn(f"database/{database}"), *named]
    if "Database" in operation:
        database = request.get("Name", "DatabaseInput.Name") or "*"
        below = ["table", "userDefinedFunction"] if operation == "DeleteDatabase" else []
        named = [request.arn(f"{kind}/{database}/*") for kind in below]
        return [catalog, request.arn(f"database/{database}"), *named]
    for kind in ("Connection", "Job", "Crawler", "Trigger", "Workflow"):
        if kind in operation and not operation.startswith("List"):
            names = request.members.get(f"{kind}Names") or request.members.get(f"{kind}NameList")
            names = names or [request.get(f"{kind}Name", "Name", f"{kind}Input.Name") or "*"]
            named = [request.arn(f"{kind.lower()}/{name}") for name in names]
            return [catalog, *named] if kind == "Connection" else named
    return []


def _lambda(request: Request) -> list[str]:
    if request.operation == "CreateFunction":
        return [request.arn(f"function:{request.get('FunctionName')}")]
    if layer := re.search(r"/layers/([^/]+)/versions/(\d+)", request.path):
        return [request.arn(f"layer:{layer[1]}:{layer[2]}")]
    if mapping := re.search(r"/event-source-mappings/([^/]+)", request.path):
        return [request.arn(f"event-source-mapping:{mapping[1]}")]
    function = re.search(r"/functions/([^/]+)/", request.path)
    if function and request.get("Qualifier") and request.operation == "InvokeFunction":
        name = unquote(function[1]).rpartition(":function:")[2]
        return [request.arn(f"function:{name}:{request.get('Qualifier')}")]
    return []


def _logs(request: Request) -> list[str]:
    """Every call about a group is authorized on a stream of it, an empty one if it names none.

    So a policy needs the group's ARN with ``:*`` behind it, which is what ``Fn::GetAtt LogGroup.Arn`` gives.
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/iam-access-control-overview-cwl.html
    """
    if "Tag" in request.operation:
        return []
    named = request.get("logGroupName", "logGroupIdentifier")
    groups = request.members.get("logGroupNames") or request.members.get("logGroupIdentifiers") or [named]
    stream = request.get("logStreamName")
    names = [group.partition(":log-group:")[2].removesuffix(":*") or group for group in groups]
    return [request.arn(f"log-group:{name}:log-stream:{stream}") for name in names]


_RDS_MEMBERS = {
    "DBInstanceIdentifier": "db",
    "SourceDBInstanceIdentifier": "db",
    "TargetDBInstanceIdentifier": "db",
    "DBClusterIdentifier": "cluster",
    "DBSnapshotIdentifier": "snapshot",
    "SourceDBSnapshotIdentifier": "snapshot",
    "TargetDBSnapshotIdentifier": "snapshot",
    "DBSubnetGroupName": "subgrp",
    "DBParameterGroupName": "pg",
}
_RDS_LISTS = {
    "DescribeDBInstances": ("db", "DBInstanceIdentifier"),
    "DescribeDBClusters": ("cluster", "DBClusterIdentifier"),
    "DescribeDBSnapshots": ("snapshot", "DBSnapshotIdentifier"),
    "DescribeDBSubnetGroups": ("subgrp", "DBSubnetGroupName"),
    "DescribeDBParameterGroups": ("pg", "DBParameterGroupName"),
}


def _rds(request: Request) -> list[str]:
    if request.operation in _RDS_LISTS:
        kind, member = _RDS_LISTS[request.operation]
        return [_rds_arn(request, kind, request.get(member) or "*")]
    if request.get("ResourceName"):
        return [request.get("ResourceName")]
    return [
        _rds_arn(request, kind, request.get(member)) for member, kind in _RDS_MEMBERS.items() if request.get(member)
    ]


def _rds_arn(request: Request, kind: str, name: str) -> str:
    return name if name.startswith("arn:") else request.arn(f"{kind}:{name}")


def _kms(request: Request) -> list[str]:
    """An alias stands for its key, except in the calls about the alias itself."""
    kms = emulator.module("services.kms")
    keys = [key["Arn"] for name in ("KeyId", "TargetKeyId") if (key := kms._resolve_key(request.get(name))) is not None]
    if alias := request.get("AliasName"):
        current = [] if keys or not (key := kms._resolve_key(alias)) else [key["Arn"]]
        return [request.arn(alias), *keys, *current]
    return keys


def _sns(request: Request) -> list[str]:
    return [request.get("ResourceArn")] if request.get("ResourceArn") else []


def _events(request: Request) -> list[str]:
    """A rule of the default bus has no bus in its ARN; archives and replays have ARNs of their own.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoneventbridge.html
    """
    for kind in ("Archive", "Replay"):
        if name := request.get(f"{kind}Name"):
            return [request.arn(f"{kind.lower()}/{name}")]
    bus = request.get("EventBusName").rpartition("/")[2] or "default"
    if "Rule" in request.operation or "Targets" in request.operation:
        name = request.get("Rule", "Name") or "*"
        return [request.arn(f"rule/{name}" if bus == "default" else f"rule/{bus}/{name}")]
    if request.operation in {"PutPermission", "RemovePermission"}:
        return [request.arn(f"event-bus/{bus}")]
    if request.operation.endswith("EventBus") and request.get("Name"):
        return [request.arn(f"event-bus/{request.get('Name')}")]
    return [request.get("ResourceARN")] if request.get("ResourceARN") else []


def _scheduler(request: Request) -> list[str]:
    """A schedule's group is a member of the request."""
    schedule = re.search(r"/schedules/([^/]+)$", request.path)
    if not schedule:
        return []
    return [request.arn(f"schedule/{request.get('GroupName', 'groupName') or 'default'}/{schedule[1]}")]


def _states(request: Request) -> list[str]:
    named = request.get("resourceArn", "mapRunArn")
    return [named] if named else []


def _iam(request: Request) -> list[str]:
    if role := request.get("RoleName"):
        return [role_arn(role, request.get("Path"))]
    if request.operation == "CreatePolicy":
        return [f"arn:aws:iam::{request.account}:policy{request.get('Path') or '/'}{request.get('PolicyName')}"]
    return []


def caller() -> str:
    """Return the access key id of whoever makes the request being served, the account root's for the root."""
    return caller_key.get() or emulator.root_credentials().access_key


def role_arn(name: str, path: str = "") -> str:
    """Return the ARN of role ``name``, which may be one already; ``path`` is that of a role not made yet."""
    if name.startswith("arn:"):
        return name
    role = emulator.module("services.iam")._roles.get(name)
    account = emulator.module("core.responses").get_account_id()
    return f"arn:aws:iam::{account}:role{role['Path'] if role else path or '/'}{name}"


def _cloudformation(request: Request) -> list[str]:
    cloudformation = emulator.module("services.cloudformation")
    name = request.get("StackName")
    change_set = cloudformation._change_sets.get(request.get("ChangeSetName"))
    if not name and change_set:
        return [change_set["StackId"]]
    if name and not name.startswith("arn:"):
        stack = cloudformation._stacks.get(name)
        alive = stack is not None and stack["StackStatus"] != "DELETE_COMPLETE"
        return [stack["StackId"] if alive else request.arn(f"stack/{name}/*")]
    return [request.arn("stack/*/*")] if request.operation == "DescribeStacks" and not name else []


def _stream(request: Request) -> list[str]:
    """A shard iterator or a page token stands for its stream, in Kinesis and in DynamoDB Streams."""
    if arn := request.get("StreamARN", "StreamArn"):
        return [arn]
    if token := request.get("ShardIterator", "NextToken"):
        try:
            return [str(json.loads(base64.urlsafe_b64decode(token))["arn"])]
        except (ValueError, KeyError):
            return []  # the service itself refuses a token that is none
    return [request.arn(f"stream/{request.get('StreamName')}")] if request.get("StreamName") else []


_RESOURCES: dict[str, Callable[[Request], list[str]]] = {
    "athena": _athena,
    "cloudformation": _cloudformation,
    "dynamodbstreams": _stream,
    "events": _events,
    "glue": _glue,
    "iam": _iam,
    "kinesis": _stream,
    "kms": _kms,
    "lambda": _lambda,
    "logs": _logs,
    "monitoring": _cloudwatch,
    "rds": _rds,
    "scheduler": _scheduler,
    "sns": _sns,
    "states": _states,
}


def name_resources(service: str, find: Callable[[Request], list[str]]) -> None:
    """Let ``find`` name the resources of a service's requests; the first of them is the request's own."""
    _RESOURCES[service] = find


def resources(request: Request) -> list[str]:
    """Return the ARNs ``request`` is authorized on, empty if the emulator knows best."""
    find = _RESOURCES.get(request.service)
    return find(request) if find else []


# --- Roles that are passed ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passing:
    """Where the operations of a service name a role for it, and what it answers if it cannot assume the role."""

    principal: str
    roles: str
    operations: frozenset[str]
    refusal: tuple[str, str] | None = None


# Glue has no refusal: it accepts the job and fails each run, which is what the Glue module does.
_PASSING = {
    "airflow": Passing(
        "airflow.amazonaws.com", "[ExecutionRoleArn]", frozenset({"CreateEnvironment", "UpdateEnvironment"})
    ),
    "cloudformation": Passing(
        "cloudformation.amazonaws.com",
        "[RoleARN]",
        frozenset({"CreateStack", "UpdateStack", "DeleteStack", "CreateChangeSet", "RollbackStack"}),
        ("ValidationError", "Role {role} is invalid or cannot be assumed"),
    ),
    "events": Passing(
        "events.amazonaws.com",
        "[RoleArn, Targets[].RoleArn][]",
        frozenset({"PutRule", "PutTargets"}),
        ("ValidationException", "Provided role '{role}' cannot be assumed by principal 'events.amazonaws.com'."),
    ),
    "firehose": Passing(
        "firehose.amazonaws.com",
        "values(@)[?type(@)=='object'].[RoleARN, S3BackupConfiguration.RoleARN, S3BackupUpdate.RoleARN, "
        "DataFormatConversionConfiguration.SchemaConfiguration.RoleARN][]",
        frozenset({"CreateDeliveryStream", "UpdateDestination"}),
        (
            "InvalidArgumentException",
            "Firehose is unable to assume role {role}. Please check the role provided.",
        ),
    ),
    "glue": Passing(
        "glue.amazonaws.com",
        "[Role, JobUpdate.Role]",
        frozenset({"CreateJob", "UpdateJob", "CreateCrawler", "UpdateCrawler"}),
    ),
    "iot": Passing(
        "iot.amazonaws.com",
        "[actions[].values(@)[].roleArn, values(errorAction || `{}`)[].roleArn][]",
        frozenset({"CreateTopicRule", "ReplaceTopicRule"}),
    ),
    "lambda": Passing(
        "lambda.amazonaws.com",
        "[Role]",
        frozenset({"CreateFunction", "UpdateFunctionConfiguration"}),
        (
            "InvalidParameterValueException",
            "The role defined for the function cannot be assumed by Lambda.",
        ),
    ),
    "pipes": Passing("pipes.amazonaws.com", "[RoleArn]", frozenset({"CreatePipe", "UpdatePipe"})),
    "redshift-serverless": Passing(
        "redshift-serverless.amazonaws.com", "iamRoles", frozenset({"CreateNamespace", "UpdateNamespace"})
    ),
    "scheduler": Passing(
        "scheduler.amazonaws.com",
        "[Target.RoleArn]",
        frozenset({"CreateSchedule", "UpdateSchedule"}),
        (
            "ValidationException",
            "The execution role you provide must allow AWS EventBridge Scheduler to assume the role.",
        ),
    ),
    "states": Passing(
        "states.amazonaws.com",
        "[roleArn]",
        frozenset({"CreateStateMachine", "UpdateStateMachine"}),
        (
            "AccessDeniedException",
            "Neither the global service principal states.amazonaws.com, nor the regional one is authorized to "
            "assume the provided role.",
        ),
    ),
}


def _passed_roles(request: Request) -> list[str]:
    passing = _PASSING.get(request.service)
    if passing is None or request.operation not in passing.operations:
        return []
    return [
        role_arn(role, request.get("Path")) for role in jmespath.search(passing.roles, request.members) or [] if role
    ]


def pass_role(role: str, principal: str) -> Check:
    """Return the permission needed to hand the role ``role`` (an ARN) to the service ``principal``.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html
    """
    return Check("iam:PassRole", role, {"iam:PassedToService": principal})


# --- Decisions ---------------------------------------------------------------------------------------------------


def denial(access_key: str, check: Check, region: str) -> str | None:
    """Return why the principal of ``access_key`` may not do ``check``, in AWS's words, or None if it may.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    """
    result = _evaluate(access_key, check, region)
    if result is None:
        return None
    return str(result.message) if isinstance(result, _evaluator.AuthError) else _explain(check, result)


def _evaluate(access_key: str, check: Check, region: str) -> Any:
    """Return None, the evaluator's denial, or its ``AuthError`` if the credentials themselves are bad."""
    return _evaluator.enforce(
        access_key,
        check.action,
        check.action.partition(":")[0],
        region,
        resource_arn=check.resource,
        service_context=dict(check.context),
    )


def _explain(check: Check, result: Any) -> str:
    explicit = result.decision == "Deny"
    return str(_actions.identity_denial_message(check.action, result.principal_arn, check.resource, explicit))


def _further_checks(request: Request, resources: Sequence[str], tags: Mapping[str, Any]) -> list[Check]:
    """Return what the request needs beside its action on its first resource, which the emulator checks."""
    checks = [Check(request.action, resource, tags) for resource in resources[1:]]
    if request.service == "cloudformation" and "AWS::Serverless-2016-10-31" in request.get("TemplateBody"):
        # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-permissions-cloudformation.html
        transform = f"arn:aws:cloudformation:{request.region}:aws:transform/Serverless-2016-10-31"
        if request.operation in {"CreateStack", "UpdateStack", "CreateChangeSet"}:
            checks.append(Check("cloudformation:CreateChangeSet", transform, {}))
    if request.action == "firehose:CreateDeliveryStream" and request.members.get("Tags"):
        # https://docs.aws.amazon.com/firehose/latest/APIReference/API_CreateDeliveryStream.html
        stream = request.arn(f"deliverystream/{request.get('DeliveryStreamName')}")
        checks.append(Check("firehose:TagDeliveryStream", stream, {}))
    passed = _passed_roles(request)
    return checks + [pass_role(role, _PASSING[request.service].principal) for role in passed]


def _refusal(request: Request) -> tuple[str, str] | None:
    """Return the error of a service that may not assume the role it is given."""
    return next(filter(None, (refusal(request.service, role) for role in _passed_roles(request))), None)


def refusal(service: str, role: str) -> tuple[str, str] | None:
    """Return code and message with which ``service`` refuses ``role`` (an ARN), None if it can assume it."""
    passing = _PASSING[service]
    if passing.refusal is None or emulator.trusts(role, passing.principal):
        return None
    code, message = passing.refusal
    return code, message.format(role=role)


def _authorize_completely(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the emulator's dispatcher, which checks one resource of a call, with the checks it lacks."""

    async def dispatch(
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        query: dict[str, Any],
        request_id: str,
    ) -> emulator.Response:
        parameters = _app._routing_params(method, path, headers, body, query)
        service = _app.detect_service(method, path, headers, parameters)
        action = _actions.extract_iam_action(service, method, path, headers, body, parameters)
        key = _app.extract_access_key_id(headers, query)
        if action is None or service not in _RESOURCES.keys() | _PASSING.keys():
            caller_key.set(key)
            answer: emulator.Response = await original(method, path, headers, body, query, request_id)
            return answer
        request = Request(
            service=service,
            action=action,
            path=path,
            members=_members(body, parameters),
            region=_app.extract_region(headers, query),
            account=emulator.module("core.responses").get_account_id(),
        )
        named = resources(request)
        tags = _actions.request_tag_context(service, action, body, parameters)
        for check in _further_checks(request, named, tags):
            denied = _evaluate(key, check, request.region)
            if isinstance(denied, _evaluator.AuthError):
                failure: emulator.Response = _app._credential_failure(
                    service, check.action, request_id, denied, headers
                )
                return failure
            if denied:
                error = ("AccessDenied", _explain(check, denied))
                return _error(service, check.action, request_id, headers, error, 403)
        caller_key.set(key)
        token = _resource.set(named[0] if named else "")
        try:
            if refusal := _refusal(request):
                return _error(service, action, request_id, headers, refusal, 400)
            answer = await original(method, path, headers, body, query, request_id)
        finally:
            _resource.reset(token)
        if action == "athena:StartQueryExecution" and answer[0] == 200:
            _workgroup_of_query[json.loads(answer[2])["QueryExecutionId"]] = _workgroup(request)
        return answer

    return dispatch


def _members(body: bytes, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON request's members, else the first value of each query parameter."""
    members = {name: value[0] if isinstance(value, list) else value for name, value in parameters.items()}
    if body[:1] == b"{":
        try:
            members.update(json.loads(body))
        except ValueError:  # the service itself answers a body it cannot read
            return members
    return members


def _error(
    service: str,
    action: str,
    request_id: str,
    headers: dict[str, str],
    error: tuple[str, str],
    status: int,
) -> emulator.Response:
    """Return ``error`` (code, message) in the protocol of ``service``."""
    _, answer_headers, body = _actions.access_denied_response(
        service, action, "", request_id, headers=headers, error_code=error[0], message=error[1]
    )
    return status, answer_headers, body


def _use_resource(original: Callable[..., str]) -> Callable[..., str]:
    return lambda *request: _resource.get() or original(*request)


def _name_the_resource(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let a denial name its resource, as AWS's message does."""

    def respond(service: str, action: str, principal: str, request_id: str, **details: Any) -> Any:
        if not details.get("message") and not details.get("resource_policy_arn"):
            details["message"] = _actions.identity_denial_message(
                action, principal, details.get("resource_arn", "*"), details.get("explicit_deny", False)
            )
        return original(service, action, principal, request_id, **details)

    return respond


def _add_conditions(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Add the condition keys of IAM's calls, a mapping's function, the aliases of a key and the tags of a secret."""

    def context(service: str, action: str, body: bytes, parameters: dict[str, Any]) -> dict[str, Any]:
        found = original(service, action, body, parameters)
        members = _members(body, parameters)
        if service == "iam":
            return found | iam_context(members)
        if service == "kms":
            # https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
            kms = emulator.module("services.kms")
            key = kms._resolve_key(members.get("KeyId", "")) or {}
            aliases = [name for name, target in kms._aliases.items() if target == key.get("KeyId")]
            return found | {"kms:ResourceAliases": [name.rpartition(":")[2] for name in aliases] or None}
        if service == "lambda" and action.endswith("EventSourceMapping"):
            mapping = emulator.module("services.lambda_svc")._esms.get(_resource.get().rpartition(":")[2]) or {}
            return found | mapping_context(members.get("FunctionName") or mapping.get("FunctionArn", ""))
        if service == "secretsmanager":
            _, secret = emulator.module("services.secretsmanager")._resolve(members.get("SecretId", ""))
            tags = (secret or {}).get("Tags") or []
            return found | {f"secretsmanager:ResourceTag/{tag['Key']}": tag["Value"] for tag in tags}
        return found

    return context


def iam_context(members: Mapping[str, Any]) -> dict[str, str]:
    """Return ``iam:PermissionsBoundary`` and ``iam:PolicyARN`` of a call with ``members``, where they apply."""
    role = emulator.module("services.iam")._roles.get(members.get("RoleName", "")) or {}
    boundary = members.get("PermissionsBoundary") or role.get("PermissionsBoundary")
    keys = {"iam:PermissionsBoundary": boundary, "iam:PolicyARN": members.get("PolicyArn")}
    return {key: value for key, value in keys.items() if value}


def mapping_context(function: str) -> dict[str, str]:
    """Return ``lambda:FunctionArn`` of a call about an event source mapping; ``function`` is a name or an ARN.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awslambda.html
    """
    responses = emulator.module("core.responses")
    name = function.rpartition(":function:")[2].partition(":")[0]
    arn = f"arn:aws:lambda:{responses.get_region()}:{responses.get_account_id()}:function:{name}"
    return {"lambda:FunctionArn": arn} if name else {}


def _add_leading_keys(original: Callable[[bytes], dict[str, Any]]) -> Callable[[bytes], dict[str, Any]]:
    """Add ``dynamodb:LeadingKeys``, the partition keys a request names.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html
    """

    def context(body: bytes) -> dict[str, Any]:
        keys = list(_leading_keys(_members(body, {})))
        return original(body) | ({"dynamodb:LeadingKeys": keys} if keys else {})

    return context


def _leading_keys(members: Mapping[str, Any]) -> Iterator[str]:
    """Yield the partition key values of one DynamoDB request, whichever of its forms it has."""
    for table, requests in (members.get("RequestItems") or {}).items():
        keyed = requests.get("Keys", []) if isinstance(requests, dict) else []
        puts = [next(iter(each.values())) for each in requests] if isinstance(requests, list) else []
        for key in [*keyed, *(put.get("Item") or put.get("Key") or {} for put in puts)]:
            yield from _leading_keys({"TableName": table, "Key": key})
    for item in members.get("TransactItems") or []:
        for action in item.values():
            yield from _leading_keys(action)
    table = emulator.module("services.dynamodb")._tables.get(members.get("TableName", "").rpartition("/")[2]) or {}
    indexes = [*table.get("GlobalSecondaryIndexes", []), *table.get("LocalSecondaryIndexes", [])]
    schemas = {index["IndexName"]: index["KeySchema"] for index in indexes}
    schema = schemas.get(members.get("IndexName", ""), table.get("KeySchema", []))
    leading = [each["AttributeName"] for each in schema if each["KeyType"] == "HASH"]
    names, values = members.get("ExpressionAttributeNames") or {}, members.get("ExpressionAttributeValues") or {}
    conditions = {
        names.get(name, name): values.get(value)
        for name, value in re.findall(r"([\w.#-]+)\s*=\s*(:\w+)", members.get("KeyConditionExpression") or "")
    }
    key = members.get("Key") or members.get("Item") or conditions
    for name in leading:
        if value := key.get(name):
            yield str(next(iter(value.values())))


def _find_group_tags(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Tags belong to the log group, while the call is authorized on a stream."""

    def context(action: str, body: bytes, resource: str, region: str, account: str) -> dict[str, Any]:
        return original(action, body, resource.partition(":log-stream:")[0], region, account)

    return context


def _secure(original: Callable[[str, bool], None]) -> Callable[[str, bool], None]:
    """Let loopback stand for AWS's TLS endpoints, so that a policy that demands TLS means here what it means there.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
    """
    return lambda address, _: original(address, True)


emulator.patch(_app, "pin_request_origin", _secure)
emulator.patch(_actions, "extract_iam_action", _name_every_action)
emulator.patch(_actions, "extract_resource_arn", _use_resource)
emulator.patch(_actions, "access_denied_response", _name_the_resource)
emulator.patch(_actions, "request_tag_context", _add_conditions)
emulator.patch(_actions, "dynamodb_service_context", _add_leading_keys)
emulator.patch(_actions, "logs_service_context", _find_group_tags)
emulator.patch(_app, "_dispatch_service_request", _authorize_completely)
