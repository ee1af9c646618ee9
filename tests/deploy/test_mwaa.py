"""Deployment to Amazon MWAA, as the person who may deploy and nothing else, up to the environment itself."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from atlas import stacks
from atlas.packaging import digest
from deploy import mwaa
from deploy.releases import Bucket, DeployError, File, Release, plan
from local import bootstrap
from local.launcher import layout
from tests.conftest import Aws
from tests.templates import model

ENVIRONMENT = "ship"
NAME = f"mwaa-atlas-{ENVIRONMENT}"
BUCKET = f"{NAME}-000000000000-{layout.REGION}"
ACCESS = layout.REPOSITORY / "deploy" / "access.yaml"
FILES = {
    "dags/.airflowignore": "include/\n",
    "dags/include/sql/s00/daily.sql": "SELECT 1\n",
    "dags/include/templates/s00.yaml": "Resources: {}\n",
    "dags/s00_small.py": "# first\n",
    "dags/s00_other.py": "# other\n",
    "plugins.zip": "plugins, first\n",
    "requirements.txt": "--no-index\n",
}


def package(folder: Path, **changed: str | None) -> Path:
    """Write a package of ``FILES`` into ``folder``; ``changed`` are contents by file, None for a file that is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    files = {name: text for name, text in (FILES | changed).items() if text is not None}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    listed = {name: {"sha256": digest(text.encode()), "bytes": len(text)} for name, text in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    return folder


@dataclass
class World:
    """An account in which a user may deploy, a package, and the command as that user gives it."""

    aws: Aws
    folder: Path
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: str, **changed: str | None) -> int:
        """Deploy a package with ``changed`` files; return the exit code."""
        self.said.clear()
        dist = package(self.folder / "dist", **changed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_PROFILE", "deployer")
            patch.setattr(sys, "argv", ["deploy", ENVIRONMENT, "--dist", str(dist), *arguments])
            return mwaa.main()

    @property
    def told(self) -> str:
        return "\n".join(self.said)

    @property
    def airflow(self) -> dict[str, Any]:
        """The environment."""
        client = self.aws.client("mwaa", inject_host_prefix=False)
        found: dict[str, Any] = client.get_environment(Name=f"atlas-{ENVIRONMENT}")["Environment"]
        return found

    def contents(self) -> dict[str, str]:
        """Return what DAGs and environment see, by key: the newest objects below dags/, the versions in use."""
        s3 = self.aws.client("s3")
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="dags/").get("Contents", [])
        found = {entry["Key"]: s3.get_object(Bucket=BUCKET, Key=entry["Key"]) for entry in listed}
        used = self.airflow
        for kind in ("Plugins", "Requirements"):
            key, version = used[f"{kind}S3Path"], used[f"{kind}S3ObjectVersion"]
            found[key] = s3.get_object(Bucket=BUCKET, Key=key, VersionId=version)
        return {key: answer["Body"].read().decode() for key, answer in found.items()}

    def versions(self) -> list[str]:
        """Return every object version and delete marker of the bucket as ``key version``; nothing without a bucket."""
        if BUCKET not in [bucket["Name"] for bucket in self.aws.client("s3").list_buckets()["Buckets"]]:
            return []
        answer = self.aws.client("s3").list_object_versions(Bucket=BUCKET)
        listed = [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]
        return sorted(f"{entry['Key']} {entry['VersionId']}" for entry in listed)

    def events(self) -> list[str]:
        """Return the stack's events, newest first; none without a stack."""
        client = self.aws.client("cloudformation")
        try:
            return [event["EventId"] for event in client.describe_stack_events(StackName=NAME)["StackEvents"]]
        except ClientError:
            return []


