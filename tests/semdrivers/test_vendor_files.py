"""What makers write about their pictures, read under one set of names and units."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import semdrivers
from semdrivers._cli import app
from semdrivers.files import vendor_conditions

PIXELS = np.random.default_rng(3).integers(0, 256, (260, 320)).astype(np.uint8)


def tiff(path, *tags, pixels=PIXELS, **options):
    """Write a TIFF with further tags: (code, type, text or bytes)."""
    extra = []
    for code, kind, value in tags:
        data = value.encode("latin-1") if isinstance(value, str) else value
        extra.append((code, kind, len(data), data, True))
    tifffile.imwrite(path, pixels, extratags=extra, metadata=None, **options)
    return path


FEI = """[User]\r\nDate=05/06/2024\r\nTime=10:11:12 AM\r\n[System]\r\nSystemType=Quanta\r\n[Beam]\r\nHV=15000\r\n\
Beam=EBeam\r\nScan=EScan\r\n[EBeam]\r\nHV=15000\r\nHFW=3.2e-005\r\nWD=0.0101\r\n[EScan]\r\nPixelWidth=1e-007\r\n\
HorFieldsize=3.2e-005\r\n[Image]\r\nResolutionX=320\r\nResolutionY=240\r\n[Detectors]\r\nName=ETD\r\nMode=SE\r\n"""


def test_fei_in_either_tag(tmp_path):
    for code in (34682, 34680):
        path = tiff(tmp_path / f"{code}.tif", (code, "s", FEI))
        image = semdrivers.read_image(path)
        assert image.pixel_size == pytest.approx(100.0)
        assert image.working_distance == pytest.approx(10.1)
        assert image.metadata["bar_rows"] == 20
        vendor = image.metadata["vendor"]
        assert (vendor["instrument"], vendor["detector"], vendor["voltage"]) == ("Quanta", "ETD SE", 15.0)
        assert vendor["field_width"] == pytest.approx(32.0)
        half = vendor_conditions(path, 160, 130)
        assert (half["bar_rows"], half["pixel_size"]) == (10, pytest.approx(200.0))
        assert "bar_rows" not in vendor_conditions(path, 160, 260)


@pytest.mark.parametrize(
    ("size", "nanometres"), [("250.0 pm", 0.25), ("55.82 nm", 55.82), ("1.302 µm", 1302.0), ("0,5 µm", 500.0)]
)
def test_zeiss_pixel_of_the_stored_picture_in_any_unit(tmp_path, size, nanometres):
    lines = ["0", "0", "DP_DETECTOR_CHANNEL", "Signal A = InLens", "AP_MAG", "Mag = 20.00 K X", "AP_WD", "WD = 4.1 mm"]
    lines += ["AP_PIXEL_SIZE", "Pixel Size = 999.0 nm", "AP_IMAGE_PIXEL_SIZE", f"Image Pixel Size = {size}"]
    lines += ["AP_ACTUALKV", "EHT = 3.00 kV"]
    image = semdrivers.read_image(tiff(tmp_path / "z.tif", (34118, "s", "\r\n".join(lines) + "\r\n")))
    assert image.pixel_size == pytest.approx(nanometres)
    assert image.magnification == 20_000
    assert image.working_distance == pytest.approx(4.1)
    assert (image.metadata["vendor"]["voltage"], image.metadata["vendor"]["detector"]) == (3.0, "InLens")


TESCAN = (
    "[MAIN]\r\nDevice=VEGA\r\nImageStripSize=20\r\nMagnification=1234.5\r\nPixelSizeX=2.5e-8\r\nDate=2020-01-02\r\n\
[SEM]\r\nDetector=BSE\r\nHV=20.0e3\r\nWD=9.5e-3\r\n"
)


def test_tescan_in_its_tag_and_beside_the_picture(tmp_path):
    inside = tiff(tmp_path / "inside.tif", (50431, "B", b"\x10\0\0\0\1\0junk" + TESCAN.encode() + b"\0\2\0"))
    beside = tiff(tmp_path / "beside.tif")
    (tmp_path / "beside-tif.hdr").write_text(TESCAN, encoding="utf-8")
    from PIL import Image as Pillow

    Pillow.fromarray(PIXELS).save(tmp_path / "other.png")
    (tmp_path / "other.hdr").write_text(TESCAN, encoding="cp1252")
    for path in (inside, beside, tmp_path / "other.png"):
        image = semdrivers.read_image(path)
        assert image.pixel_size == pytest.approx(25.0), path.name
        assert (image.magnification, image.working_distance) == (1234.5, pytest.approx(9.5))
        assert image.metadata["bar_rows"] == 20
        assert image.metadata["vendor"]["detector"] == "BSE"


def test_jeol_and_hitachi_text_in_the_encodings_of_their_programs(tmp_path):
    jeol = "$CM_FORMAT JEOL-SEM\r\n$CM_MAG 5000\r\n$$SM_WD 8.2\r\n$CM_ACCEL_VOLT 5.00\r\n$$SM_MICRON_BAR 100\r\n"
    jeol += "$$SM_MICRON_MARKER 2µm\r\n$CM_FULL_SIZE 320 240\r\n$CM_DETECTOR SED\r\n"
    hitachi = "[SemImageFile]\r\nInstructName=SU8000\r\nDataSize=320x240\r\nPixelSize=20\r\nSignalName=SE(M)\r\n"
    hitachi += "AcceleratingVoltage=2000 Volt\r\nMagnification=5000\r\nWorkingDistance=8200 um\r\n"
    for name, text, detector, kilovolts in (("jeol", jeol, "SED", 5.0), ("hitachi", hitachi, "SE(M)", 2.0)):
        for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252"):
            path = tiff(tmp_path / f"{name}-{encoding}.tif")
            path.with_suffix(".txt").write_bytes(text.encode(encoding))
            image = semdrivers.read_image(path)
            told = (image.pixel_size, image.magnification, image.working_distance, image.metadata["bar_rows"])
            assert told == (pytest.approx(20.0), 5000, pytest.approx(8.2), 20), (name, encoding)
            assert image.metadata["vendor"]["detector"] == detector
            assert image.metadata["vendor"]["voltage"] == kilovolts


@pytest.mark.parametrize(
    ("size", "pixel", "rows"),
    [("320x230", 20.0, 30), ("320x260", 20.0, None), ("640x480", 40.0, None), ("?", 20.0, None), ("", 20.0, None)],
)
def test_the_size_that_a_text_states_tells_bar_and_binning(tmp_path, size, pixel, rows):
    path = tiff(tmp_path / "h.tif")
    path.with_suffix(".txt").write_text(f"[SemImageFile]\nDataSize={size}\nPixelSize=20\n")
    image = semdrivers.read_image(path)
    assert (image.pixel_size, image.metadata.get("bar_rows")) == (pytest.approx(pixel), rows)
    jeol = f"$CM_FORMAT JEOL-SEM\n$$SM_MICRON_BAR 100\n$$SM_MICRON_MARKER 2um\n$CM_FULL_SIZE {size.replace('x', ' ')}\n"
    path.with_suffix(".txt").write_text(jeol)
    image = semdrivers.read_image(path)
    assert (image.pixel_size, image.metadata.get("bar_rows")) == (pytest.approx(20.0), rows)


def test_xml_of_phenom_and_of_thermo_fisher(tmp_path):
    phenom = '<?xml version="1.0"?><FeiImage><pixelWidth unit="nm">53.7</pixelWidth><magnification>5000</magnification>'
    phenom += '<workingDistance unit="mm">6.4</workingDistance><highVoltage unit="kV">-10.0</highVoltage>'
    phenom += "<databarHeight>20</databarHeight></FeiImage>"
    image = semdrivers.read_image(tiff(tmp_path / "p.tif", (34683, "s", phenom)))
    assert (image.pixel_size, image.working_distance, image.magnification) == (53.7, 6.4, 5000)
    assert image.metadata["bar_rows"] == 20
    assert image.metadata["vendor"]["voltage"] == 10.0
    thermo = '<Metadata xmlns="urn:x"><Optics><WorkingDistance>0.0042</WorkingDistance>'
    thermo += "<AccelerationVoltage>5000</AccelerationVoltage></Optics><BinaryResult><PixelSize>"
    thermo += '<X unit="m" unitPrefixPower="-9">3.3</X></PixelSize></BinaryResult></Metadata>'
    image = semdrivers.read_image(tiff(tmp_path / "t.tif", (34683, "s", thermo)))
    assert (image.pixel_size, image.working_distance) == (pytest.approx(3.3), pytest.approx(4.2))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_tags_whose_text_is_utf16(tmp_path, encoding):
    zeiss = "0\r\nAP_MAG\r\nMag = 20.00 K X\r\nAP_WD\r\nWD = 10.1 mm\r\nAP_IMAGE_PIXEL_SIZE\r\n"
    zeiss += "Image Pixel Size = 0.1 µm\r\n"
    xml = '<?xml version="1.0" encoding="utf-16"?><FeiImage><pixelWidth unit="nm">100</pixelWidth>'
    xml += '<workingDistance unit="mm">10.1</workingDistance></FeiImage>'
    tescan = TESCAN.replace("2.5e-8", "1e-7").replace("9.5e-3", "0.0101")
    for code, text in ((34682, FEI), (34680, FEI), (34118, zeiss), (34683, xml), (50431, tescan)):
        image = semdrivers.read_image(tiff(tmp_path / f"{code}.tif", (code, "B", text.encode(encoding))))
        assert (image.pixel_size, image.working_distance) == (pytest.approx(100.0), pytest.approx(10.1)), code


def test_olympus_sis(tmp_path):
    path = tmp_path / "s.tif"
    general = struct.pack("<10xhdd8xd2x34s32s", -6, 0.05, 0.05, 2500.0, b"camera", b"picture")
    head = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 1, 2, 3, 4, 99, b"name", 1)
    tiff(path, (33560, "B", head + struct.pack("<hhI", 1, 1, 0) + general))
    data = path.read_bytes()
    at = data.index(b"SIS0")
    path.write_bytes(data[: at + 60] + struct.pack("<hhI", 1, 1, at + 68) + data[at + 68 :])
    image = semdrivers.read_image(path)
    assert (image.pixel_size, image.magnification) == (pytest.approx(50.0), 2500)


@pytest.mark.parametrize(
    ("unit", "factor"), [("nm", 1.0), ("um", 1e3), ("\\u00B5m", 1e3), ("micron", 1e3), ("mm", 1e6)]
)
def test_the_scale_of_imagej(tmp_path, unit, factor):
    description = f"ImageJ=1.53t\nunit={unit}\n"
    path = tiff(tmp_path / "i.tif", description=description, resolution=(0.25, 0.25), resolutionunit=1)
    assert semdrivers.read_image(path).pixel_size == pytest.approx(4 * factor)


def test_openfibsem(tmp_path):
    state = {"electron_beam": {"working_distance": 0.004, "voltage": 2000.0}, "timestamp": 1.0}
    told = {
        "image": {"hfw": 32e-6, "beam_type": "ELECTRON"},
        "pixel_size": {"x": 1e-7, "y": 1e-7},
        "microscope_state": state,
    }
    path = tiff(tmp_path / "f.tif", description=json.dumps(told))
    image = semdrivers.read_image(path)
    assert (image.pixel_size, image.working_distance) == (pytest.approx(100.0), pytest.approx(4.0))


@pytest.mark.parametrize(
    "tags",
    [
        (34682, "s", "[Beam]\r\nno equals sign\r\n[EScan]\r\nPixelWidth=zero\r\n"),
        (34118, "s", "AP_WD\r\nWD = unknown\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 0.0 fm\r\n"),
        (50431, "B", b"\0\1\2PixelSizeX=inf\r\nWD=-3\r\nImageStripSize=99999\r\n"),
        (34683, "s", "<FeiImage><pixelWidth>"),
        (33560, "B", b"SIS0" + bytes(8)),
    ],
)
def test_damaged_metadata_says_nothing_and_harms_nothing(tmp_path, tags):
    image = semdrivers.read_image(tiff(tmp_path / "d.tif", tags))
    assert np.array_equal(image.pixels, PIXELS)
    assert math.isnan(image.pixel_size)
    assert math.isnan(image.working_distance)
    assert "bar_rows" not in image.metadata


def test_the_real_files_say_what_their_instruments_show(data_folder):
    folder = data_folder / "vendor"
    if not folder.is_dir():
        pytest.skip("no folder of vendors' files")
    expected = {
        "fei-sem-rbc": (7.708, 9.656, None, 70),
        "tfs_example": (269.79, 6.816, None, 68),
        "jeol_example_sem": (None, 9.07, 50, None),
        "zeiss_merlin": (55.82, 7.7, 2000, None),
    }
    for name, (pixel, distance, magnification, rows) in expected.items():
        image = semdrivers.read_image(folder / f"{name}.tif")
        assert image.working_distance == pytest.approx(distance, rel=1e-4)
        for value, told in ((pixel, image.pixel_size), (magnification, image.magnification)):
            assert math.isnan(told) if value is None else told == pytest.approx(value, rel=1e-4), name
        assert image.metadata.get("bar_rows") == rows, name
    field = vendor_conditions(folder / "fei-sem-rbc.tif", 1536, 1094)["field_width"]
    assert field == pytest.approx(11.84)


def test_show_prints_what_is_known_and_goes_on_after_a_bad_file(tmp_path):
    path = tiff(tmp_path / "a [b] 100%.tif", (34682, "s", FEI))
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    ran = CliRunner().invoke(app, ["show", str(tmp_path / "bad.tif"), str(path)])
    assert ran.exit_code == 1
    assert "bad.tif" in ran.stderr
    for text in ("a [b] 100%.tif", "10.1 mm", "100 nm", "32 µm", "20 rows, from the file", "Quanta", "15.0 kV"):
        assert text in ran.stdout, text
    ran = CliRunner().invoke(app, ["show", "--json", str(path)])
    (row,) = json.loads(ran.stdout)["pictures"]
    assert (row["pixel_size"], row["bar_rows"], row["magnification"]) == (100.0, 20, None)


def test_a_picture_that_is_cut_off_anywhere_names_no_maker_and_raises_nothing(tmp_path):
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, np.zeros((6, 8), np.uint8), description="ImageJ=1")
    content = whole.read_bytes()
    for length in range(0, len(content), 1 if len(content) < 600 else 7):
        cut = tmp_path / "cut.tif"
        cut.write_bytes(content[:length])
        assert vendor_conditions(cut, 8, 6) == {}
