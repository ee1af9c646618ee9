"""Amazon Redshift: Redshift Serverless and the Data API on PostgreSQL, one server per namespace.

Redshift SQL is translated (``translate``) or run step by step (``session``); what neither knows is refused by name.
Clients of the wire protocol reach PostgreSQL itself: they have Redshift's functions and system views, not its
statements. Provisioned clusters are not served.
"""

from local.aws.redshift import cloudformation, data, serverless

__all__ = ["cloudformation", "data", "serverless"]
