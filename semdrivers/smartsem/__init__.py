"""Zeiss microscopes through SmartSEM's remote control, a COM object of Windows. Not run on an instrument."""

from semdrivers.smartsem._driver import SmartSem, connect

__all__ = ["SmartSem", "connect"]
