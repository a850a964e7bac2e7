"""Files: pictures, OME-XML, makers' metadata, tables, plots, plain values. They know arrays and plain values alone."""

from semdrivers.files._atomic import check_free, naming, replacing
from semdrivers.files._json import parse_json, read_json
from semdrivers.files._omexml import conditions_of, describe
from semdrivers.files._pictures import page_count, read_pixels, tiff_bit_depth, tiff_description
from semdrivers.files._plain import plain
from semdrivers.files._plotting import (
    draw_result,
    draw_scale_bar,
    plot_before_after,
    plot_calibration,
    plot_focus_map,
    plot_result,
    result_figure,
)
from semdrivers.files._report import Entry, Picture, plot_pair, report_fragment, report_page
from semdrivers.files._tables import TableRow, composed, named_file, read_table, table_columns
from semdrivers.files._text import counted, decimal, decoded
from semdrivers.files._vendors import vendor_conditions

__all__ = [
    "Entry", "Picture", "TableRow", "check_free", "composed", "conditions_of", "counted", "decimal", "decoded",
    "describe", "draw_result", "draw_scale_bar", "named_file", "naming", "page_count", "parse_json", "plain",
    "plot_before_after", "plot_calibration", "plot_focus_map", "plot_pair", "plot_result", "read_json", "read_pixels",
    "read_table", "replacing", "report_fragment", "report_page", "result_figure", "table_columns", "tiff_bit_depth",
    "tiff_description", "vendor_conditions",
]  # fmt: skip