@pytest.fixture(name="world", scope="module")
def _world(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A user with the policy of those who deploy, in a named profile; no other permission is used by the command."""
    folder = tmp_path_factory.mktemp("deploy")
    parameters = {"Environment": ENVIRONMENT}
    bootstrap.deploy(aws.client, f"atlas-{ENVIRONMENT}-permissions", bootstrap.PERMISSIONS, parameters)
    policy = bootstrap.deploy(aws.client, f"{NAME}-access", ACCESS, parameters)["DeployerPolicyArn"]
    iam = aws.client("iam")
    user = iam.create_user(UserName="deployer")["User"]["Arn"]
    iam.attach_user_policy(UserName="deployer", PolicyArn=policy)
    iam.create_user(UserName="stranger")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    role = iam.create_role(RoleName="ship-deployer", AssumeRolePolicyDocument=json.dumps(document))["Role"]["Arn"]
    iam.attach_role_policy(RoleName="ship-deployer", PolicyArn=policy)
    assume = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role}
    document = {"Version": "2012-10-17", "Statement": [assume]}
    iam.put_user_policy(UserName="stranger", PolicyName="assume", PolicyDocument=json.dumps(document))
    assert user.endswith("user/deployer")
    place = f"region = {layout.REGION}\nendpoint_url = {aws.endpoint}\ndisable_host_prefix_injection = true\n"
    profiles = {}
    for name in ("deployer", "stranger"):
        key = iam.create_access_key(UserName=name)["AccessKey"]
        profiles[name] = (
            f"aws_access_key_id = {key['AccessKeyId']}\naws_secret_access_key = {key['SecretAccessKey']}\n{place}"
        )
    profiles["elsewhere"] = f"role_arn = {role}\nsource_profile = stranger\n{place}"
    (folder / "config").write_text("".join(f"[profile {name}]\n{body}" for name, body in profiles.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setattr(mwaa, "POLL_SECONDS", 0.1)
        found = World(aws, folder)
        patch.setattr(mwaa, "say", found.said.append)
        yield found


@pytest.fixture(name="deployed", scope="module")
def _deployed(world: World) -> World:
    """The world after a first deployment."""
    assert world.run("--rollback") == 1
    assert "no release of ship to go back to" in world.told
    assert world.run("--dry-run") == 0
    assert "it would be made" in world.told
    assert (world.versions(), world.events()) == ([], [])
    assert world.run() == 0, world.told
    return world


@pytest.fixture(name="order")
def _order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which objects are written and when the environment is changed, in order, as it happens."""
    happened: list[str] = []

    def noting(owner: Any, name: str, note: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def noted(self: Any, *arguments: Any) -> Any:
            happened.append(note(*arguments))
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, noted)

    noting(Bucket, "put", lambda key, *_: f"put {key}")
    noting(Bucket, "restore", lambda key, _: f"restore {key}")
    noting(mwaa.Stack, "change", lambda *_: "change stack")
    return happened


def test_a_first_deployment_makes_bucket_and_environment(deployed: World) -> None:
    assert deployed.contents() == FILES
    assert deployed.airflow["Status"] == "AVAILABLE"
    assert deployed.airflow["AirflowVersion"] == "3.3.1"
    options = deployed.airflow["AirflowConfigurationOptions"]
    assert options["atlas.environment"] == ENVIRONMENT
    assert json.loads(options["secrets.backend_kwargs"])["connections_prefix"] == f"atlas/{ENVIRONMENT}/connections"
    assert deployed.told.endswith(
        f"Environment atlas-{ENVIRONMENT} is AVAILABLE: https://{deployed.airflow['WebserverUrl']}"
    )
    assert deployed.told.count("20 to 30 minutes") == 1


def test_deployed_again_nothing_is_uploaded_and_no_stack_updated(deployed: World) -> None:
    versions, events = deployed.versions(), deployed.events()

    assert deployed.run() == 0

    assert (deployed.versions(), deployed.events()) == (versions, events)
    assert "0 written, 0 deleted, 7 stay" in deployed.told


def test_a_changed_query_is_one_object_and_no_update_of_the_environment(deployed: World) -> None:
    before, events = deployed.versions(), deployed.events()

    assert deployed.run(**{"dags/include/sql/s00/daily.sql": "SELECT 2\n"}) == 0

    new = [version.partition(" ")[0] for version in set(deployed.versions()) - set(before)]
    assert sorted(new) == ["dags/include/sql/s00/daily.sql", "deploy/release.json"]
    assert deployed.events() == events
    assert deployed.contents() == FILES | {"dags/include/sql/s00/daily.sql": "SELECT 2\n"}


NEXT = {
    "plugins.zip": "plugins, second\n",
    "dags/s00_small.py": "# second\n",
    "dags/include/sql/s00/weekly.sql": "SELECT 7\n",
    "dags/s00_other.py": None,
}


def test_plugins_are_there_before_the_dags_that_need_them(deployed: World, order: list[str]) -> None:
    used = deployed.airflow["PluginsS3ObjectVersion"]

    assert deployed.run(**NEXT) == 0, deployed.told

    assert order[:2] == ["put plugins.zip", "change stack"]
    assert sorted(order[2:-1]) == ["put dags/include/sql/s00/daily.sql", "put dags/include/sql/s00/weekly.sql"]
    assert order[-1] == "put dags/s00_small.py"
    assert deployed.airflow["PluginsS3ObjectVersion"] != used
    assert deployed.contents() == {name: text for name, text in (FILES | NEXT).items() if text is not None}


def test_a_rollback_brings_back_dags_then_plugins_with_their_bytes_and_versions(
    deployed: World, order: list[str]
) -> None:
    newer = deployed.airflow["PluginsS3ObjectVersion"]
    before = deployed.versions(), deployed.events()
    assert deployed.run("--rollback", "--dry-run") == 0
    assert f"PluginsVersion: {newer} -> " in deployed.told
    assert (deployed.versions(), deployed.events()) == before

    assert deployed.run("--rollback") == 0, deployed.told

    assert deployed.contents() == FILES | {"dags/include/sql/s00/daily.sql": "SELECT 2\n"}
    assert deployed.airflow["PluginsS3ObjectVersion"] != newer
    assert order[-1] == "change stack"
    assert sorted(order[:-1]) == [
        "restore dags/include/sql/s00/daily.sql",
        "restore dags/s00_other.py",
        "restore dags/s00_small.py",
    ]

    assert deployed.run("--rollback") == 0
    assert deployed.contents() == FILES
    assert deployed.run("--rollback") == 1
    assert f"no release of {ENVIRONMENT} to go back to" in deployed.told


def test_after_a_rollback_the_same_package_is_no_change(deployed: World) -> None:
    versions, events = deployed.versions(), deployed.events()
    assert deployed.run() == 0
    assert (deployed.versions(), deployed.events()) == (versions, events)


def test_a_dry_run_says_what_would_happen_and_changes_nothing(deployed: World) -> None:
    versions, events = deployed.versions(), deployed.events()

    assert deployed.run("--dry-run", "--set", "MaxWorkers=7", **NEXT) == 0

    assert (deployed.versions(), deployed.events()) == (versions, events)
    for line in ("+ plugins.zip", "+ dags/s00_small.py", "- dags/s00_other.py", "3 written, 1 deleted, 4 stay"):
        assert line in deployed.said
    assert f"Stack {NAME}: MaxWorkers: 5 -> 7" in deployed.told
    assert "PluginsVersion" in deployed.told
    assert "RequirementsVersion" not in deployed.told
    assert "template has changed" not in deployed.told


def test_what_somebody_else_has_written_is_written_over(deployed: World) -> None:
    s3 = deployed.aws.client("s3")
    s3.put_object(Bucket=BUCKET, Key="dags/s00_small.py", Body=b"# by hand\n")
    s3.put_object(Bucket=BUCKET, Key="dags/by_hand.py", Body=b"")
    s3.delete_object(Bucket=BUCKET, Key="dags/s00_other.py")

    assert deployed.run() == 0

    assert deployed.contents() == FILES
    assert "2 written, 1 deleted, 5 stay" in deployed.told


def test_a_failed_update_is_told_with_its_reason_and_leaves_the_release_as_it_was(deployed: World) -> None:
    assert deployed.run("--set", "EnvironmentClass=mw1.micro", **NEXT) == 1

    assert "UPDATE_ROLLBACK_COMPLETE" in deployed.told
    assert "Airflow (AWS::MWAA::Environment) UPDATE_FAILED" in deployed.told
    assert "mw1.micro has one worker" in deployed.told
    assert "Mend the cause, then deploy again" in deployed.told
    assert deployed.contents() == FILES

    assert deployed.run() == 0, deployed.told
    assert deployed.contents() == FILES


def test_an_interrupted_deployment_goes_on_without_another_update(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mwaa, "_bring_dags", broken)
        with pytest.raises(KeyboardInterrupt):
            deployed.run(**NEXT)
    used, events = deployed.airflow["PluginsS3ObjectVersion"], deployed.events()

    assert deployed.run(**NEXT) == 0, deployed.told

    assert (deployed.airflow["PluginsS3ObjectVersion"], deployed.events()) == (used, events)
    assert deployed.contents() == {name: text for name, text in (FILES | NEXT).items() if text is not None}
    assert deployed.run("--rollback") == 0
    assert deployed.contents() == FILES


def test_a_setting_the_template_does_not_take_is_told(deployed: World) -> None:
    assert deployed.run("--set", "EnvironmentClass=mw1.huge") == 1
    assert "EnvironmentClass" in deployed.told


def test_who_deploys_at_the_same_time_is_refused_and_told_why(deployed: World) -> None:
    bucket = Bucket(deployed.aws.client("s3"), BUCKET)
    changed = {"dags/s00_small.py": "# at the same time\n"}
    with bucket.locked("somebody", by_force=False):
        assert deployed.run(**changed) == 1
        assert "somebody since 20" in deployed.told
        assert "--unlock" in deployed.told
        assert deployed.contents() == FILES
        assert deployed.run("--unlock", **changed) == 0
    assert deployed.contents() == FILES | changed
    assert deployed.run() == 0


def test_of_two_that_deploy_together_one_is_refused_or_waits(deployed: World) -> None:
    start = threading.Barrier(2)
    refused: list[str] = []

    def deploy(number: int) -> None:
        dist = package(deployed.folder / f"dist{number}", **{name: f"# {number}\n" for name in FILES if "/s00" in name})
        session = boto3.Session(profile_name="deployer")
        start.wait()
        try:
            mwaa.deploy(session, ENVIRONMENT, mwaa.Package(dist), {}, dry=False, by_force=False)
        except DeployError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=deploy, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) < 2
    assert all("Somebody is deploying here" in reason for reason in refused)
    texts = {text for name, text in deployed.contents().items() if "/s00" in name}
    assert len(texts) == 1
    assert texts <= {"# 1\n", "# 2\n"}
    assert deployed.run() == 0
    assert deployed.contents() == FILES


