"""Redshift Serverless and the Data API: warehouses, logins, statements, permissions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from tests.conformance import warehouse as warehouses
from tests.conformance.test_cloudformation import create as create_stack
from tests.conformance.test_cloudformation import failures, resource, settled
from tests.conformance.test_iam import allow, denied, role, unique, user
from tests.conformance.warehouse import REDSHIFT, Warehouse, available, fetched
from tests.conftest import Aws

DATA_ACTIONS = [
    f"redshift-data:{name}"
    for name in ("ExecuteStatement", "BatchExecuteStatement", "DescribeStatement", "GetStatementResult")
]


@pytest.fixture(scope="module")
def warehouse(aws: Aws) -> Iterator[Warehouse]:
    made = warehouses.create(aws)
    yield made
    warehouses.remove(made)


def refused(code: str, call: Any, **arguments: Any) -> str:
    """Return the message with which ``call`` is refused for the reason ``code``."""
    with pytest.raises(ClientError) as failure:
        call(**arguments)
    error = failure.value.response["Error"]
    assert error["Code"] == code, error
    return str(error["Message"])


def member(aws: Aws, warehouse: Warehouse, *actions: str) -> dict[str, Any]:
    """Return the keys of a user who may run statements on the warehouse, by these actions or by all it takes."""
    chosen = list(actions) or [*DATA_ACTIONS, "redshift-serverless:GetCredentials"]
    return user(aws, allow(chosen, "*"))


def connect(warehouse: Warehouse, name: str, password: str) -> psycopg.Connection[tuple[Any, ...]]:
    endpoint = available(warehouse.aws, warehouse.name)["endpoint"]
    return psycopg.connect(
        host=endpoint["address"], port=endpoint["port"], user=name, password=password, dbname="shop", sslmode="require"
    )


# Namespaces and workgroups ----------------------------------------------------------------------------------------


def test_a_workgroup_is_a_database_until_it_is_deleted_and_the_namespace_keeps_the_data(aws: Aws) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/serverless-workgroup-namespace.html"""
    made = warehouses.create(aws)
    serverless = aws.client("redshift-serverless")
    made.do("CREATE TABLE kept (id INT)", "INSERT INTO kept VALUES (7)")
    assert "workgroup" in refused("ConflictException", serverless.delete_namespace, namespaceName=made.name)
    serverless.delete_workgroup(workgroupName=made.name)
    refused("ResourceNotFoundException", serverless.get_workgroup, workgroupName=made.name)
    refused("ValidationException", made.data.execute_statement, Sql="SELECT 1", **made.login)
    created = serverless.create_workgroup(workgroupName=made.name, namespaceName=made.name)["workgroup"]
    assert (created["status"], created["baseCapacity"]) == ("CREATING", 128)
    available(aws, made.name)
    assert made.rows("SELECT * FROM kept") == [[7]]
    warehouses.remove(made)
    refused("ResourceNotFoundException", serverless.get_namespace, namespaceName=made.name)


