"""The paper's numbers: Lee et al., Robust autofocusing for scanning electron microscopy based on a dual deep learning
network, Scientific Reports (2021), doi 10.1038/s41598-021-00412-5, CC BY 4.0.

Its networks scored its own images of its own instrument: another ruler than ours, shown beside ours, no limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["ACNET", "AENET", "AENET_TRAINING_ACCURACY", "CITATION", "EXPERTS", "ONLINE", "Published", "Row"]

CITATION = "Lee et al., Scientific Reports (2021), doi 10.1038/s41598-021-00412-5"
"""The paper."""


@dataclass(frozen=True, slots=True)
class Published:
    """A number of the paper.

    Parameters
    ----------
    value : float
        Mean.
    spread : float or None
        What the paper gives behind ±.
    """

    value: float
    spread: float | None = None


Row = Mapping[str, Published]
"""By specimen."""

_TRAINED = ("tin-balls", "tem-grid", "gold-nanoparticles")
_ALL = (*_TRAINED, "butterfly-wing", "fabric")


def _row(*values: tuple[float, float] | float) -> Row:
    numbers = [Published(*value) if isinstance(value, tuple) else Published(value) for value in values]
    return MappingProxyType(dict(zip(_ALL, numbers, strict=False)))


AENET: Mapping[str, Row] = MappingProxyType(
    {
        "mse": _row((0.047, 0.017), (0.045, 0.021), (0.071, 0.032)),
        "accuracy": _row((0.920, 0.428), (0.880, 0.423), (0.731, 0.325)),
        "precision": _row((0.943, 0.351), (0.944, 0.452), (0.931, 0.423)),
        "correlation": _row(0.974, 0.978, 0.975),
    }
)
"""Table 1, upper part; the correlation from the text and Fig. 4a."""

ACNET: Mapping[str, Row] = MappingProxyType(
    {
        "selected_score": _row((8.468, 1.015), (8.605, 0.899), (7.788, 1.380)),
        "score_gap": _row((0.158, 0.414), (0.152, 0.310), (0.068, 0.071)),
        "iterations": _row((9.100, 4.154), (9.100, 4.128), (9.947, 4.075)),
        "squared_error": _row((0.020, 0.008), (0.021, 0.012), (0.001, 0.000)),
    }
)
"""Table 1, lower part."""

ONLINE: Mapping[str, Row] = MappingProxyType(
    {
        "selected_score": _row((8.534, 1.071), (8.568, 0.564), (7.458, 1.002)),
        "iterations": _row((10.743, 6.128), (13.300, 5.424), (10.574, 3.511)),
    }
)
"""Table 2."""

EXPERTS: Mapping[str, Row] = MappingProxyType(
    {
        "autofocus": _row((8.814, 0.255), (8.480, 0.456), (7.977, 0.999), (6.528, 0.632), (6.406, 0.695)),
        "reference": _row((8.773, 0.312), (8.520, 0.431), (7.250, 0.495), (7.314, 0.789), (7.440, 0.622)),
    }
)
"""Table 3. The reference is the picture that experts chose."""

AENET_TRAINING_ACCURACY = 0.8
""""Around 80 %", the text on Fig. 3b."""
