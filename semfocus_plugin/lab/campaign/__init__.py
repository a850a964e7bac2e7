"""Runs under faults, and what must never happen in one: ``python -m semfocus_plugin.lab.campaign --runs 300``.

Every fault of the emulator alone, then in pairs, then at random, in turn over all `LINKS`. A run focuses the instrument
and takes a picture. Focus and picture are compared with the sample, and with what the instrument says of itself. A run
is known by its number and the seed: the same two are the same run.
"""

from semfocus_plugin.lab.campaign._runs import FORBIDDEN, LINKS, Run, carry_out, faults_of, table

__all__ = ["FORBIDDEN", "LINKS", "Run", "carry_out", "faults_of", "table"]