def test_a_managed_password_is_a_secret_that_logs_in(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/redshift-secrets-manager-integration.html"""
    answer = warehouse.aws.client("secretsmanager").get_secret_value(SecretId=warehouse.secret)
    assert answer["Name"] == f"redshift!{warehouse.name}-shop_admin"
    login = json.loads(answer["SecretString"])
    with connect(warehouse, login["username"], login["password"]) as connection:
        assert connection.execute(
            "SELECT current_user, dateadd('day', 1, date '2024-02-28')::date::text"
        ).fetchone() == (
            "shop_admin",
            "2024-02-29",
        )
    assert warehouse.rows("SELECT current_user", SecretArn=warehouse.secret) == [["shop_admin"]]


def test_get_credentials_gives_the_caller_a_login_of_its_own(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/API_GetCredentials.html"""
    keys = member(aws, warehouse)
    login = aws.client("redshift-serverless", keys).get_credentials(workgroupName=warehouse.name, dbName="shop")
    assert login["dbUser"] == f"IAM:{keys['UserName']}"
    with connect(warehouse, login["dbUser"], login["dbPassword"]) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (login["dbUser"],)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(warehouse, login["dbUser"], "wrong")
    message = denied(lambda: aws.client("redshift-serverless", user(aws)).get_credentials(workgroupName=warehouse.name))
    assert "redshift-serverless:GetCredentials" in message


def test_what_a_namespace_and_a_workgroup_are_refused_for(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/API_CreateWorkgroup.html"""
    serverless, name = aws.client("redshift-serverless"), unique("refused")
    weak = {"adminUsername": "boss", "adminUserPassword": "alllowercase1"}
    refused("ValidationException", serverless.create_namespace, namespaceName=name, **weak)
    other = "arn:aws:iam::000000000000:role/other"
    refused("ValidationException", serverless.create_namespace, namespaceName=name, defaultIamRoleArn=other)
    refused("ConflictException", serverless.create_namespace, namespaceName=warehouse.name)
    for settings in ({"baseCapacity": 12}, {"subnetIds": ["subnet-1", "subnet-2"]}):
        refused("ValidationException", serverless.create_workgroup, workgroupName=name, namespaceName=name, **settings)
    refused("ConflictException", serverless.create_workgroup, workgroupName=name, namespaceName=warehouse.name)


def test_a_role_of_a_namespace_must_be_passed(aws: Aws) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html"""
    loader = role(aws, REDSHIFT)
    creator = allow("redshift-serverless:*", "*")
    name = unique("passed")
    weak = aws.client("redshift-serverless", user(aws, creator))
    assert "iam:PassRole" in denied(lambda: weak.create_namespace(namespaceName=name, iamRoles=[loader]))
    passing = allow("iam:PassRole", loader, StringEquals={"iam:PassedToService": REDSHIFT})
    strong = aws.client("redshift-serverless", user(aws, creator, passing))
    assert strong.create_namespace(namespaceName=name, iamRoles=[loader])["namespace"]["iamRoles"] == [loader]
    managed = {"adminUsername": "boss", "manageAdminPassword": True}
    assert "secretsmanager:CreateSecret" in denied(
        lambda: strong.create_namespace(namespaceName=unique("managed"), **managed)
    )
    strong.delete_namespace(namespaceName=name)


def test_a_stack_makes_changes_and_removes_a_warehouse(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-redshiftserverless-workgroup.html"""
    name, loader = unique("stack"), role(aws, REDSHIFT)

    def template(*roles: str) -> str:
        resources = {
            "N": resource(
                "AWS::RedshiftServerless::Namespace",
                NamespaceName=name,
                DbName="shop",
                AdminUsername="boss",
                ManageAdminPassword=True,
                IamRoles=list(roles),
                Tags=[{"Key": "team", "Value": "sales"}],
            ),
            "W": resource(
                "AWS::RedshiftServerless::Workgroup", WorkgroupName=name, NamespaceName={"Ref": "N"}, BaseCapacity=8
            ),
        }
        outputs = {
            "Arn": {"Value": {"Fn::GetAtt": ["W", "Workgroup.WorkgroupArn"]}},
            "Address": {"Value": {"Fn::GetAtt": ["W", "Workgroup.Endpoint.Address"]}},
            "Namespace": {"Value": {"Fn::GetAtt": ["N", "Namespace.NamespaceId"]}},
            "Ref": {"Value": {"Ref": "W"}},
        }
        return json.dumps({"Resources": resources, "Outputs": outputs})

    client, serverless = aws.client("cloudformation"), aws.client("redshift-serverless")
    weak = create_stack(aws.client("cloudformation", user(aws, allow("cloudformation:*", "*"))), template())
    assert "redshift-serverless:CreateNamespace" in failures(client, weak["StackId"])["N"]
    stack = create_stack(client, template())
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    workgroup = serverless.get_workgroup(workgroupName=name)["workgroup"]
    assert (outputs["Ref"], outputs["Arn"]) == (name, workgroup["workgroupArn"])
    assert outputs["Address"] == workgroup["endpoint"]["address"]
    namespace = serverless.get_namespace(namespaceName=name)["namespace"]
    assert outputs["Namespace"] == namespace["namespaceId"]
    tags = serverless.list_tags_for_resource(resourceArn=namespace["namespaceArn"])["tags"]
    assert {"key": "team", "value": "sales"} in tags
    client.update_stack(StackName=stack["StackName"], TemplateBody=template(loader))
    assert settled(client, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    assert serverless.get_namespace(namespaceName=name)["namespace"]["iamRoles"] == [loader]
    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    refused("ResourceNotFoundException", serverless.get_namespace, namespaceName=name)


# Statements -------------------------------------------------------------------------------------------------------


def test_a_statement_ends_with_rows_types_and_counts(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_GetStatementResult.html"""
    warehouse.do(
        "CREATE TABLE typed (i INT, b BIGINT, d DECIMAL(12, 2), f FLOAT, v VARCHAR(20), t TIMESTAMP, o BOOLEAN, "
        "s SUPER)",
        "INSERT INTO typed VALUES (1, 2, 3.5, 0.25, 'café', '2024-01-02 03:04:05', true, JSON_PARSE('{\"a\":1}'))",
    )
    statement = warehouse.run("SELECT *, NULL::INT AS nothing FROM typed")
    assert (statement["ResultRows"], statement["HasResultSet"], statement["WorkgroupName"]) == (1, True, warehouse.name)
    assert statement["Duration"] > 0
    result = warehouse.data.get_statement_result(Id=statement["Id"])
    assert result["Records"] == [
        [
            {"longValue": 1},
            {"longValue": 2},
            {"stringValue": "3.50"},
            {"doubleValue": 0.25},
            {"stringValue": "café"},
            {"stringValue": "2024-01-02 03:04:05"},
            {"booleanValue": True},
            {"stringValue": '{"a": 1}'},
            {"isNull": True},
        ]
    ]
    columns = result["ColumnMetadata"]
    kinds = ["int4", "int8", "numeric", "float8", "varchar", "timestamp", "bool", "super", "int4"]
    assert [column["typeName"] for column in columns] == kinds
    assert (columns[2]["precision"], columns[2]["scale"], columns[2]["tableName"]) == (12, 2, "typed")
    changed = warehouse.run("UPDATE typed SET i = 5")
    assert (changed["ResultRows"], changed["HasResultSet"]) == (1, False)
    refused("ResourceNotFoundException", warehouse.data.get_statement_result, Id=changed["Id"])


def test_a_long_result_comes_in_pages(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_GetStatementResult.html"""
    query = (
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2500) "
        "SELECT n FROM numbers ORDER BY n"
    )
    statement = warehouse.run(query)
    first = warehouse.data.get_statement_result(Id=statement["Id"])
    assert first["TotalNumRows"] == 2500
    assert 0 < len(first["Records"]) < 2500
    assert [row[0] for row in fetched(warehouse.data, statement["Id"])] == list(range(1, 2501))
    as_csv = warehouse.run(query + " LIMIT 3", ResultFormat="CSV")
    [page] = warehouse.data.get_statement_result_v2(Id=as_csv["Id"])["Records"]
    assert page["CSVRecords"].split() == ["1", "2", "3"]


def test_a_failed_statement_says_why(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_DescribeStatement.html"""
    assert warehouse.error("SELECT * FROM nowhere") == 'ERROR: relation "nowhere" does not exist'
    assert "nothere" in warehouse.error("SELECT nothere FROM (SELECT 1 AS one) q")
    assert "syntax error" in warehouse.error("SELEC 1")
    assert "multiple commands" in warehouse.error("SELECT 1; SELECT 2")
    assert 'database "nodb" does not exist' in warehouse.error("SELECT 1", Database="nodb")


def test_a_batch_is_one_transaction(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_BatchExecuteStatement.html"""
    done = warehouse.batch(
        "CREATE TABLE together (id INT)", "INSERT INTO together VALUES (1)", "SELECT id FROM together"
    )
    assert done["Status"] == "FINISHED"
    parts = done["SubStatements"]
    assert [part["Id"] for part in parts] == [f"{done['Id']}:{n}" for n in (1, 2, 3)]
    assert [part["HasResultSet"] for part in parts] == [False, False, True]
    assert fetched(warehouse.data, f"{done['Id']}:3") == [[1]]
    failed = warehouse.batch("INSERT INTO together VALUES (2)", "SELECT 1 / 0", "INSERT INTO together VALUES (3)")
    assert failed["Status"] == "FAILED"
    assert failed["Error"].startswith("Query #2 failed with ERROR: division by zero")
    assert [part["Status"] for part in failed["SubStatements"]] == ["FINISHED", "FAILED", "ABORTED"]
    assert warehouse.rows("SELECT id FROM together") == [[1]]


def test_truncate_commits_what_came_before_it_in_a_batch(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_TRUNCATE.html"""
    warehouse.do("CREATE TABLE emptied (id INT)", "CREATE TABLE noted (id INT)", "INSERT INTO emptied VALUES (1)")
    failed = warehouse.batch(
        "INSERT INTO noted VALUES (1)", "TRUNCATE emptied", "INSERT INTO noted VALUES (2)", "SELECT 1/0"
    )
    assert failed["Status"] == "FAILED"
    assert warehouse.rows("SELECT id FROM noted") == [[1]]
    assert warehouse.rows("SELECT id FROM emptied") == []


@pytest.mark.parametrize("sql", ["BEGIN", "COMMIT", "ROLLBACK"])
def test_transactions_are_not_the_callers(warehouse: Warehouse, sql: str) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api.html"""
    failed = warehouse.batch(sql, "SELECT 1")
    assert failed["Status"] == "FAILED"
    assert sql in failed["Error"]


def test_named_parameters_are_values_not_sql(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-calling-considerations-parameters.html"""
    evil = "it's :a \\ '; DROP TABLE x"
    sql = "SELECT :text::VARCHAR(99), ':text', :number::INT + 1 -- :comment\n"
    given = [{"name": "text", "value": evil}, {"name": "number", "value": "41"}]
    assert warehouse.rows(sql, Parameters=given) == [[evil, ":text", 42]]
    start = warehouse.data.execute_statement
    unused = [{"name": "other", "value": "1"}]
    assert "other" in refused("ValidationException", start, Sql="SELECT 1", Parameters=unused, **warehouse.login)
    missing = refused(
        "ValidationException", start, Sql="SELECT :a, :b", Parameters=[{"name": "a", "value": "1"}], **warehouse.login
    )
    assert "b" in missing


def test_a_client_token_starts_a_statement_once(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-calling-considerations-idempotency.html"""
    warehouse.do("CREATE TABLE once (id INT)")
    request = {"Sqls": ["INSERT INTO once VALUES (1)"], "ClientToken": unique("token"), **warehouse.login}
    first = warehouse.data.batch_execute_statement(**request)
    second = warehouse.data.batch_execute_statement(**request)
    assert first["Id"] == second["Id"]
    warehouse.ended(first["Id"])
    assert warehouse.value("SELECT COUNT(*) FROM once") == 1
    refused("ValidationException", warehouse.data.batch_execute_statement, **request | {"Sqls": ["SELECT 1"]})


def test_a_cancelled_statement_stops(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_CancelStatement.html"""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    started = warehouse.data.execute_statement(Sql=endless, **warehouse.login)
    deadline = time.monotonic() + 10
    while warehouse.data.describe_statement(Id=started["Id"])["Status"] != "STARTED" and time.monotonic() < deadline:
        time.sleep(0.02)
    running = "SELECT COUNT(*) FROM pg_stat_activity WHERE query LIKE 'WITH RECURSIVE n(i)%' AND state = 'active'"
    assert warehouse.rows(running, SecretArn=warehouse.secret) == [[1]]
    assert warehouse.data.cancel_statement(Id=started["Id"])["Status"] is True
    assert warehouse.ended(started["Id"])["Status"] == "ABORTED"
    while (left := warehouse.rows(running, SecretArn=warehouse.secret)) != [[0]] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [[0]]
    assert "ABORTED" in refused("ValidationException", warehouse.data.cancel_statement, Id=started["Id"])


def test_the_end_of_a_statement_is_an_event_if_asked_for(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-monitoring-events.html"""
    name, sqs, events = unique("ended"), aws.client("sqs"), aws.client("events")
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [{**policy, "Resource": queue}]})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": document})
    pattern = {"source": ["aws.redshift-data"], "detail": {"statementName": [name]}}
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": queue}])
    failed = warehouse.run("SELECT 1 / 0", StatementName=name, WithEvent=True)
    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    event = json.loads(message["Body"])
    assert event["detail-type"] == "Redshift Data Statement Status Change"
    assert (event["detail"]["statementId"], event["detail"]["state"]) == (failed["Id"], "FAILED")


def test_limits_of_a_request(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api.html"""
    data = warehouse.data
    long = f"SELECT '{'x' * 100_000}'"
    refused("ValidationException", data.execute_statement, Sql=long, **warehouse.login)
    refused("ValidationException", data.execute_statement, Sql="SELECT 1", WorkgroupName="nowhere", Database="shop")
    refused("ValidationException", data.execute_statement, Sql="SELECT 1", WorkgroupName=warehouse.name)
    refused("ValidationException", data.batch_execute_statement, Sqls=["SELECT 1"] * 41, **warehouse.login)
    assert "Packet for query is too large" in warehouse.error("SELECT REPEAT('x', 70000)")


def test_metadata_lists_what_there_is(warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_DescribeTable.html"""
    warehouse.do(
        "CREATE TABLE listed (id BIGINT NOT NULL, price DECIMAL(8, 2) DEFAULT 1.5)",
        "CREATE VIEW listing AS SELECT 1 AS a",
    )
    data, login = warehouse.data, warehouse.login
    assert data.list_databases(**login)["Databases"] == ["shop"]
    schemas = data.list_schemas(**login)["Schemas"]
    assert "public" in schemas
    assert "redshift_system" not in schemas
    tables = data.list_tables(SchemaPattern="public", TablePattern="list%", **login)["Tables"]
    assert [(table["name"], table["type"]) for table in tables] == [("listed", "TABLE"), ("listing", "VIEW")]
    columns = data.describe_table(Schema="public", Table="listed", **login)["ColumnList"]
    assert [(c["name"], c["typeName"], c["nullable"]) for c in columns] == [("id", "int8", 0), ("price", "numeric", 1)]
    named = unique("named")
    statement = warehouse.run("SELECT 1", StatementName=named)
    [found] = data.list_statements(StatementName=named)["Statements"]
    assert (found["Id"], found["Status"]) == (statement["Id"], "FINISHED")


# Permissions ------------------------------------------------------------------------------------------------------


def test_a_caller_without_get_credentials_runs_nothing(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-access.html"""
    weak = aws.client("redshift-data", member(aws, warehouse, *DATA_ACTIONS))
    message = denied(lambda: weak.execute_statement(Sql="SELECT 1", **warehouse.login))
    assert "redshift-serverless:GetCredentials" in message
    nobody = aws.client("redshift-data", user(aws))
    assert "redshift-data:ExecuteStatement" in denied(
        lambda: nobody.execute_statement(Sql="SELECT 1", **warehouse.login)
    )
    secret = denied(lambda: weak.execute_statement(Sql="SELECT 1", SecretArn=warehouse.secret, **warehouse.login))
    assert "secretsmanager:GetSecretValue" in secret


def test_permission_may_name_the_workgroup(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonredshiftdataapi.html"""
    workgroup = available(aws, warehouse.name)["workgroupArn"]
    actions = ["redshift-data:ExecuteStatement", "redshift-serverless:GetCredentials"]
    others = allow("redshift-data:DescribeStatement", "*")
    right = aws.client("redshift-data", user(aws, allow(actions, workgroup), others))
    assert warehouse.run("SELECT 1", right)["Status"] == "FINISHED"
    wrong = aws.client("redshift-data", user(aws, allow(actions, workgroup[:-1] + "x"), others))
    assert workgroup in denied(lambda: wrong.execute_statement(Sql="SELECT 1", **warehouse.login))


def test_a_statement_is_its_owners_alone(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-iam.html"""
    owner, other = (aws.client("redshift-data", member(aws, warehouse)) for _ in range(2))
    statement = warehouse.run("SELECT 1", owner)
    refused("ResourceNotFoundException", other.describe_statement, Id=statement["Id"])
    refused("ResourceNotFoundException", other.get_statement_result, Id=statement["Id"])


def test_an_identity_is_a_database_user_without_rights_to_what_others_have(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/serverless-iam.html"""
    keys = member(aws, warehouse)
    client = aws.client("redshift-data", keys)
    assert warehouse.rows("SELECT current_user", client) == [[f"IAM:{keys['UserName']}"]]
    warehouse.do("CREATE TABLE private (id INT)")
    assert "permission denied" in warehouse.error("SELECT * FROM private", client)
    warehouse.do(f'GRANT SELECT ON private TO "IAM:{keys["UserName"]}"')
    assert warehouse.rows("SELECT * FROM private", client) == []
    assert warehouse.run("CREATE TABLE own (id INT)", client)["Status"] == "FINISHED"
    assert "permission denied for database shop" in warehouse.error("CREATE SCHEMA mine", client)


def test_a_role_is_a_database_user_named_after_it(aws: Aws, warehouse: Warehouse) -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_ExecuteStatement.html"""
    iam, name = aws.client("iam"), unique("Analyst")
    trust = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [allow([*DATA_ACTIONS, "redshift-serverless:GetCredentials"], "*")],
    }
    iam.put_role_policy(RoleName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
    session = aws.client("sts").assume_role(RoleArn=made, RoleSessionName="any")["Credentials"]
    client = aws.client("redshift-data", session)
    assert warehouse.rows("SELECT current_user", client) == [[f"IAMR:{name}"]]
