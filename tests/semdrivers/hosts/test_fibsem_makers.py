"""``fibsem://`` over fibsem's own `ThermoMicroscope` and `TescanMicroscope`, over stand-ins for the makers' libraries.

fibsem looks for that library once, when it is imported: so each test is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fibsem", reason="fibsem is not installed: pip install '.[fibsem]'")

FIXTURES = Path(__file__).parents[2] / "fixtures"

BEGIN = """
import json, sys
sys.path.insert(0, {fixtures!r})
import {vendor} as vendor
vendor.install()
import semdrivers
from semdrivers.emulator import Emulator
from semdrivers.conformance import CHECKS, run_check

emulator = Emulator("tin-balls", seed=3, magnification=1500).start()
vendor.Client.inner = inner = semdrivers.connect(emulator.url)

def refusal(act):
    try:
        act()
    except semdrivers.SemDriversError as error:
        return f"{{type(error).__name__}}: {{error}}"
"""


def run(vendor, code, tmp_path):
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    script = BEGIN.format(fixtures=str(FIXTURES), vendor=vendor) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=around, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_thermo(tmp_path):
    told = run(
        "autoscript",
        """
m = semdrivers.connect("fibsem://?manufacturer=Thermo&host=10.0.0.7")
client = vendor.Client.last
about = m.capabilities
told = dict(kind=type(m.fibsem).__name__, model=about.model, serial=about.serial, firmware=about.firmware)
told["limits"] = about.working_distance.minimum, about.working_distance.maximum
told["fields"] = about.magnification.minimum, about.magnification.maximum
told["parts"] = [name for name in ("HasStage", "HasDetector", "HasBeam", "HasStigmator")
                 if isinstance(m, getattr(semdrivers, name))]
m.stigmator, m.contrast, m.brightness = (0.1, -0.2), 0.4, 0.6
told["set"] = client.electron.stigmator.value.x, client.detector.contrast.value, client.detector.brightness.value
told["dark"] = refusal(lambda: setattr(m, "brightness", 0.0))
told["stage"] = m.move_stage(0.2, -0.1)
told["beyond"] = refusal(lambda: setattr(m, "working_distance", 12.5))
m.working_distance = 5.0
client.electron.working_distance._then = lambda: setattr(client.electron.working_distance, "_value", 0.004)
told["ignored"] = refusal(lambda: setattr(m, "working_distance", 6.0))
client.electron.working_distance._then = lambda: None
m.beam_on = False
told["off"] = refusal(m.acquire), client.electron.is_blanked
m.beam_on = True
m.magnification = 1500
frame = m.acquire()
told["frame"] = frame.pixels.shape, frame.pixel_size
m.move_stage(0, 0)
m.working_distance = emulator.truth.working_distance - 6.0 + 0.5
result = m.autofocus(learn_aperture=False)
truth = emulator.truth
told["focus"] = result.status, abs(m.working_distance + 6.0 - truth.working_distance) / truth.depth_of_field
m.close()
told["closed"] = client.done[-1]
m = semdrivers.connect("fibsem://?manufacturer=Thermo")
told["failed"] = [str(o) for o in (run_check(check, m) for check in CHECKS) if o.status == "failed"]
print(json.dumps(told))
""",
        tmp_path,
    )
    assert (told["kind"], told["model"], told["serial"], told["firmware"]) == (
        "ThermoMicroscope", "Helios 5", "9922345", "4.8.1",
    )  # fmt: skip
    assert told["limits"] == pytest.approx([2.0, 12.0])
    assert told["fields"] == pytest.approx([128e-3 / 1.99e-3, 128e3])
    assert told["parts"] == ["HasStage", "HasDetector", "HasBeam", "HasStigmator"]
    assert told["set"] == [0.1, 0.4, 0.6]
    assert "brightness was set to 0 and reads 0.6" in told["dark"]
    assert told["stage"] == pytest.approx([0.2, -0.1])
    assert "OutOfRangeError" in told["beyond"]
    assert "working distance was set to 6 mm and reads 4 mm" in told["ignored"]
    assert ("off or blanked" in told["off"][0], told["off"][1]) == (True, True)
    assert told["frame"] == [[240, 320], pytest.approx(128e6 / 1500 / 320)]
    assert told["focus"][0] == "focused"
    assert told["focus"][1] < 1
    assert (told["closed"], told["failed"]) == ("disconnect", [])


@pytest.mark.slow
def test_tescan(tmp_path):
    """fibsem switches the beam on before it sets anything, and ignores a set of the stigmator."""
    told = run(
        "tescanautomation_stand_in",
        """
m = semdrivers.connect("fibsem://?manufacturer=Tescan&host=10.0.0.8&working_distance=3:30")
client = vendor.Client.last
told = dict(kind=type(m.fibsem).__name__, before=m.capabilities.serial)
told["parts"] = [name for name in ("HasStage", "HasDetector", "HasBeam", "HasStigmator")
                 if isinstance(m, getattr(semdrivers, name))]
m.contrast, m.brightness = 0.4, 0.6
told["set"] = client.gain_black
told["stage"] = m.move_stage(0.2, -0.1)
m.beam_on = False
told["off"] = m.beam_on, refusal(m.acquire)
told["refused"] = refusal(lambda: setattr(m, "working_distance", 9.0)), client.beam
m.beam_on = True
told["cut"] = refusal(lambda: setattr(m, "working_distance", 29.0))
m.magnification = 1500
m.working_distance = 9.0
frame = m.acquire()
told["frame"] = frame.pixels.shape, frame.pixel_size, client.bits
told["after"] = m.capabilities.serial, m.capabilities.model
m.move_stage(0, 0)
m.working_distance = emulator.truth.working_distance + 0.5
result = m.autofocus(learn_aperture=False)
truth = emulator.truth
told["focus"] = result.status, abs(m.working_distance - truth.working_distance) / truth.depth_of_field
m.close()
told["closed"] = client.closed
m = semdrivers.connect("fibsem://?manufacturer=Tescan&working_distance=6:20")
told["failed"] = [str(o) for o in (run_check(check, m) for check in CHECKS) if o.status == "failed"]
print(json.dumps(told))
""",
        tmp_path,
    )
    assert (told["kind"], told["before"]) == ("TescanMicroscope", "")
    assert told["parts"] == ["HasStage", "HasDetector", "HasBeam"]
    assert told["set"] == [40, 60]
    assert told["stage"] == pytest.approx([0.2, -0.1])
    assert (told["off"][0], "off or blanked" in told["off"][1]) == (False, True)
    assert ("switches that of a TESCAN on" in told["refused"][0], told["refused"][1]) == (True, 0)
    assert "working distance was set to 29 mm and reads 25 mm" in told["cut"]
    assert told["frame"] == [[240, 320], pytest.approx(128e6 / 1500 / 320), 8]
    assert told["after"] == ["VG-17", "SOLARIS"]
    assert told["focus"][0] == "focused"
    assert told["focus"][1] < 1
    assert (told["closed"], told["failed"]) == (True, [])
