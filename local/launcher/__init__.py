"""Set-up, start and stop of everything a laptop needs.

``layout``, ``environments`` and ``progress`` use the standard library only: they run before anything is installed.
"""

from __future__ import annotations


class LauncherError(RuntimeError):
    """Something the user can put right; the message is one line that says how."""
