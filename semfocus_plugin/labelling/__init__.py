"""Labels of a person: the sheet that keeps them, and the page to write them on."""

from semfocus_plugin.labelling._page import Preview, page, preview, preview_of, rows_of, served_page
from semfocus_plugin.labelling._sheet import COLUMNS, Row, for_review, propose, read_sheet, write_sheet

__all__ = [
    "COLUMNS", "Preview", "Row", "for_review", "page", "preview", "preview_of", "propose", "read_sheet", "rows_of",
    "served_page", "write_sheet",
]  # fmt: skip
