"""Amazon RDS for PostgreSQL: instances that are databases, by the API and by CloudFormation."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.conformance.test_cloudformation import CLOUDFORMATION, create, failures
from tests.conformance.test_iam import allow, denied, role, user
from tests.conftest import Aws

USER, PASSWORD = "sales_admin", "first-Passw0rd"
SOON = {"Delay": 1, "MaxAttempts": 30}


def create_instance(aws: Aws, name: str, **options: Any) -> dict[str, Any]:
    """Create an instance with an initial database ``shop`` and return it once it is available."""
    if "ManageMasterUserPassword" not in options:
        options.setdefault("MasterUserPassword", PASSWORD)
    settings = {
        "Engine": "postgres",
        "DBInstanceClass": "db.t4g.micro",
        "AllocatedStorage": 20,
        "MasterUsername": USER,
        "DBName": "shop",
    }
    created = aws.client("rds").create_db_instance(DBInstanceIdentifier=name, **settings | options)["DBInstance"]
    assert created["DBInstanceStatus"] == "creating"
    assert "Endpoint" not in created
    return available(aws, name)


def available(aws: Aws, name: str) -> dict[str, Any]:
    """Wait until the instance is available and return it."""
    rds = aws.client("rds")
    rds.get_waiter("db_instance_available").wait(DBInstanceIdentifier=name, WaiterConfig=SOON)
    instance: dict[str, Any] = rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0]
    return instance


def connect(instance: dict[str, Any], password: str = PASSWORD, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect to the instance as its master user, with TLS."""
    settings = {"user": USER, "dbname": "shop", "sslmode": "require", "connect_timeout": 5, "autocommit": True}
    address = {"host": instance["Endpoint"]["Address"], "port": instance["Endpoint"]["Port"]}
    return psycopg.connect(**address, password=password, **settings | options)  # type: ignore[arg-type]


def listens(instance: dict[str, Any]) -> bool:
    """Return whether something accepts connections at the instance's address."""
    with socket.socket() as probe:
        return probe.connect_ex((instance["Endpoint"]["Address"], instance["Endpoint"]["Port"])) == 0


@pytest.fixture(scope="module")
def instance(aws: Aws) -> Iterator[dict[str, Any]]:
    """An instance that no test stops or changes."""
    yield create_instance(aws, "rds-shared")
    aws.client("rds").delete_db_instance(DBInstanceIdentifier="rds-shared", SkipFinalSnapshot=True)


def test_an_available_instance_is_a_database_with_its_initial_database(instance: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBInstance.html"""
    with connect(instance) as connection:
        row = connection.execute("SELECT current_user, current_database(), current_setting('TimeZone')").fetchone()
        assert row == (USER, "shop", "UTC")


def test_the_master_user_administers_but_is_no_superuser(instance: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Appendix.PostgreSQL.CommonDBATasks.Roles.rds_superuser.html"""
    with connect(instance) as connection:
        connection.execute("CREATE TABLE public.orders (id bigint PRIMARY KEY, total numeric(12, 2))")
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 'reader-Passw0rd'")
        connection.execute("GRANT SELECT ON orders TO reader")
        connection.execute("CREATE DATABASE second")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("ALTER SYSTEM SET work_mem = '1GB'")
    with connect(instance, "reader-Passw0rd", user="reader") as reader:
        assert reader.execute("SELECT count(*) FROM orders").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("INSERT INTO orders VALUES (1, 1)")


def test_a_connection_without_tls_is_refused(instance: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/PostgreSQL.Concepts.General.SSL.html"""
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        connect(instance, sslmode="disable")


def test_a_wrong_password_is_refused(instance: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_ConnectToPostgreSQLInstance.html"""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(instance, "wrong")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param({"MasterUserPassword": "short"}, "InvalidParameterValue", id="short password"),
        pytest.param({"MasterUserPassword": "with/a/slash"}, "InvalidParameterValue", id="forbidden character"),
        pytest.param({"MasterUsername": "admin"}, "InvalidParameterValue", id="reserved user"),
        pytest.param(
            {"MasterUserPassword": PASSWORD, "ManageMasterUserPassword": True},
            "InvalidParameterCombination",
            id="given and managed password",
        ),
        pytest.param({"DBInstanceIdentifier": "rds-shared"}, "DBInstanceAlreadyExists", id="name taken"),
    ],
)
def test_an_instance_is_not_created_from_wrong_parameters(
    aws: Aws, instance: dict[str, Any], options: dict[str, Any], code: str
) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBInstance.html"""
    settings = {
        "DBInstanceIdentifier": "rds-wrong",
        "Engine": "postgres",
        "DBInstanceClass": "db.t4g.micro",
        "MasterUsername": USER,
        "MasterUserPassword": PASSWORD,
    }
    rds = aws.client("rds")
    with pytest.raises(ClientError) as error:
        rds.create_db_instance(**settings | options)
    assert error.value.response["Error"]["Code"] == code
    with pytest.raises(rds.exceptions.DBInstanceNotFoundFault):
        rds.describe_db_instances(DBInstanceIdentifier="rds-wrong")
    assert listens(instance)


def test_the_data_api_refuses_a_plain_instance(aws: Aws, instance: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/data-api.html"""
    secret = aws.client("secretsmanager").create_secret(
        Name="rds-data", SecretString=json.dumps({"username": USER, "password": PASSWORD})
    )["ARN"]
    data = aws.client("rds-data")
    with pytest.raises(data.exceptions.BadRequestException):
        data.execute_statement(
            resourceArn=instance["DBInstanceArn"], secretArn=secret, sql="CREATE DATABASE x", database="shop"
        )