def test_a_record_that_was_replaced_meanwhile_is_not_overwritten(deployed: World) -> None:
    bucket = Bucket(deployed.aws.client("s3"), BUCKET)
    record = bucket.current()
    assert record is not None
    bucket.record(Release(record.release.files, record.version), record)
    with pytest.raises(DeployError, match="at the same time"):
        bucket.record(record.release, record)
    with pytest.raises(DeployError, match="at the same time"):
        bucket.record(record.release, None)


def test_a_profile_with_a_role_deploys_as_that_role(deployed: World) -> None:
    """Whatever boto3 makes of a profile: https://docs.aws.amazon.com/boto3/latest/guide/credentials.html#assume-role-provider"""
    assert deployed.run("--profile", "stranger") == 1
    assert "AccessDenied" in deployed.told
    assert "stranger" in deployed.told

    assert deployed.run("--profile", "elsewhere") == 0, deployed.told
    caller = mwaa.Stack(boto3.Session(profile_name="elsewhere"), ENVIRONMENT).caller["Arn"]
    assert ":assumed-role/ship-deployer/" in caller

    assert deployed.run("--profile", "nobody") == 1
    assert "nobody" in deployed.told


def test_who_deploys_may_do_nothing_else_to_the_environment(deployed: World) -> None:
    session = boto3.Session(profile_name="deployer")
    role = f"arn:aws:iam::000000000000:role/{NAME}"
    with pytest.raises(ClientError, match="AccessDenied"):
        session.client("mwaa").update_environment(Name=f"atlas-{ENVIRONMENT}", MaxWorkers=2)
    with pytest.raises(ClientError, match="AccessDenied"):
        session.client("iam").put_role_policy(RoleName=NAME, PolicyName="more", PolicyDocument="{}")
    with pytest.raises(ClientError, match="AccessDenied"):
        session.client("sts").assume_role(RoleArn=role, RoleSessionName="me")


