"""Learned autofocus for scanning electron microscopes, as a plugin of `semdrivers`."""

from semfocus_plugin.networks import score

__all__ = ["score"]
