"""Results in pages: ``MaxResults`` and ``NextToken``."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TypeVar

from local.aws.emulator import AwsError, Payload

_Item = TypeVar("_Item")


def page(items: list[_Item], request: Payload, most: int) -> tuple[list[_Item], Payload]:
    """Return the items of the page ``request`` asks for, at most ``most``, and the members that lead to the next.

    Raises:
        AwsError: InvalidInputException for a token that did not come from here.
    """
    start = 0
    if token := request.get("NextToken"):
        try:
            start = int(urlsafe_b64decode(token))
        except ValueError:
            raise AwsError("InvalidInputException", "Invalid NextToken.") from None
    end = start + min(request.get("MaxResults") or most, most)
    following = {"NextToken": urlsafe_b64encode(str(end).encode()).decode()} if end < len(items) else {}
    return items[start:end], following
