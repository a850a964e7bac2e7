"""The server: an instrument shared over HTTP, with a page to look at. Needs the extra ``view``."""

from semfocus_plugin.server._desk import LEASE, Desk, Frame, NoControlError, Run
from semfocus_plugin.server._serving import LOOPBACK, Shared, sharing

__all__ = ["LEASE", "LOOPBACK", "Desk", "Frame", "NoControlError", "Run", "Shared", "sharing"]
