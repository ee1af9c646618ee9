"""Brings ``dist/`` to an Amazon MWAA environment: ``python -m deploy.mwaa dev [--dry-run | --rollback] [...]``.

The stack ``mwaa-atlas-<environment>`` of ``deploy/mwaa.yaml`` is made first without an environment, then with one, once
plugins.zip and requirements.txt are in its bucket. Later only what has changed is uploaded, and the environment is
updated only if plugins, requirements, settings or the template have.

At no time are the plugins older than the DAGs that use them: a release brings its plugins, waits until the environment
has them, and then brings its DAGs; a rollback brings back the old DAGs first. So plugins have to serve the DAGs of the
release before them, too.

Credentials and region are those of boto3, with a named profile (``--profile`` or ``AWS_PROFILE``) in another account:
https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from atlas import stacks
from atlas.packaging import digest, parse_template
from deploy.package import DIST
from deploy.releases import INCLUDE, PINNED, Bucket, DeployError, File, Plan, Record, Release, plan
from local.launcher import LauncherError
from local.launcher.progress import say

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

TEMPLATE = Path(__file__).with_name("mwaa.yaml")
ENVIRONMENT = re.compile("[a-z][a-z0-9]{1,9}")
POLL_SECONDS = 15.0
NO_PACKAGE = "none"
"""Version of plugins.zip while there is no environment, as in the template."""
SHOWN = 20
"""Changed files that are named; of more, their number is enough."""

_DELETE = "Delete the stack, then deploy again: aws cloudformation delete-stack --stack-name {name}"
HINTS = {
    **dict.fromkeys(("CREATE_FAILED", "DELETE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"), _DELETE),
    "UPDATE_ROLLBACK_COMPLETE": "The environment is as it was. Mend the cause, then deploy again.",
    "UPDATE_ROLLBACK_FAILED": "Mend the cause, then: aws cloudformation continue-update-rollback --stack-name {name}",
}
"""What to do about a stack in such a status:
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html"""


class Package:
    """``dist/`` as ``make package`` has built it.

    Raises:
        DeployError: it is not there, or is not what its manifest says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "manifest.json").is_file():
            raise DeployError(f"There is no package in {folder}: make package")
        files = json.loads((folder / "manifest.json").read_text())["files"]
        self.digests: dict[str, str] = {name: file["sha256"] for name, file in files.items()}
        for name in self.digests:
            if not (folder / name).is_file() or digest(self.content(name)) != self.digests[name]:
                raise DeployError(f"{folder / name} is not what manifest.json says: make package")

    def content(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return (self.folder / name).read_bytes()

    @property
    def needs_index(self) -> bool:
        """Whether requirements.txt is installed from a package index."""
        return b"--no-index" not in self.content("requirements.txt")


class Stack:
    """The stack of an environment, brought to its template by change sets."""

    def __init__(self, session: boto3.Session, environment: str) -> None:
        self.environment = environment
        self.name = f"mwaa-atlas-{environment}"
        self.client = session.client("cloudformation")
        self.mwaa = session.client("mwaa")
        self.caller = session.client("sts").get_caller_identity()

    def settled(self) -> StackTypeDef | None:
        """Return the stack once no operation is in progress on it, None if there is none.

        Raises:
            DeployError: it is in a state that somebody has to mend.
        """
        stack = stacks.find(self.client, self.name)
        if stack and stacks.in_progress(stack):
            say(f"Stack {self.name} is {stack['StackStatus']}: waiting until that has ended")
            stack = self._follow(stack["StackId"], self._events(stack["StackId"], set()))
        if stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS":
            return None
        if stack["StackStatus"] in HINTS and stack["StackStatus"] != "UPDATE_ROLLBACK_COMPLETE":
            raise self._failure(stack["StackId"], stack["StackStatus"])
        return stack

    def change(self, parameters: Mapping[str, str], template: str | None) -> StackTypeDef:
        """Bring the stack to ``template``, None for the one it has, and ``parameters``; all others stay as they are.

        Raises:
            DeployError: the stack could not be changed; lists the failed events and says what to do.
            StackError: the change set could not be created.
        """
        stack = self.settled()
        known = _parameters(stack)
        declared = parse_template(template)["Parameters"] if template else known
        given: list[dict[str, Any]] = [{"ParameterKey": key, "ParameterValue": parameters[key]} for key in parameters]
        kept = (known.keys() & declared.keys()) - parameters.keys()
        given += [{"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept)]
        partition = self.caller["Arn"].split(":")[1]
        change_set = stacks.create_change_set(
            self.client,
            math.ceil(POLL_SECONDS / 3),
            StackName=self.name,
            ChangeSetName=f"deploy-{uuid4()}",
            ChangeSetType="UPDATE" if stack else "CREATE",
            Capabilities=["CAPABILITY_AUTO_EXPAND"],
            Parameters=given,
            Tags=[{"Key": "atlas:environment", "Value": self.environment}],
            RoleARN=f"arn:{partition}:iam::{self.caller['Account']}:role/{self.name}-cloudformation",
            **({"TemplateBody": template} if template else {"UsePreviousTemplate": True}),
        )
        if change_set is None:
            say(f"Stack {self.name} already is as its template says")
            return self.client.describe_stacks(StackName=self.name)["Stacks"][0]
        for change in change_set.changes:
            if change["ResourceType"] == "AWS::MWAA::Environment":
                say("Amazon MWAA makes or updates the environment now, which takes 20 to 30 minutes;")
                say("with WorkerReplacement=GRACEFUL it lets running tasks end first")
        seen = self._events(change_set.stack_id, set())
        self.client.execute_change_set(ChangeSetName=change_set.id)
        settled = self._follow(change_set.stack_id, seen)
        status = settled["StackStatus"] if settled else "DELETE_COMPLETE"
        if settled is None or status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise self._failure(change_set.stack_id, status)
        return settled

    def differences(self, stack: StackTypeDef | None, parameters: Mapping[str, str], template: str | None) -> list[str]:
        """Return what ``change`` would change, without a change set."""
        if stack is None:
            return ["it would be made"]
        known = _parameters(stack)
        found = [f"{key}: {known.get(key)} -> {value}" for key, value in parameters.items() if known.get(key) != value]
        body: object = self.client.get_template(StackName=self.name, TemplateStage="Original")["TemplateBody"]
        if template and body != template:
            found.append("its template has changed")
        return found

    def tell(self) -> None:
        """Say in what state the environment is and where its pages are."""
        airflow = self.mwaa.get_environment(Name=f"atlas-{self.environment}")["Environment"]
        say(f"Environment {airflow['Name']} is {airflow['Status']}: https://{airflow['WebserverUrl']}")

    def _follow(self, stack_id: str, seen: set[str]) -> StackTypeDef | None:
        """Wait until nothing is in progress on the stack, and tell its events but those ``seen``."""
        while True:
            stack = stacks.find(self.client, stack_id)
            seen |= self._events(stack_id, seen, tell=True)
            if stack is None or not stacks.in_progress(stack):
                return stack
            time.sleep(POLL_SECONDS)

    def _events(self, stack_id: str, seen: set[str], *, tell: bool = False) -> set[str]:
        """Return the ids of the stack's events that are not ``seen``, and tell them, oldest first."""
        pages = self.client.get_paginator("describe_stack_events").paginate(StackName=stack_id)
        new = [event for page in pages for event in page["StackEvents"] if event["EventId"] not in seen]
        for event in reversed(new if tell else []):
            say(f"{event['Timestamp']:%H:%M:%S} {event.get('LogicalResourceId')} {event.get('ResourceStatus')}")
        return {event["EventId"] for event in new}

    def _failure(self, stack_id: str, status: str) -> DeployError:
        reasons = stacks.failures(self.client, stack_id)
        lines = [f"Stack {self.name} is {status}:", *reasons, HINTS.get(status, "").format(name=self.name)]
        return DeployError("\n  ".join(line for line in lines if line))


def _parameters(stack: StackTypeDef | None) -> dict[str, str]:
    """Return a stack's parameters, value by name."""
    given = stack.get("Parameters", []) if stack else []
    return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in given}


def _versions(files: Mapping[str, File]) -> dict[str, str]:
    """Return the parameters that say which versions the environment uses."""
    plugins, requirements = PINNED
    return {"PluginsVersion": files[plugins].version, "RequirementsVersion": files[requirements].version}


def _versions_of(stack: StackTypeDef | None) -> dict[str, str]:
    """Return the versions the environment uses, nothing if there is no environment."""
    known = _parameters(stack)
    if known.get("PluginsVersion", NO_PACKAGE) == NO_PACKAGE:
        return {}
    return dict(zip(PINNED, (known["PluginsVersion"], known["RequirementsVersion"]), strict=True))


def _bucket(session: boto3.Session, stack: StackTypeDef | None) -> Bucket:
    return Bucket(session.client("s3"), stacks.outputs(stack)["BucketName"] if stack else "")


def _plan(bucket: Bucket, record: Record | None, package: Package, used: Mapping[str, str]) -> Plan:
    """Return what brings a package; of ``used``, plugins and requirements, what is written down may be late."""
    known = record.release.files if record else {}
    return plan(package.digests, known | {key: bucket.file(key, used[key]) for key in used}, bucket.newest())


def _tell(steps: Plan) -> None:
    """Say which objects are written and deleted."""
    named = [f"+ {key}" for key in steps.written] + [f"- {key}" for key in steps.deleted]
    for line in named[:SHOWN]:
        say(line)
    if len(named) > SHOWN:
        say(f"... and {len(named) - SHOWN} more")
    say(f"{len(steps.written)} written, {len(steps.deleted)} deleted, {len(steps.kept)} stay")


def _bring_dags(bucket: Bucket, steps: Plan, write: Callable[[str], File]) -> dict[str, File]:
    """Write what DAGs read, then the DAGs, then delete what is gone; return what was written."""
    dags = [key for key in steps.written if key not in PINNED]
    written = bucket.write((key for key in dags if key.startswith(INCLUDE)), write)
    written |= bucket.write((key for key in dags if not key.startswith(INCLUDE)), write)
    bucket.delete(steps.deleted)
    return written


def deploy(
    session: boto3.Session,
    environment: str,
    package: Package,
    settings: Mapping[str, str],
    *,
    dry: bool,
    by_force: bool,
) -> None:
    """Bring a package to an environment, which is made if there is none.

    Args:
        session: whose credentials and region are used.
        environment: its name, such as ``dev``.
        package: what is brought.
        settings: parameters of the template; those left out stay as they are, or have their default.
        dry: say what would be done, and do nothing.
        by_force: remove the lock of a deployment that was killed.

    Raises:
        DeployError: says what failed and what to do.
        StackError: the stack's change set could not be created.
    """
    stack = Stack(session, environment)
    found = stack.settled()
    settings = {**settings, "Environment": environment}
    if package.needs_index and not (_parameters(found) | settings).get("VpcId"):
        raise DeployError(
            "The network that is made has no way to a package index, and requirements.txt needs one: "
            'make package ARGS=--offline, or a network of your own, --set VpcId=... --set "SubnetIds=...,..."'
        )
    template = TEMPLATE.read_text(encoding="utf-8")
    if found is None and not dry:
        found = stack.change(settings, template)
    bucket = _bucket(session, found)
    if dry:
        steps = _plan(bucket, bucket.current(), package, _versions_of(found))
        _tell(steps)
        new = dict.fromkeys(PINNED, File("", "a new version"))
        for difference in stack.differences(found, settings | _versions(new | steps.kept), template):
            say(f"Stack {stack.name}: {difference}")
        return
    with bucket.locked(stack.caller["Arn"], by_force=by_force):
        record, used = bucket.current(), _versions_of(stack.settled())
        steps = _plan(bucket, record, package, used)
        _tell(steps)

        def write(key: str) -> File:
            return bucket.put(key, package.content(key), package.digests[key])

        files = steps.kept | bucket.write((key for key in steps.written if key in PINNED), write)
        if used:
            stack.change(settings | _versions(files), template)
        files |= _bring_dags(bucket, steps, write)
        if not used:  # nothing has read the DAGs yet
            stack.change(settings | _versions(files), template)
        if record is None or files != record.release.files:
            bucket.record(Release(files, record.version if record else None), record)
    stack.tell()


def rollback(session: boto3.Session, environment: str, *, dry: bool, by_force: bool) -> None:
    """Bring back the release before the present one; once more, and it is the one before that.

    Raises:
        DeployError: there is none, or what it consisted of is no longer there; or as ``deploy``.
    """
    stack = Stack(session, environment)
    found = stack.settled()
    bucket = _bucket(session, found)
    with bucket.locked(stack.caller["Arn"], by_force=by_force) if found and not dry else nullcontext():
        record = bucket.current()
        if record is None or record.release.previous is None:
            raise DeployError(f"There is no release of {environment} to go back to")
        target = bucket.release(record.release.previous)
        pinned = {key: target.files[key] for key in PINNED}
        dags = {key: sha256 for key, sha256 in target.digests.items() if key not in PINNED}
        steps = plan(dags, record.release.files, bucket.newest())
        _tell(steps)
        if dry:
            for difference in stack.differences(found, _versions(pinned), None):
                say(f"Stack {stack.name}: {difference}")
            return
        restored = _bring_dags(bucket, steps, lambda key: bucket.restore(key, target.files[key]))
        stack.change(_versions(pinned), None)
        bucket.record(Release(pinned | steps.kept | restored, target.previous), record)
    stack.tell()


def main() -> int:
    """Deploy or roll back as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="make deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environment", help="name of the environment, such as dev")
    parser.add_argument("--dist", type=Path, default=DIST, help="the package")
    parser.add_argument("--profile", help="named profile of the credentials")
    parser.add_argument("--region", help="instead of the profile's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="parameter of deploy/mwaa.yaml"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--rollback", action="store_true", help="bring back the release before")
    parser.add_argument("--unlock", action="store_true", help="remove the lock of a deployment that was killed")
    arguments = parser.parse_args()
    if not ENVIRONMENT.fullmatch(arguments.environment):
        parser.error(f"{arguments.environment} is no name of an environment: {ENVIRONMENT.pattern}")
    if not all("=" in setting for setting in arguments.set):
        parser.error("--set takes NAME=VALUE")
    how = {"dry": arguments.dry_run, "by_force": arguments.unlock}
    try:
        session = boto3.Session(profile_name=arguments.profile, region_name=arguments.region)
        if arguments.rollback:
            rollback(session, arguments.environment, **how)
        else:
            settings = dict(setting.split("=", 1) for setting in arguments.set)
            deploy(session, arguments.environment, Package(arguments.dist), settings, **how)
    except (LauncherError, stacks.StackError, BotoCoreError, ClientError) as error:
        say(f"atlas: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
