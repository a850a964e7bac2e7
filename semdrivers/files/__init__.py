"""Files: what programs of other makers write about pictures, and tables as spreadsheets save them.

Modules of this package know arrays and plain values, and no microscope.
"""

from semdrivers.files._text import decimal, decoded
from semdrivers.files._vendors import vendor_conditions

__all__ = ["decimal", "decoded", "vendor_conditions"]
