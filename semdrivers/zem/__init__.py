"""ZepTools' desktop SEMs: commands over UDP, pictures over TCP."""

from semdrivers.zem._driver import Zem, connect

__all__ = ["Zem", "connect"]