def test_a_stopped_instance_keeps_its_data_and_a_rebooted_one_drops_its_clients(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html"""
    rds = aws.client("rds")
    instance = create_instance(aws, "rds-stop")
    connection = connect(instance)
    connection.execute("CREATE TABLE kept AS SELECT 7 AS answer")
    rds.reboot_db_instance(DBInstanceIdentifier="rds-stop")
    available(aws, "rds-stop")
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with pytest.raises(rds.exceptions.InvalidDBInstanceStateFault):
        rds.start_db_instance(DBInstanceIdentifier="rds-stop")

    rds.stop_db_instance(DBInstanceIdentifier="rds-stop")
    _wait_for_status(aws, "rds-stop", "stopped")
    assert not listens(instance)
    with pytest.raises(rds.exceptions.InvalidDBInstanceStateFault):
        rds.create_db_snapshot(DBInstanceIdentifier="rds-stop", DBSnapshotIdentifier="rds-stop-never")

    rds.start_db_instance(DBInstanceIdentifier="rds-stop")
    with connect(available(aws, "rds-stop")) as again:
        assert again.execute("SELECT answer FROM kept").fetchone() == (7,)
    rds.delete_db_instance(DBInstanceIdentifier="rds-stop", SkipFinalSnapshot=True)


def test_a_new_master_password_replaces_the_old(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_ModifyDBInstance.html"""
    rds = aws.client("rds")
    instance = create_instance(aws, "rds-password")
    with pytest.raises(ClientError, match="not a valid password"):
        rds.modify_db_instance(DBInstanceIdentifier="rds-password", MasterUserPassword="short")
    rds.modify_db_instance(DBInstanceIdentifier="rds-password", MasterUserPassword="second-Passw0rd")
    available(aws, "rds-password")
    connect(instance, "second-Passw0rd").close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(instance)
    rds.delete_db_instance(DBInstanceIdentifier="rds-password", SkipFinalSnapshot=True)


def test_a_restored_instance_has_the_rows_of_the_snapshots_time(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_RestoreFromSnapshot.html"""
    rds = aws.client("rds")
    source = create_instance(aws, "rds-source")
    with connect(source) as connection:
        connection.execute("CREATE TABLE sales AS SELECT generate_series(1, 1000) AS id")
        rds.create_db_snapshot(DBInstanceIdentifier="rds-source", DBSnapshotIdentifier="rds-morning")
        rds.get_waiter("db_snapshot_available").wait(DBSnapshotIdentifier="rds-morning", WaiterConfig=SOON)
        connection.execute("DELETE FROM sales WHERE id > 10")
    rds.delete_db_instance(DBInstanceIdentifier="rds-source", FinalDBSnapshotIdentifier="rds-evening")
    assert not listens(source)

    for snapshot, rows in (("rds-morning", 1000), ("rds-evening", 10)):
        rds.restore_db_instance_from_db_snapshot(
            DBInstanceIdentifier=f"{snapshot}-restored", DBSnapshotIdentifier=snapshot
        )
        restored = available(aws, f"{snapshot}-restored")
        with connect(restored) as connection:
            assert connection.execute("SELECT count(*) FROM sales").fetchone() == (rows,)
        rds.delete_db_instance(DBInstanceIdentifier=f"{snapshot}-restored", SkipFinalSnapshot=True)
        rds.delete_db_snapshot(DBSnapshotIdentifier=snapshot)
    with pytest.raises(rds.exceptions.DBSnapshotNotFoundFault):
        rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier="rds-never", DBSnapshotIdentifier="rds-morning")


def test_deletion_is_refused_while_protected_or_without_a_word_on_the_snapshot(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DeleteDBInstance.html"""
    rds = aws.client("rds")
    instance = create_instance(aws, "rds-protected", DeletionProtection=True)
    with pytest.raises(ClientError, match="FinalDBSnapshotIdentifier is required"):
        rds.delete_db_instance(DBInstanceIdentifier="rds-protected")
    with pytest.raises(ClientError, match="DeletionProtection"):
        rds.delete_db_instance(DBInstanceIdentifier="rds-protected", SkipFinalSnapshot=True)
    assert listens(instance)
    rds.modify_db_instance(DBInstanceIdentifier="rds-protected", DeletionProtection=False)
    rds.delete_db_instance(DBInstanceIdentifier="rds-protected", SkipFinalSnapshot=True)
    rds.get_waiter("db_instance_deleted").wait(DBInstanceIdentifier="rds-protected", WaiterConfig=SOON)
    assert not listens(instance)


def test_a_managed_master_password_is_in_secrets_manager(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-secrets-manager.html"""
    rds, secrets = aws.client("rds"), aws.client("secretsmanager")
    instance = create_instance(aws, "rds-managed", ManageMasterUserPassword=True)
    arn = instance["MasterUserSecret"]["SecretArn"]
    assert ":secret:rds!db-" in arn
    login = json.loads(secrets.get_secret_value(SecretId=arn)["SecretString"])
    assert login["username"] == USER
    connect(instance, login["password"]).close()
    with pytest.raises(ClientError, match="ManageMasterUserPassword"):
        rds.modify_db_instance(DBInstanceIdentifier="rds-managed", MasterUserPassword="second-Passw0rd")
    rds.delete_db_instance(DBInstanceIdentifier="rds-managed", SkipFinalSnapshot=True)
    with pytest.raises(secrets.exceptions.ResourceNotFoundException):
        secrets.get_secret_value(SecretId=arn)


def test_a_managed_master_password_needs_the_right_to_make_its_secret(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-secrets-manager.html#rds-secrets-manager-permissions"""
    mine = allow("rds:CreateDBInstance", "*")
    request: dict[str, Any] = {
        "DBInstanceIdentifier": "rds-refused",
        "DBInstanceClass": "db.t4g.micro",
        "Engine": "postgres",
        "AllocatedStorage": 20,
        "MasterUsername": USER,
        "ManageMasterUserPassword": True,
    }
    message = denied(lambda: aws.client("rds", user(aws, mine)).create_db_instance(**request))
    assert "secretsmanager:CreateSecret" in message
    database = {"Type": "AWS::RDS::DBInstance", "Properties": {**request, "AllocatedStorage": "20"}}
    client, deployer = aws.client("cloudformation"), role(aws, CLOUDFORMATION, allow("rds:*", "*"))
    stack = create(client, json.dumps({"Resources": {"Database": database}}), RoleARN=deployer)
    assert "secretsmanager:CreateSecret" in failures(client, stack["StackId"])["Database"]
    known = aws.client("rds").describe_db_instances()["DBInstances"]
    assert "rds-refused" not in [each["DBInstanceIdentifier"] for each in known]


def _template(**properties: Any) -> dict[str, Any]:
    database = {
        "Engine": "postgres",
        "DBInstanceClass": "db.t4g.micro",
        "AllocatedStorage": "20",
        "DBName": "shop",
        "MasterUsername": USER,
        **properties,
    }
    secret = {"SecretStringTemplate": json.dumps({"username": USER}), "GenerateStringKey": "password"}
    return {
        "Resources": {
            "Login": {
                "Type": "AWS::SecretsManager::Secret",
                "Properties": {"GenerateSecretString": {**secret, "ExcludePunctuation": True}},
            },
            "Database": {"Type": "AWS::RDS::DBInstance", "DeletionPolicy": "Delete", "Properties": database},
        },
        "Outputs": {
            "Address": {"Value": {"Fn::GetAtt": ["Database", "Endpoint.Address"]}},
            "Port": {"Value": {"Fn::GetAtt": ["Database", "Endpoint.Port"]}},
            "Login": {"Value": {"Ref": "Login"}},
        },
    }


def _outputs(aws: Aws, stack: str) -> dict[str, Any]:
    outputs = aws.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]
    values = {output["OutputKey"]: output["OutputValue"] for output in outputs}
    login = json.loads(aws.client("secretsmanager").get_secret_value(SecretId=values["Login"])["SecretString"])
    return {"Endpoint": {"Address": values["Address"], "Port": int(values["Port"])}, "Password": login["password"]}


def test_a_stack_makes_a_database_whose_password_is_a_dynamic_reference(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-rds-dbinstance.html"""
    cloudformation = aws.client("cloudformation")
    reference = {"Fn::Sub": "{{resolve:secretsmanager:${Login}:SecretString:password}}"}
    template = _template(MasterUserPassword=reference)
    cloudformation.create_stack(StackName="rds-stack", TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName="rds-stack", WaiterConfig=SOON)
    instance = _outputs(aws, "rds-stack")
    with connect(instance, instance["Password"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS answer")

    template = _template(MasterUserPassword="short")
    cloudformation.update_stack(StackName="rds-stack", TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_rollback_complete").wait(StackName="rds-stack", WaiterConfig=SOON)
    connect(instance, instance["Password"]).close()

    template = _template(MasterUserPassword="second-Passw0rd", BackupRetentionPeriod=3)
    cloudformation.update_stack(StackName="rds-stack", TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_update_complete").wait(StackName="rds-stack", WaiterConfig=SOON)
    assert _outputs(aws, "rds-stack")["Endpoint"] == instance["Endpoint"]
    with connect(instance, "second-Passw0rd") as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (7,)

    cloudformation.delete_stack(StackName="rds-stack")
    cloudformation.get_waiter("stack_delete_complete").wait(StackName="rds-stack", WaiterConfig=SOON)
    assert not listens(instance)


def test_a_stack_names_the_managed_secret_and_keeps_a_final_snapshot(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-rds-dbinstance-masterusersecret.html"""
    cloudformation, rds = aws.client("cloudformation"), aws.client("rds")
    template = _template(ManageMasterUserPassword=True)
    template["Resources"]["Database"]["DeletionPolicy"] = "Snapshot"
    template["Outputs"]["Login"] = {"Value": {"Fn::GetAtt": ["Database", "MasterUserSecret.SecretArn"]}}
    cloudformation.create_stack(StackName="rds-managed", TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName="rds-managed", WaiterConfig=SOON)
    instance = _outputs(aws, "rds-managed")
    with connect(instance, instance["Password"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS answer")
    name = cloudformation.describe_stack_resource(StackName="rds-managed", LogicalResourceId="Database")
    identifier = name["StackResourceDetail"]["PhysicalResourceId"]
    cloudformation.delete_stack(StackName="rds-managed")
    cloudformation.get_waiter("stack_delete_complete").wait(StackName="rds-managed", WaiterConfig=SOON)
    snapshots = [
        snapshot["DBSnapshotIdentifier"]
        for snapshot in rds.describe_db_snapshots()["DBSnapshots"]
        if snapshot["DBInstanceIdentifier"] == identifier
    ]
    assert len(snapshots) == 1

    template = _template(DBSnapshotIdentifier=snapshots[0])
    for inherited in ("MasterUsername", "DBName"):
        del template["Resources"]["Database"]["Properties"][inherited]
    cloudformation.create_stack(StackName="rds-revived", TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName="rds-revived", WaiterConfig=SOON)
    with connect(_outputs(aws, "rds-revived"), instance["Password"]) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (7,)
    cloudformation.delete_stack(StackName="rds-revived")
    cloudformation.get_waiter("stack_delete_complete").wait(StackName="rds-revived", WaiterConfig=SOON)


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param({"MasterUserPassword": "short"}, id="password"),
        pytest.param({"MasterUsername": "admin", "MasterUserPassword": PASSWORD}, id="reserved user"),
        pytest.param({"DBName": "template1", "MasterUserPassword": PASSWORD}, id="database that exists"),
        pytest.param({"DBSnapshotIdentifier": "no-such-snapshot"}, id="snapshot"),
    ],
)
def test_a_stack_with_an_impossible_instance_rolls_back(aws: Aws, properties: dict[str, str]) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/stack-failure-options.html"""
    cloudformation = aws.client("cloudformation")
    stack = f"rds-wrong-{next(iter(properties)).lower()}"
    cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps(_template(**properties)))
    with pytest.raises(WaiterError):
        cloudformation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig=SOON)
    status = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
    assert status == "ROLLBACK_COMPLETE"


def _wait_for_status(aws: Aws, name: str, status: str) -> None:
    deadline = time.monotonic() + 15
    rds = aws.client("rds")
    while rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0]["DBInstanceStatus"] != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)
