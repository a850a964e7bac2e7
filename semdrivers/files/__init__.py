"""Files: pictures, OME-XML, plots, plain values. They know arrays and plain values, and no microscope."""

from semdrivers.files._atomic import replacing
from semdrivers.files._omexml import conditions_of, describe
from semdrivers.files._pictures import read_pixels, tiff_description
from semdrivers.files._plain import plain
from semdrivers.files._plotting import draw_scale_bar, plot_before_after, plot_result

__all__ = [
    "conditions_of",
    "describe",
    "draw_scale_bar",
    "plain",
    "plot_before_after",
    "plot_result",
    "read_pixels",
    "replacing",
    "tiff_description",
]
