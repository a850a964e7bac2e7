"""Where the instrument listens."""

__all__ = ["CONTROL_PORT"]

CONTROL_PORT = 5030
"""TCP port of the control channel (assumed; the vendor's is not public)."""
