"""Proof that a client knows the instrument's token, which itself never travels: HMAC-SHA-256 over a challenge.

See ``spec.md``, section *Authentication*. The control channel and the USB bridge use the same proof.
"""

from __future__ import annotations

import hmac
import secrets

__all__ = ["BRIDGE_SESSION", "CHALLENGE_SIZE", "PROOF_SIZE", "is_proof", "new_challenge", "proof_of"]

CHALLENGE_SIZE = 32
"""Bytes of a challenge, drawn at random for every proof."""
PROOF_SIZE = 32
"""Bytes of a proof."""
BRIDGE_SESSION = 0
"""Stands for the session number in a proof for the USB bridge, which has none."""

_LABEL = b"EM-30 authentication 1"


def new_challenge() -> bytes:
    """Return `CHALLENGE_SIZE` random bytes."""
    return secrets.token_bytes(CHALLENGE_SIZE)


def proof_of(token: str, challenge: bytes, session: int) -> bytes:
    """Return the proof that its sender knows the token.

    Parameters
    ----------
    token : str
        Shared by instrument and client.
    challenge : bytes
        As the instrument sent it.
    session : int
        The number that HELLO calls `token`, or `BRIDGE_SESSION`.
    """
    return hmac.digest(token.encode(), _LABEL + challenge + session.to_bytes(8, "little"), "sha256")


def is_proof(given: bytes, token: str, challenge: bytes, session: int) -> bool:
    """Return whether `given` is that proof; takes the same time wherever the first difference is."""
    return hmac.compare_digest(given, proof_of(token, challenge, session))
