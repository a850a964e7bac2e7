"""Files: what programs of other makers write about pictures, and tables as spreadsheets save them.

Modules of this package know arrays and plain values, and no microscope.
"""

from semdrivers.files._tables import TableRow, read_table, table_columns
from semdrivers.files._text import decimal, decoded
from semdrivers.files._vendors import vendor_conditions

__all__ = ["TableRow", "decimal", "decoded", "read_table", "table_columns", "vendor_conditions"]
