"""DynamoDB: what requests cost, what a table was, what it loses by itself, and what templates say of it.

``capacity`` measures requests. ``history`` keeps the changes of tables with point-in-time recovery, from which
``recovery`` restores tables and ``exports`` writes them to S3. ``expiry`` deletes items whose time to live has passed.
``tables`` applies the settings of a template that the emulator's provisioner drops.
"""

from local.aws.dynamodb import capacity, expiry, exports, history, recovery, tables

__all__ = ["capacity", "expiry", "exports", "history", "recovery", "tables"]
