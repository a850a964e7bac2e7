"""Labels of a person: the sheet that keeps them, and the page to write them on."""

from semfocus_plugin.labelling._page import page, thumbnail
from semfocus_plugin.labelling._sheet import COLUMNS, Row, for_review, propose, read_sheet, write_sheet

__all__ = ["COLUMNS", "Row", "for_review", "page", "propose", "read_sheet", "thumbnail", "write_sheet"]
