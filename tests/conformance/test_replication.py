"""Replication of buckets: with the permissions of the role that the configuration names."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.test_firehose import bucket
from tests.conformance.test_iam import allow, denied, role, user
from tests.conftest import Aws

S3 = "s3.amazonaws.com"
OF_BUCKET = ["s3:GetReplicationConfiguration", "s3:ListBucket"]
OF_OBJECTS = ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl"]
OF_REPLICAS = ["s3:ReplicateObject", "s3:ReplicateDelete"]
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/setting-repl-config-perm-overview.html"""


class Pair:
    """Two buckets with versions, the first replicated to the second by a role that lacks the action ``missing``."""

    def __init__(self, aws: Aws, missing: str = "", service: str = S3) -> None:
        self.s3, self.source, self.destination = aws.client("s3"), bucket(aws), bucket(aws)
        for name in (self.source, self.destination):
            self.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        statements = {
            f"arn:aws:s3:::{self.source}": OF_BUCKET,
            f"arn:aws:s3:::{self.source}/*": OF_OBJECTS,
            f"arn:aws:s3:::{self.destination}/*": OF_REPLICAS,
        }
        self.role = role(
            aws,
            service,
            *(allow([each for each in actions if each != missing], where) for where, actions in statements.items()),
        )

    def configure(self, client: Any) -> None:
        """Replicate objects and delete markers, as configured by the principal of ``client``."""
        rule = {
            "Priority": 1,
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "DeleteMarkerReplication": {"Status": "Enabled"},
            "Destination": {"Bucket": f"arn:aws:s3:::{self.destination}"},
        }
        client.put_bucket_replication(Bucket=self.source, ReplicationConfiguration={"Role": self.role, "Rules": [rule]})

    def replicas(self) -> list[str]:
        """Return the keys in the destination."""
        return [each["Key"] for each in self.s3.list_objects_v2(Bucket=self.destination).get("Contents", [])]


def test_an_object_and_its_deletion_are_replicated(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/replication-status.html"""
    pair = Pair(aws)
    pair.configure(pair.s3)
    pair.s3.put_object(Bucket=pair.source, Key="day/1.csv", Body=b"1")
    assert pair.s3.head_object(Bucket=pair.source, Key="day/1.csv")["ReplicationStatus"] == "COMPLETED"
    assert pair.replicas() == ["day/1.csv"]
    pair.s3.delete_object(Bucket=pair.source, Key="day/1.csv")
    assert pair.replicas() == []


@pytest.mark.parametrize(
    ("missing", "service"),
    [*((action, S3) for action in [*OF_BUCKET, *OF_OBJECTS, "s3:ReplicateObject"]), ("", "lambda.amazonaws.com")],
)
def test_a_replica_needs_a_role_that_may_read_and_write(aws: Aws, missing: str, service: str) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/setting-repl-config-perm-overview.html"""
    pair = Pair(aws, missing, service)
    pair.configure(pair.s3)
    pair.s3.put_object(Bucket=pair.source, Key="day/1.csv", Body=b"1")
    assert pair.s3.head_object(Bucket=pair.source, Key="day/1.csv")["ReplicationStatus"] == "FAILED"
    assert pair.replicas() == []


def test_a_delete_marker_needs_its_own_permission(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/setting-repl-config-perm-overview.html"""
    pair = Pair(aws, "s3:ReplicateDelete")
    pair.configure(pair.s3)
    pair.s3.put_object(Bucket=pair.source, Key="day/1.csv", Body=b"1")
    pair.s3.delete_object(Bucket=pair.source, Key="day/1.csv")
    assert pair.replicas() == ["day/1.csv"]


def test_a_role_must_be_passed(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketReplication.html"""
    pair = Pair(aws)
    mine = allow("s3:PutReplicationConfiguration", f"arn:aws:s3:::{pair.source}")
    message = denied(lambda: pair.configure(aws.client("s3", user(aws, mine))))
    assert f"iam:PassRole on resource: {pair.role}" in message
    passing = allow("iam:PassRole", pair.role, StringEquals={"iam:PassedToService": S3})
    pair.configure(aws.client("s3", user(aws, mine, passing)))
    assert pair.s3.get_bucket_replication(Bucket=pair.source)["ReplicationConfiguration"]["Role"] == pair.role
