"""TESCAN microscopes over SharkSEM, the maker's remote control: control and pictures over two TCP connections."""

from semdrivers.tescan._driver import Tescan, connect

__all__ = ["Tescan", "connect"]
