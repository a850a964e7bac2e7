"""What stands between a run and a sharp picture that no working distance can mend."""

from __future__ import annotations

from collections.abc import Sequence

from semfocus_plugin.optics._astigmatism import Astigmatism, astigmatism
from semfocus_plugin.optics._nominal import TUNGSTEN
from semfocus_plugin.optics._relief import Relief, relief
from semfocus_plugin.optics._views import View


def finding(
    views: Sequence[View], focus: float, *, aperture: float | None = None, core: float = TUNGSTEN
) -> Astigmatism | Relief | None:
    """Return what a person should know about the frames of a run, or None.

    Astigmatism comes first: where there is some, relief shows better once it has been corrected.

    Parameters
    ----------
    views, focus, aperture, core
        As in `semfocus_plugin.optics.astigmatism`.

    Raises
    ------
    InvalidParameterError
        For lengths that are not above 0, or frames of several shapes or pixel sizes.
    """
    return astigmatism(views, focus, aperture=aperture, core=core) or relief(views, focus, aperture=aperture, core=core)
