"""What a laboratory's dashboard counts, for Prometheus."""

from __future__ import annotations

from semdrivers import Image


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter

        self.registry = CollectorRegistry()
        self._runs = Counter(
            "semfocus_runs", "Autofocus runs that ended, by status.", ["status"], registry=self.registry
        )
        self._run_seconds = Counter("semfocus_run_seconds", "Seconds that autofocus runs took.", registry=self.registry)
        self._frames = Counter("semfocus_frames", "Frames scanned.", registry=self.registry)
        self._frame_seconds = Counter(
            "semfocus_frame_seconds", "Seconds that frames took, transfer included.", registry=self.registry
        )
        self._dose = Counter(
            "semfocus_dose_seconds_per_square_micrometre",
            "Seconds of beam that each square micrometre of the scanned fields received, summed over frames; "
            "times the beam current it is the dose. Frames of an unknown dwell time count by their duration.",
            registry=self.registry,
        )
        for status in ("focused", "refused", "cancelled", "failed"):
            self._runs.labels(status)

    def run_ended(self, status: str, seconds: float) -> None:
        """Count a run."""
        self._runs.labels(status).inc()
        self._run_seconds.inc(seconds)

    def frame_scanned(self, image: Image, seconds: float) -> None:
        """Count a frame."""
        self._frames.inc()
        self._frame_seconds.inc(seconds)
        height, width = image.pixels.shape
        dwell = None if image.scan_mode is None else image.scan_mode.dwell
        beam = seconds if dwell is None else dwell * width * height
        area = width * height * (float(image.pixel_size) * 1e-3) ** 2
        if area > 0:
            self._dose.inc(beam / area)

    def text(self) -> bytes:
        """Return them in the format of Prometheus."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
