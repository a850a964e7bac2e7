"""Saved pictures against the schema and its readers, and OME of other writers."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

import semdrivers
from semdrivers.errors import InvalidParameterError


def saved(path: Path, **changes) -> Path:
    fields = {
        "pixels": np.arange(24 * 32, dtype=np.uint16).reshape(24, 32),
        "working_distance": 12.345,
        "magnification": 5000.0,
        "pixel_size": 26.9,
        "frame_id": 17,
        "timestamp": 1_700_000_000.25,
        "scan_mode": semdrivers.ScanMode.FAST,
        "metadata": {"autofocus": {"status": "focused", "reason": "Schärfe ✓ <&>"}, "voltage": 15.0, "bar_rows": 0},
        "bit_depth": 12,
    }
    return semdrivers.Image(**{**fields, **changes}).save(path)


VARIANTS = [
    {},
    {"bit_depth": None, "pixels": np.zeros((24, 32), np.uint8)},
    {
        "pixel_size": math.nan,
        "magnification": math.nan,
        "working_distance": math.nan,
        "timestamp": None,
        "metadata": {},
    },
    {"metadata": {"a\x00b": "\ud800 \ufffe", "": None, "list": [1, 2]}, "scan_mode": None, "frame_id": None},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS)
def test_a_saved_picture_is_valid_by_the_schema(tmp_path, changes):
    xmlschema = pytest.importorskip("xmlschema", reason="validation needs xmlschema, of the extra 'test'")
    spec = importlib.util.find_spec("ome_types")
    if spec is None or spec.origin is None:
        pytest.skip("the schema 2016-06 comes with ome-types, of the extra 'test'")
    schema = xmlschema.XMLSchema(str(Path(spec.origin).with_name("ome-2016-06.xsd")))
    with tifffile.TiffFile(saved(tmp_path / "frame.ome.tif", **changes)) as file:
        schema.validate(file.ome_metadata)


@pytest.mark.slow
def test_ome_types_opens_a_saved_picture(tmp_path):
    ome_types = pytest.importorskip("ome_types", reason="needs ome-types, of the extra 'test'")
    ome = ome_types.from_tiff(saved(tmp_path / "frame.ome.tif"), validate=True)
    pixels = ome.images[0].pixels
    assert pixels.physical_size_x_quantity.to("nm").magnitude == pytest.approx(26.9)
    assert pixels.significant_bits == 12
    objective = ome.instruments[0].objectives[0]
    assert (objective.nominal_magnification, objective.working_distance) == (5000, 12.345)


@pytest.mark.slow
def test_bioio_opens_a_saved_picture_at_its_scale(tmp_path):
    bioio = pytest.importorskip("bioio", reason="needs bioio and bioio-ome-tiff, of the extra 'test'")
    pytest.importorskip("bioio_ome_tiff", reason="needs bioio-ome-tiff, of the extra 'test'")
    image = bioio.BioImage(saved(tmp_path / "frame.ome.tif"))
    assert pytest.approx(0.0269) == image.physical_pixel_sizes.X
    assert image.shape[-2:] == (24, 32)
    assert np.array_equal(image.get_image_data("YX"), np.arange(24 * 32).reshape(24, 32))


def test_readers_of_plain_tiff_find_the_scale_in_the_resolution(tmp_path):
    with tifffile.TiffFile(saved(tmp_path / "frame.ome.tif")) as file:
        tags = file.pages.first.tags
        above, below = tags["XResolution"].value
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        assert 1e7 * below / above == pytest.approx(26.9, rel=1e-4)


NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def foreign(tmp_path, pixels: str, objective: str = "", prefix: str = "", dtype=np.uint8) -> semdrivers.Image:
    """Return what is read of an OME-TIFF of another writer."""
    p = f"{prefix}:" if prefix else ""
    name = f"xmlns:{prefix}" if prefix else "xmlns"
    text = f'<?xml version="1.0"?><{p}OME {name}="{NAMESPACE}"><{p}Instrument ID="I:0"><{p}Objective ID="O:1" '
    text += f'NominalMagnification="7"/><{p}Objective ID="O:0" {objective}/></{p}Instrument><{p}Image ID="Image:0">'
    text += f'<{p}AcquisitionDate>2023-11-14T22:13:20</{p}AcquisitionDate><{p}ObjectiveSettings ID="O:0"/>'
    text += f'<{p}Pixels ID="P:0" DimensionOrder="XYCZT" Type="{np.dtype(dtype)}" SizeX="32" SizeY="24" SizeC="1" '
    text += f'SizeZ="1" SizeT="1" {pixels}><{p}TiffData/></{p}Pixels></{p}Image></{p}OME>'
    path = tmp_path / "foreign.ome.tif"
    tifffile.imwrite(path, np.zeros((24, 32), dtype), description=text.encode("utf-8"), metadata=None)
    return semdrivers.read_image(path)


@pytest.mark.parametrize("prefix", ["", "OME", "ome"])
def test_conditions_of_other_writers_whatever_their_prefix(tmp_path, prefix):
    objective = 'NominalMagnification="2500" WorkingDistance="8.5" WorkingDistanceUnit="mm"'
    image = foreign(tmp_path, 'PhysicalSizeX="0.05" PhysicalSizeY="0.05"', objective, prefix)
    assert image.pixel_size == pytest.approx(50.0)
    assert (image.magnification, image.working_distance) == (2500, 8.5)
    assert image.timestamp == 1_700_000_000


@pytest.mark.parametrize(
    ("size", "nanometres"),
    [
        ('PhysicalSizeX="0.05" PhysicalSizeXUnit="µm"', 50.0),
        ('PhysicalSizeX="0.05" PhysicalSizeXUnit="\u03bcm"', 50.0),
        ('PhysicalSizeX="0.05" PhysicalSizeXUnit="&#181;m"', 50.0),
        ('PhysicalSizeX="0,05"', 50.0),
        ('PhysicalSizeX="50" PhysicalSizeXUnit="nm"', 50.0),
        ('PhysicalSizeX="0" PhysicalSizeY="0.05"', 50.0),
        ('PhysicalSizeX="0"', None),
        ('PhysicalSizeX="Infinity"', None),
        ('PhysicalSizeX="NaN"', None),
        ('PhysicalSizeX="-1"', None),
        ('PhysicalSizeX="2" PhysicalSizeXUnit="pixel"', None),
        ("", None),
    ],
)
def test_sizes_as_other_writers_spell_them(tmp_path, size, nanometres):
    image = foreign(tmp_path, size, 'WorkingDistance="8500"')
    assert image.working_distance == pytest.approx(8.5)
    assert math.isnan(image.pixel_size) if nanometres is None else image.pixel_size == pytest.approx(nanometres)


def test_significant_bits_are_the_bit_depth(tmp_path):
    assert foreign(tmp_path, 'SignificantBits="12"', dtype=np.uint16).bit_depth == 12
    assert foreign(tmp_path, 'SignificantBits="16"', dtype=np.uint16).bit_depth is None


def test_every_page_of_a_file_can_be_read_and_thumbnails_are_passed_over(tmp_path):
    pages = [np.full((24, 32), level, np.uint8) for level in (10, 20, 30)]
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        file.write(np.zeros((6, 8), np.uint8), subfiletype=1, metadata=None)
        for page in pages:
            file.write(page, metadata=None)
    for number, page in enumerate(pages):
        assert np.array_equal(semdrivers.read_pixels(tmp_path / "pages.tif", number), page)
    assert semdrivers.read_image(tmp_path / "pages.tif", 2).pixels[0, 0] == 30
    with pytest.raises(InvalidParameterError, match="page 3 is not there; the file has 3"):
        semdrivers.read_pixels(tmp_path / "pages.tif", 3)