def test_no_dag_reaches_its_own_environment(deployed: World) -> None:
    iam = deployed.aws.client("iam")
    iam.create_user(UserName="dag")
    policy = f"arn:aws:iam::000000000000:policy/atlas-{ENVIRONMENT}-airflow"
    iam.attach_user_policy(UserName="dag", PolicyArn=policy)
    key = iam.create_access_key(UserName="dag")["AccessKey"]
    with pytest.raises(ClientError, match="AccessDenied"):
        deployed.aws.client("s3", key).put_object(Bucket=BUCKET, Key="dags/mine.py", Body=b"")
    with pytest.raises(ClientError, match="AccessDenied"):
        deployed.aws.client("cloudformation", key).delete_stack(StackName=NAME)
    assert deployed.aws.client("s3", key).list_objects_v2(Bucket=own_bucket(deployed.aws))["KeyCount"] == 0


def own_bucket(aws: Aws) -> str:
    """Return a new bucket that is named as those of the scenarios are."""
    name = f"atlas-{ENVIRONMENT}-lake"
    aws.client("s3").create_bucket(Bucket=name)
    return name


def test_a_stack_that_cannot_be_updated_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    client = world.aws.client("cloudformation")
    body = json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"DelaySeconds": "x"}}}})
    client.create_stack(StackName="mwaa-atlas-broken", TemplateBody=body)
    with pytest.raises(Exception, match="ROLLBACK_COMPLETE"):
        client.get_waiter("stack_create_complete").wait(
            StackName="mwaa-atlas-broken", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
        )
    monkeypatch.setattr(stacks, "failures", lambda *_: ["Queue failed"])
    session = boto3.Session("test", "test", region_name=layout.REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", world.aws.endpoint)
    with pytest.raises(DeployError, match=r"ROLLBACK_COMPLETE:\n  Queue failed\n  .*--stack-name mwaa-atlas-broken"):
        mwaa.Stack(session, "broken").settled()


def test_a_package_that_needs_an_index_is_refused_in_a_network_without_a_way_out(world: World) -> None:
    assert world.run(**{"requirements.txt": "altair==1\n"}) == 1
    assert "make package ARGS=--offline" in world.told


def test_a_package_that_is_not_what_its_manifest_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="make package"):
        mwaa.Package(tmp_path)
    dist = package(tmp_path / "dist")
    mwaa.Package(dist)
    (dist / "dags" / "s00_small.py").write_text("# not what was checked\n")
    with pytest.raises(DeployError, match=r"s00_small\.py is not what manifest\.json says"):
        mwaa.Package(dist)


