"""What a laboratory's dashboard counts, for Prometheus."""

from __future__ import annotations


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
            "semfocus_dose_electrons_per_square_micrometre",
            "Electrons that frames put on a square micrometre of their fields, summed over all frames, where the "
            "instrument reports beam current and dwell time.",
            registry=self.registry,
        )
        for status in ("focused", "refused", "cancelled", "failed"):
            self._runs.labels(status)

    def run_ended(self, status: str, seconds: float) -> None:
        """Count a run."""
        self._runs.labels(status).inc()
        self._run_seconds.inc(seconds)

    def frame_scanned(self, seconds: float, dose: float | None) -> None:
        """Count a frame, and its dose where that is known."""
        self._frames.inc()
        self._frame_seconds.inc(seconds)
        self._dose.inc(dose or 0.0)

    def text(self) -> bytes:
        """Return them in the format of Prometheus."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
