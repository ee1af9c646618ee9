"""The provider's CloudFormation hook with a waiter that knows every state of a stack."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.amazon.aws.hooks.cloud_formation import CloudFormationHook

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient


class StackHook(CloudFormationHook):
    """The provider's hook plus the ``stack_settled`` waiter.

    ``stack_settled`` ends when the status no longer ends in ``_IN_PROGRESS``, whatever the operation was; the
    stock waiters know one operation each and overlook some of its ends. States:
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
    """

    @cached_property
    def waiter_path(self) -> Path:
        """The waiter model, looked up by the provider's ``get_waiter``."""
        return Path(__file__).with_name("cloudformation_waiters.json")

    @property
    def client(self) -> CloudFormationClient:
        """The CloudFormation client of the connection."""
        return self.get_conn()
