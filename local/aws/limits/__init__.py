"""What AWS refuses because it is too much: off unless the server's environment has ``ATLAS_LIMITS=1``.

``kinesis`` holds what a shard takes and gives per second, ``capacity`` what a table with provisioned capacity does,
``conflicts`` what two transactions on one item do. They are off by default because a laptop's load is to run as fast as
the laptop can, and because a limit is a matter of the clock: two equal runs would differ.
"""

from __future__ import annotations

import os

if os.environ.get("ATLAS_LIMITS") == "1":
    from local.aws.limits import capacity, conflicts, kinesis

    __all__ = ["capacity", "conflicts", "kinesis"]
