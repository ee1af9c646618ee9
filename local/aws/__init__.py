"""The embedded AWS: MiniStack extended in-process, one module per service.

A service module talks to other services through the public AWS API on loopback (``emulator.client``) and to
MiniStack only through ``local.aws.emulator``, the one file that knows the emulator's insides.
"""
