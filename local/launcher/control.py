"""Controls a running embedded AWS itself: its faults and its clock."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from local.launcher import LauncherError, processes


def exchange(endpoint: str, name: str, content: Any = None) -> Any:
    """Put ``content`` at ``/_atlas/<name>``, or only look, and return what is there.

    Raises:
        LauncherError: it cannot be put; says why.
    """
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(  # noqa: S310 - always loopback
        f"{endpoint}/_atlas/{name}", body, method="GET" if content is None else "PUT"
    )
    try:
        with processes.OPENER.open(request, timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise LauncherError(f"The embedded AWS refused its {name}: {json.load(error)['message']}") from error
