"""Where the instrument listens."""

CONTROL_PORT = 5030
"""TCP port of the control channel (assumed; the vendor's is not public)."""
