"""What stands in for instruments: of the makers', their own simulators; else the emulator behind the maker's interface.

The study of the drivers and the tests of the drivers use the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semdrivers.image import ScanMode

__all__ = [
    "DEMO_CAMERA_APERTURE", "ZEM_FOCUS", "ZEM_HALF_ANGLE", "SmartSemObject", "demo_camera", "look_through",
    "virtual_zem",
]  # fmt: skip

DEMO_CAMERA_APERTURE = 0.3
"""Numerical aperture with which the beads of Micro-Manager's demo camera blur away from z = 0."""
ZEM_HALF_ANGLE = 5e-3
"""rad; with which the picture of the simulated ZEM blurs where its lens moves."""
ZEM_FOCUS = 11.0
"""mm; working distance at which that picture is sharp."""


class SmartSemObject:
    """SmartSEM's COM object over a microscope: metres, a status before the value, a file for a frame.

    Parameters
    ----------
    microscope : Microscope
        That of an emulator.

    Attributes
    ----------
    values : dict
        Parameters that are no lens'.
    done : list of str
        Commands, oldest first; ``"closed"`` at the end.
    ignored : set of str
        Parameters whose sets are acknowledged and not carried out.
    """

    def __init__(self, microscope: Any) -> None:
        self.microscope = microscope
        self.values: dict[str, Any] = {"AP_STIG_X": 0.5, "AP_STIG_Y": -0.5, "DP_FROZEN": "No"}
        self.done: list[str] = []
        self.ignored: set[str] = set()

    def InitialiseRemoting(self) -> int:
        """Return 0: all is well."""
        return 0

    def ClosingControl(self) -> int:
        """Note the end."""
        self.done.append("closed")
        return 0

    def Get(self, name: str, _: object) -> tuple[int, Any]:
        """Return status and value."""
        known = {
            "AP_WD": self.microscope.working_distance * 1e-3,
            "AP_MAG": self.microscope.magnification,
            "AP_PIXEL_SIZE": 128e-3 / self.microscope.magnification / 1024,
            **self.values,
        }
        return (0, known[name]) if name in known else (1008, 0)

    def Set(self, name: str, value: Any) -> tuple[int, Any]:
        """Set a parameter; return status and value."""
        if name == "AP_WD" and name not in self.ignored:
            self.microscope.working_distance = value * 1e3
        elif name == "AP_MAG":
            self.microscope.magnification = value
        elif name in self.values:
            self.values[name] = value
        return 0, value

    def Execute(self, command: str) -> int:
        """Carry out a command."""
        self.done.append(command)
        self.values["DP_FROZEN"] = {"CMD_FREEZE_ALL": "Yes", "CMD_UNFREEZE_ALL": "No"}.get(command, "No")
        return 0

    def Grab(self, left: int, top: int, width: int, height: int, reduction: int, path: str) -> int:
        """Write the frame to a file; only a whole and frozen one."""
        from PIL import Image as Pillow

        if (left, top, reduction, self.values["DP_FROZEN"]) != (0, 0, 0, "Yes"):
            return 1023
        frame = Pillow.fromarray(self.microscope.acquire(ScanMode.STANDARD).pixels)
        frame.resize((width, height)).save(path)
        return 0


def look_through(fibsem: Any, microscope: Any) -> None:
    """Let fibsem's demo microscope look at an emulator's sample, from where that stands.

    Parameters
    ----------
    fibsem : DemoMicroscope
        Its pictures are noise by themselves.
    microscope : Microscope
        Follows lens, field and stage of the demo microscope.
    """
    from fibsem.structures import BeamType, FibsemStagePosition, ImageSettings

    from semdrivers.hosts.fibsem import FibsemLike

    electron = BeamType.ELECTRON

    def acquire_image(image_settings: Any = None, beam_type: Any = None) -> Any:
        place = fibsem.get_stage_position()
        microscope.move_stage(place.x * 1e3, place.y * 1e3)
        microscope.working_distance = fibsem.get_working_distance(electron) * 1e3
        microscope.magnification = 0.128 / image_settings.hfw
        return FibsemLike(microscope).acquire_image(
            ImageSettings(resolution=image_settings.resolution, hfw=image_settings.hfw, beam_type=electron)
        )

    fibsem.acquire_image = acquire_image
    fibsem.set_working_distance(microscope.working_distance / 1e3, electron)
    fibsem.set_field_of_view(0.128 / microscope.magnification, electron)
    fibsem.move_stage_absolute(FibsemStagePosition(x=0, y=0, z=0, r=0, t=0, coordinate_system="RAW"))


