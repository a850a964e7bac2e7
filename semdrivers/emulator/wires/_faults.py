"""What goes wrong on command: faults by name, each by probability or by index.

``usb-drop:0.01,control-reset@5`` means that every frame is dropped with a probability of 1 %, and that the connection
is reset in place of the fifth answer. `FAULTS` is the catalogue, with what the driver makes of each; the page of the
reference has the same table.
"""

from __future__ import annotations

import difflib
import enum
import random
import threading
from collections import Counter
from dataclasses import dataclass

from semdrivers.errors import InvalidParameterError


class Occasion(enum.Enum):
    """When a fault can happen; an index counts these, from 1. The value says it to a person."""

    SCAN = "while a frame is scanned"
    FRAME = "when a frame is sent over USB"
    ANSWER = "when a request is answered (keep-alives are not counted)"
    COMMAND = "when a command is carried out (set, scan, move, beam, vacuum)"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Parameters
    ----------
    occasion : Occasion
        When it can happen.
    what : str
        What happens.
    outcome : str
        What the driver makes of it.
    error : str
        Name of the exception that its caller gets; empty when the driver recovers by itself.
    shows : bool
        Whether the caller gets the frame as it is: the wires were sound, and the driver cannot know.
    """

    occasion: Occasion
    what: str
    outcome: str
    error: str = ""
    shows: bool = False


_AGAIN = "asks for another frame"
_REPEATS = "repeats the request under its number, and gets the same answer"

FAULTS: dict[str, Fault] = {
    "usb-drop": Fault(
        Occasion.FRAME, "the frame is lost, and the instrument says so (FRAME_DROPPED)", f"{_AGAIN} at once"
    ),
    "usb-timeout": Fault(Occasion.FRAME, "nothing comes, and nothing is said", f"{_AGAIN} when it is 2 s late"),
    "usb-truncate": Fault(
        Occasion.FRAME, "the end of the pixels is missing", f"{_AGAIN}, and finds its leader in what it took for pixels"
    ),
    "usb-duplicate": Fault(Occasion.FRAME, "the frame is sent twice", "throws the second away"),
    "usb-reorder": Fault(
        Occasion.FRAME,
        "the frame is sent after the next one",
        f"{_AGAIN} when it is 2 s late, and throws the old one away when it comes",
    ),
    "usb-flip": Fault(Occasion.FRAME, "one bit of leader, pixels or trailer is wrong", f"finds a wrong CRC; {_AGAIN}"),
    "usb-stale": Fault(
        Occasion.FRAME, "the frame before is sent in its place", f"throws it away by its number; {_AGAIN}"
    ),
    "usb-zero": Fault(Occasion.FRAME, "all pixels are 0", f"finds a wrong CRC; {_AGAIN}"),
    "usb-stall": Fault(Occasion.FRAME, "the endpoint halts", f"resets the stream and clears the halt; {_AGAIN}"),
    "usb-replug": Fault(
        Occasion.FRAME, "the cable is pulled, and plugged in again 0.2 s later", f"opens the device again; {_AGAIN}"
    ),
    "usb-unplug": Fault(
        Occasion.FRAME, "the cable is pulled", "looks for the device for 3 s, then raises", "TransportError"
    ),
    "control-lose": Fault(Occasion.ANSWER, "the answer is lost", _REPEATS),
    "control-late": Fault(
        Occasion.ANSWER, "the answer comes 1.5 s late", f"{_REPEATS}; the late one finds nobody waiting"
    ),
    "control-duplicate": Fault(Occasion.ANSWER, "the answer comes twice", "takes the first"),
    "control-split": Fault(Occasion.ANSWER, "the answer comes in two pieces", "puts them together"),
    "control-glue": Fault(
        Occasion.ANSWER, "the answer is kept back, and comes in one piece with the next message", "takes them apart"
    ),
    "control-corrupt": Fault(Occasion.ANSWER, "one bit of the answer is wrong", f"finds a wrong CRC; {_REPEATS}"),
    "control-reset": Fault(
        Occasion.ANSWER,
        "the connection is reset (on a serial line the answer is lost)",
        "raises; the instrument has lost its controller, stops the scan and blanks the beam",
        "TransportError",
    ),
    "refuse-busy": Fault(Occasion.COMMAND, "the instrument refuses: BUSY", "raises; nothing has moved", "BusyError"),
    "refuse-interlock": Fault(
        Occasion.COMMAND, "the instrument refuses: INTERLOCK", "raises; nothing has moved", "InterlockError"
    ),
    "refuse-fault": Fault(
        Occasion.COMMAND, "the instrument refuses: HARDWARE_FAULT", "raises; nothing has moved", "HardwareFault"
    ),
    "settle-never-ends": Fault(
        Occasion.COMMAND,
        "the instrument says PENDING for ever",
        "raises when a minute is over (15 minutes for pump and vent)",
        "TransportError",
    ),
    "settle-times-out": Fault(
        Occasion.COMMAND,
        "the instrument carries it out, does not come to rest in its own time, and says so: TIMEOUT",
        "raises; what was set stands, and is to be read back",
        "HardwareFault",
    ),
    "knob-turned": Fault(
        Occasion.SCAN,
        "the operator turns the working distance by 0.1 mm",
        f"throws the frame away, which the instrument marks ABORTED; {_AGAIN}, which carries the new working distance",
    ),
    "beam-blanked": Fault(Occasion.SCAN, "the beam goes off", "raises at once", "InterlockError"),
    "filament-dies": Fault(Occasion.SCAN, "the filament burns through", "raises at once", "HardwareFault"),
    "charging-streaks": Fault(
        Occasion.SCAN,
        "the sample discharges: the brightness jumps between two lines, and a burst of lines is streaked",
        "returns the frame, which is what the detector saw; autofocus skips it and takes it again",
        shows=True,
    ),
}
"""Every fault, by name."""


@dataclass(frozen=True, slots=True)
class FaultRule:
    """When a fault shall happen.

    Parameters
    ----------
    name : str
        Name of the fault.
    probability : float
        At every occasion, 0 to 1.
    index : int
        The occasion at which it happens, from 1; 0 for none.
    """

    name: str
    probability: float = 0.0
    index: int = 0


def parse_faults(text: str) -> tuple[FaultRule, ...]:
    """Return the rules that a text such as ``usb-drop:0.01,control-reset@5`` names.

    Raises
    ------
    InvalidParameterError
        When a fault is unknown, or its probability or index is none.
    """
    if not isinstance(text, str):
        raise InvalidParameterError(f"faults must be a text such as 'usb-drop:0.01,control-reset@5', not {text!r}")
    return tuple(_rule(part.strip()) for part in text.split(",")) if text.strip() else ()


def _rule(part: str) -> FaultRule:
    name, separator, number = part.partition("@" if "@" in part else ":")
    if name not in FAULTS:
        close = difflib.get_close_matches(name, FAULTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise InvalidParameterError(f"faults: there is no fault {name!r}{hint} There are {', '.join(FAULTS)}")
    if separator == "@":
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise InvalidParameterError(f"faults: {part!r}: an index is a whole number from 1, such as {name}@5")
        return FaultRule(name, index=int(number))
    try:
        probability = float(number)
    except ValueError:
        probability = -1.0
    if not 0 < probability <= 1:
        raise InvalidParameterError(
            f"faults: {part!r}: say when: {name}:0.01 for a probability (above 0, at most 1), {name}@5 for an index"
        )
    return FaultRule(name, probability)


class Faults:
    """Says what goes wrong when. Thread safe; the same text and seed give the same faults at the same occasions.

    Parameters
    ----------
    text : str
        As `parse_faults` takes it.
    seed : int
        Random seed; fixes when a fault with a probability happens, and which bit is damaged.

    Raises
    ------
    InvalidParameterError
        When the text is malformed.
    """

    def __init__(self, text: str = "", seed: int = 0) -> None:
        self._rules = tuple(
            (rule, random.Random(f"{seed} {position} {rule.name}")) for position, rule in enumerate(parse_faults(text))
        )
        self._places = random.Random(f"{seed} places")
        self._lock = threading.Lock()
        self._occasions: Counter[Occasion] = Counter()
        self.happened: Counter[str] = Counter()
        """How often each fault has happened."""

    def __bool__(self) -> bool:
        return bool(self._rules)

    def at(self, occasion: Occasion) -> tuple[str, ...]:
        """Count an occasion and return the names of the faults that happen at it, in the order of the text."""
        if not self._rules:
            return ()
        with self._lock:
            self._occasions[occasion] += 1
            index = self._occasions[occasion]
            names = tuple(
                rule.name
                for rule, chance in self._rules
                if FAULTS[rule.name].occasion is occasion
                and (chance.random() < rule.probability if rule.probability else index == rule.index)
            )
            self.happened.update(names)
            return names

    def place(self, size: int) -> int:
        """Return a place to damage, 0 to `size` - 1."""
        with self._lock:
            return self._places.randrange(size)