def test_what_dags_read_comes_before_them_and_goes_after_them() -> None:
    wanted = dict.fromkeys(("dags/a.py", "dags/include/z.sql", "plugins.zip"), "new")
    known = {"dags/b.py": File("old", "1"), "dags/include/b.sql": File("old", "1")}

    steps = plan(wanted, known, {"dags/b.py": "1", "dags/include/b.sql": "1"})

    assert steps.kept == {}
    assert steps.written == ["dags/include/z.sql", "dags/a.py", "plugins.zip"]
    assert steps.deleted == ["dags/b.py", "dags/include/b.sql"]


def test_plugins_in_use_stay_though_a_newer_version_lies_there() -> None:
    known = {"plugins.zip": File("same", "1"), "dags/a.py": File("same", "1")}
    steps = plan({"plugins.zip": "same", "dags/a.py": "same"}, known, {"dags/a.py": "2"})
    assert steps.kept == {"plugins.zip": File("same", "1")}
    assert steps.written == ["dags/a.py"]


ENDPOINTS = {
    "cloudwatch": "monitoring",
    "kinesis": "kinesis-streams",
    "redshift-serverless": "redshift-data",  # it asks for the credentials on the caller's behalf
    "iam": None,  # PassRole, which is no call
}
"""Endpoints that are not called what actions are."""


def test_the_network_without_a_way_out_has_an_endpoint_of_each_service_dags_use() -> None:
    policy = model.read(bootstrap.PERMISSIONS)["Resources"]["AirflowPolicy"]["Properties"]["PolicyDocument"]
    used = {action.partition(":")[0] for each in policy["Statement"] for action in model.as_list(each["Action"])}
    names = {ENDPOINTS.get(service, service) for service in used} - {None}
    endpoints = {
        model.properties(body)["ServiceName"]["Fn::Sub"].partition("${AWS::Region}.")[2]
        for body in model.resources(model.read(mwaa.TEMPLATE), "AWS::EC2::VPCEndpoint").values()
    }
    assert names - endpoints == set()
    assert "sqs" in names
