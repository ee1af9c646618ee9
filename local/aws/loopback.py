"""Every listener of the embedded AWS is on loopback, but for the main port where the command line says otherwise.

The emulator's main port can be bound there by its settings; some of its other listeners (IoT MQTT, Aurora DSQL) ask for
all interfaces and leave no choice. Whatever else this process binds to all interfaces is bound to loopback instead.
"""

from __future__ import annotations

import os
import socket
from typing import Any

_ALL_INTERFACES = {socket.AF_INET: ("", "0.0.0.0"), socket.AF_INET6: ("", "::")}  # noqa: S104 - what is refused
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_MAIN = (os.environ.get("BIND_HOST"), int(os.environ.get("GATEWAY_PORT", "0")))
_bind = socket.socket.bind


def _bind_to_loopback(self: socket.socket, address: Any) -> None:
    if address[0] in _ALL_INTERFACES.get(self.family, ()) and address[:2] != _MAIN:
        address = (_LOOPBACK[self.family], *address[1:])
    _bind(self, address)


socket.socket.bind = _bind_to_loopback  # type: ignore[method-assign, assignment]