def demo_camera(path: Path) -> Path:
    """Write a configuration of Micro-Manager: the C++ demo camera over beads that blur away from z = 0."""
    path.write_text(
        "Device,Camera,DemoCamera,DCam\n"
        "Device,Z,DemoCamera,DStage\n"
        "Device,XY,DemoCamera,DXYStage\n"
        "Device,Objective,DemoCamera,DObjective\n"
        "Property,Core,Initialize,1\n"
        "Property,Core,Camera,Camera\n"
        "Property,Core,Focus,Z\n"
        "Property,Core,XYStage,XY\n"
        "Property,Core,AutoShutter,0\n"
        "Property,Camera,Mode,Fluorescent Beads\n"
        "Property,Camera,PixelType,16bit\n"
        "Property,Camera,BitDepth,12\n"
        "Property,Camera,Exposure,5\n"
        "Property,Camera,Offset,100\n"
        "ConfigPixelSize,Res20x,Objective,Label,Objective-A\n"
        "PixelSize_um,Res20x,0.5\n",
        encoding="utf-8",
    )
    return path


@contextmanager
def virtual_zem(*arguments: str) -> Iterator[str]:
    """Run the maker's simulator of a ZEM (pyzemrpc) in a process of its own, on loopback; gives its address.

    It acknowledges a working distance and keeps the old one, and its picture is always sharp. With the argument
    ``moving-lens`` the lens moves, and the picture blurs away from `ZEM_FOCUS`.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        around = {**os.environ, "HOME": home, "USERPROFILE": home}
        command = [sys.executable, "-c", f"from {__name__} import _run_zem; _run_zem()", *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=around) as process:
            try:
                assert process.stdout is not None
                port = next((line.strip() for line in process.stdout if line.strip().isdecimal()), None)
                if port is None:
                    raise RuntimeError("the simulator did not start")
                yield f"zem://127.0.0.1:{port}?settle=0&timeout=60"
            finally:
                process.kill()


def _run_zem() -> None:
    """Run the simulator, and print the port once it listens."""
    import socket
    import time

    from loguru import logger

    logger.remove()

    import cv2
    from zemrpc.tools.virtual_zem import virtual_zem as maker
    from zemrpc.zem import ip_util
    from zemrpc.zem.conn.protocol import EnumCmd, EnumImageSize

    # Its own look-up does not know the codes of the sizes, and takes each for 512×512.
    EnumImageSize.from_code = staticmethod(lambda code: next(size for size in EnumImageSize if size.sz == code))
    answered: Callable[..., Any] = maker.RemoteZem.process_packet
    sharp: Callable[..., Any] = maker.PerlinZem._snap_perlin
    rendered: dict[Any, Any] = {}  # it takes seconds for a field

    def process_packet(self: Any, packet: Any) -> Any:
        """Set the working distance, which the maker's own only acknowledges."""
        if packet.parse_cmd() == EnumCmd.SetWD:
            self.zem_dev.wd = float(packet._parse_1())
        return answered(self, packet)

    def snap(self: Any, request: Any) -> Any:
        """Blur the maker's picture by the distance from focus."""
        field = (self.scan_um, *self.pos)
        depth, image = rendered.get(field) or sharp(self, 512, 512)
        rendered.clear()
        rendered[field] = depth, image
        image = cv2.resize(image, (request.img_size.width, request.img_size.height))
        blur = abs(self.wd - ZEM_FOCUS) * 1e3 * ZEM_HALF_ANGLE / (self.scan_um / image.shape[1])
        return depth, cv2.GaussianBlur(image, (0, 0), blur / 2) if blur > 0.2 else image

    if "moving-lens" in sys.argv:
        maker.RemoteZem.process_packet, maker.PerlinZem.snap = process_packet, snap
    ip_util.get_real_local_ip = lambda *_: "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    instrument = maker.zem
    instrument.udp_service.listen_address = instrument.udp_service.server_address = ("127.0.0.1", port)
    instrument.img_sender.listen_host = "127.0.0.1"
    instrument.start()
    while not all(one.server.getsockname()[1] for one in (instrument.udp_service, instrument.img_sender)):
        time.sleep(0.01)  # its threads bind the sockets
    print(port, flush=True)
    sys.stdin.read()  # ends with the process that started this one
