"""Every listener of the embedded AWS is on loopback.

The emulator's main port can be bound there by its settings; some of its other listeners (IoT MQTT, Aurora DSQL) ask for
all interfaces and leave no choice. Whatever this process binds to all interfaces is bound to loopback instead.
"""

from __future__ import annotations

import socket
from typing import Any

_ALL_INTERFACES = {socket.AF_INET: ("", "0.0.0.0"), socket.AF_INET6: ("", "::")}  # noqa: S104 - what is refused
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_bind = socket.socket.bind


def _bind_to_loopback(self: socket.socket, address: Any) -> None:
    if address[0] in _ALL_INTERFACES.get(self.family, ()):
        address = (_LOOPBACK[self.family], *address[1:])
    _bind(self, address)


socket.socket.bind = _bind_to_loopback  # type: ignore[method-assign, assignment]
