"""What cannot be misread: results without a truth value, misspelt settings, members that a type checker knows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.util import find_spec

import pytest

import semdrivers
from semdrivers.base import MicroscopeBase, WrappedMicroscope

FIELDS = {
    "status": "focused",
    "reason": "sharp",
    "working_distance": 12.0,
    "start_working_distance": 12.5,
    "score": 8.0,
    "confidence": 1.0,
    "frames": 3,
    "elapsed": 0.5,
    "method": "test",
}


@pytest.mark.parametrize("status", ["focused", "refused", "cancelled"])
def test_a_result_has_no_truth_value(status):
    result = semdrivers.AutofocusResult(**{**FIELDS, "status": status})
    with pytest.raises(TypeError, match=r"result\.focused"):
        bool(result)
    assert result.focused is (status == "focused")


def test_a_result_takes_its_fields_by_name_alone():
    with pytest.raises(TypeError):
        semdrivers.AutofocusResult(*FIELDS.values())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("status", "fine", "one of focused, refused, cancelled, not 'fine'"),
        ("score", 9.1, "within 0 to 9"),
        ("score", -0.1, "within 0 to 9"),
        ("score", float("nan"), "finite"),
        ("confidence", 1.0000000001, "within 0 to 1"),
        ("confidence", -1e-9, "within 0 to 1"),
        ("working_distance", "12", "number in mm"),
        ("frames", -1, "at least 0"),
        ("elapsed", -1.0, "at least 0 s"),
        ("trace", ("step",), "FocusSteps"),
    ],
)
def test_a_result_is_checked(field, value, words):
    with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError), match=words):
        semdrivers.AutofocusResult(**{**FIELDS, field: value})


def test_frames_are_counted_from_1_in_json_and_plots():
    steps = tuple(semdrivers.FocusStep(i, "search", 12.0, 1000.0, 3.0, 0.1, 5.0, time=0.25 * i) for i in range(3))
    values = semdrivers.AutofocusResult(**FIELDS, trace=steps).to_dict()
    assert [step["frame"] for step in values["trace"]] == [1, 2, 3]
    assert values["trace"][-1]["frame"] == values["frames"]
    assert [step["time"] for step in values["trace"]] == [0.0, 0.25, 0.5]


class Own(MicroscopeBase):
    """A driver with an attribute of its own."""

    label: str
    capabilities = semdrivers.Capabilities(semdrivers.Range(5.0, 30.0), semdrivers.Range(100, 50000))

    def __init__(self):
        self.label = "mine"
        self._values = {"working_distance": 12.0, "magnification": 1000.0}

    def _read(self, name):
        return self._values[name]

    def _write(self, name, value):
        self._values[name] = value

    def acquire(self, mode=semdrivers.ScanMode.FAST):
        raise NotImplementedError

    def close(self):
        pass


@pytest.mark.parametrize("wrap", [lambda microscope: microscope, WrappedMicroscope], ids=["driver", "wrapped"])
def test_a_misspelt_setting_is_an_error_that_names_the_nearest(wrap):
    microscope = wrap(Own())
    with pytest.raises(AttributeError, match=r"'working_distnace' to set; did you mean 'working_distance'\?"):
        microscope.working_distnace = 5
    with pytest.raises(AttributeError, match="does not offer beam_on"):
        microscope.beam_on = True
    with pytest.raises(AttributeError):
        microscope.whatever = 1
    microscope.working_distance = 5
    assert microscope.working_distance == 5
    assert Own().label == "mine"


def test_a_misspelt_setting_of_a_connected_microscope_is_an_error():
    with semdrivers.connect("emulator://featureless?seed=1") as microscope:
        with pytest.raises(AttributeError, match="did you mean 'magnification'"):
            microscope.magnificaton = 5000
        microscope.magnification = 5000
        assert microscope.magnification == 5000


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_a_misspelt_member_does_not_pass_a_type_checker(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import semdrivers\n"
        "with semdrivers.connect('emulator://fabric') as microscope:\n"
        "    microscope.working_distance = 5.0\n"
        "    if isinstance(microscope, semdrivers.HasStage):\n"
        "        microscope.move_stage(1.0, 2.0)\n"
        "    if microscope.autofocus().focused:\n"
        "        microscope.acquire().save('a.tif')\n"
        "    microscope.working_distnace = 5.0\n"
        "    microscope.acquier()\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", str(script)], capture_output=True, text=True)
    assert [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line] == ["8", "9"], done.stdout


def test_an_existing_file_is_an_error_of_its_own_that_travels():
    error = pickle.loads(pickle.dumps(semdrivers.ExistingFileError("a.tif")))
    assert isinstance(error, FileExistsError)
    assert "a.tif exists already" in str(error)
    assert "overwrite=True" in str(error)
    assert error.path == "a.tif"
