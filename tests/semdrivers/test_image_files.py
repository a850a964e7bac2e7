"""Frames to OME-TIFF and back; the grey levels of other people's pictures."""

from __future__ import annotations

import math
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as Pillow

import semdrivers
from semdrivers.errors import InvalidParameterError
from semdrivers.files import conditions_of, describe, read_pixels
from semdrivers.image import SCAN_MODES

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"

texts = st.text(st.characters(exclude_categories=()), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
positive = st.floats(1e-3, 1e6)
pixel_arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
)
images = st.builds(
    semdrivers.Image,
    pixels=pixel_arrays,
    working_distance=positive,
    magnification=positive,
    pixel_size=positive,
    frame_id=st.none() | st.integers(0, 2**63),
    timestamp=st.none() | st.floats(0, 4e9) | st.just(1e300),
    scan_mode=st.none() | st.sampled_from([*SCAN_MODES, semdrivers.ScanMode("SURVEY", 1024, 768, 3.2e-7)]),
    metadata=st.dictionaries(texts, values, max_size=3)
    | st.fixed_dictionaries({"autofocus": st.dictionaries(texts, values)}),
)


def frame(dtype=np.uint8, **changes) -> semdrivers.Image:
    pixels = np.arange(24 * 32, dtype=dtype).reshape(24, 32)
    fields = {
        "pixels": pixels,
        "working_distance": 12.345,
        "magnification": 5000.0,
        "pixel_size": 80.0,
        "frame_id": 17,
        "timestamp": 1_700_000_000.25,
        "scan_mode": semdrivers.ScanMode.FAST,
        "metadata": {
            "autofocus": {"status": "focused", "reason": "Schärfe ✓ <&>", "score": 8.5},
            "voltage": 15.0,
        },
    }
    return semdrivers.Image(**{**fields, **changes})


def described(image: semdrivers.Image, name: str) -> bytes:
    conditions = {
        field: getattr(image, field)
        for field in (
            "working_distance",
            "magnification",
            "pixel_size",
            "frame_id",
            "timestamp",
            "bit_depth",
            "metadata",
        )
    }
    mode = image.scan_mode and image.scan_mode.name
    return describe(name, image.pixels.shape, str(image.pixels.dtype), {**conditions, "scan_mode": mode})


def assert_same(read: semdrivers.Image, written: semdrivers.Image) -> None:
    assert read.pixels.dtype == written.pixels.dtype
    assert np.array_equal(read.pixels, written.pixels)
    for name in ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "scan_mode"):
        assert getattr(read, name) == getattr(written, name), name
    assert read.metadata == written.metadata


@given(image=images)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frame_comes_back_as_it_was(tmp_path, image):
    path = tmp_path / "frame.ome.tif"
    image.save(path, overwrite=True)
    assert_same(semdrivers.read_image(path), image)


@given(image=images)
@settings(max_examples=100, deadline=None)
def test_the_description_is_valid_xml_without_references_which_fiji_would_spoil(image):
    description = described(image, "a name in µm,\nof two lines")
    description.decode("utf-8")
    assert b"&#" not in description
    ET.fromstring(description)


@given(text=st.text(max_size=60) | st.text(max_size=40).map(lambda inner: f"<OME>{inner}</OME>"))
def test_a_foreign_description_tells_nothing_and_harms_nothing(text):
    assert math.isnan(conditions_of(text)["working_distance"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ome_readers_find_the_conditions_where_they_look(tmp_path, dtype):
    image = frame(dtype)
    path = image.save(tmp_path / "frame.ome.tif")
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert file.series[0].axes == "YX"
        root = ET.fromstring(file.ome_metadata)
    pixels = root.find(f"{OME}Image/{OME}Pixels")
    assert pixels.get("Type") == np.dtype(dtype).name
    assert (pixels.get("SizeX"), pixels.get("SizeY")) == ("32", "24")
    for axis in "XY":
        assert float(pixels.get(f"PhysicalSize{axis}")) == pytest.approx(0.08)
        assert pixels.get(f"PhysicalSize{axis}Unit") == "µm"
    objective = root.find(f"{OME}Instrument/{OME}Objective")
    assert float(objective.get("NominalMagnification")) == 5000
    assert (objective.get("WorkingDistance"), objective.get("WorkingDistanceUnit")) == ("12.345", "mm")
    assert root.findtext(f"{OME}Image/{OME}AcquisitionDate") == "2023-11-14T22:13:20.250000Z"
    notes = {
        pair.get("K"): pair.text
        for pair in root.iterfind(f"{OME}StructuredAnnotations/{OME}MapAnnotation/{OME}Value/{OME}M")
    }
    assert notes["working distance (mm)"] == "12.345"
    assert notes["scan mode"] == "FAST"
    assert notes["voltage"] == "15.0"
    assert notes["status"] == "focused"
    assert notes["reason"] == "Schärfe ✓ <&>"


def test_the_record_is_json_of_every_language():
    record = described(frame(metadata={"a": math.nan, "b": [math.inf]}, pixel_size=math.nan), "name").decode()
    assert "NaN" not in record
    assert "Infinity" not in record
    told = conditions_of(record)
    assert told["metadata"] == {"a": None, "b": [None]}
    assert math.isnan(told["pixel_size"])


@pytest.mark.parametrize("damage", [('"scan_mode"', '"mode"'), ('"frame_id"', '"frame"'), ("{", "")])
def test_a_record_that_another_program_damaged_leaves_what_ome_has_a_place_for(damage):
    description = described(frame(), "name").decode().replace(*damage)
    told = conditions_of(description)
    assert told["pixel_size"] == pytest.approx(80.0)
    assert told["working_distance"] == pytest.approx(12.345)
    assert told["magnification"] == 5000.0
    assert "frame_id" not in told


def test_every_annotation_is_referred_to_and_every_reference_leads_somewhere():
    root = ET.fromstring(described(frame(), "name"))
    referred = {element.get("ID") for element in root.iter(f"{OME}AnnotationRef")}
    there = {element.get("ID") for element in root.find(f"{OME}StructuredAnnotations")}
    assert referred == there == {"Annotation:0", "Annotation:1", "Annotation:2"}


def test_numpy_values_in_the_metadata_come_back_as_plain_ones(tmp_path):
    metadata = {
        "current": np.float32(0.5),
        "count": np.int64(3),
        "curve": np.arange(3),
        "file": Path("a/b"),
        "both": (1, 2),
    }
    path = frame(metadata=metadata).save(tmp_path / "frame.tif")
    read = semdrivers.read_image(path).metadata
    assert read == {
        "current": 0.5,
        "count": 3,
        "curve": [0, 1, 2],
        "file": os.path.join("a", "b"),
        "both": [1, 2],
    }


def test_an_unknown_pixel_size_is_left_out_and_comes_back_unknown(tmp_path):
    path = frame(pixel_size=math.nan).save(tmp_path / "frame.ome.tif")
    with tifffile.TiffFile(path) as file:
        assert "PhysicalSizeX" not in file.ome_metadata
    assert math.isnan(semdrivers.read_image(path).pixel_size)


@pytest.mark.parametrize("name", ["frame.png", "frame", "frame.ome"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(semdrivers.InvalidParameterError, match=r"ends in .tif or .tiff"):
        frame().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4), np.int16),
    ],
)
def test_pixels_of_another_kind_are_refused(tmp_path, pixels):
    with pytest.raises(semdrivers.InvalidParameterError, match=r"shape \(H, W\), uint8 or uint16, not"):
        frame(pixels=pixels).save(tmp_path / "frame.tif")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_earlier_file_and_no_other(tmp_path, monkeypatch):
    path = frame().save(tmp_path / "frame.tif")
    before = path.read_bytes()

    def fail(temporary, *arguments, **options):
        Path(temporary).write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="No space left") as raised:
        frame(working_distance=1.0).save(path, overwrite=True)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: '.*gone'"):
        frame().save(tmp_path / "gone" / "frame.tif")


def test_a_name_beyond_ascii(tmp_path):
    path = frame().save(tmp_path / "Schärfe µm.ome.tif")
    assert_same(semdrivers.read_image(path), frame())


def test_an_array_that_is_a_view_is_written_as_it_looks(tmp_path):
    pixels = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)[::2, ::-2]
    path = frame(pixels=pixels).save(tmp_path / "frame.tif")
    assert np.array_equal(semdrivers.read_image(path).pixels, pixels)


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (20, 30), dtype=np.uint8)


def saved(tmp_path, name: str, picture: Pillow.Image, **options) -> Path:
    path = tmp_path / name
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_grey_in_whatever_dress_stays_the_same_grey(tmp_path, grey, name, mode):
    if mode in ("LA", "RGBA") and name == "a.bmp":
        pytest.skip("BMP has no transparency")
    pixels = semdrivers.read_pixels(saved(tmp_path, name, Pillow.fromarray(grey).convert(mode)))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, grey)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_kept(tmp_path, name):
    deep = np.random.default_rng(4).integers(0, 65536, (20, 30), dtype=np.uint16)
    pixels = semdrivers.read_pixels(saved(tmp_path, name, Pillow.fromarray(deep)))
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, deep)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.tif"])
def test_a_palette_is_looked_up(tmp_path, grey, name):
    reversed_palette = [level for value in range(255, -1, -1) for level in (value, value, value)]
    picture = Pillow.fromarray(grey).convert("L")
    picture = picture.copy()
    picture.putpalette(reversed_palette)
    assert np.array_equal(semdrivers.read_pixels(saved(tmp_path, name, picture)), 255 - grey)


def test_colour_becomes_luma(tmp_path):
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[:, 0, 0] = picture[:, 1, 1] = picture[:, 2, 2] = 255
    pixels = semdrivers.read_pixels(saved(tmp_path, "a.png", Pillow.fromarray(picture)))
    assert pixels.tolist() == [[76, 150, 29]] * 2


def test_jpeg(tmp_path, grey):
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    pixels = semdrivers.read_pixels(saved(tmp_path, "a.jpg", Pillow.fromarray(smooth), quality=95))
    assert np.abs(pixels.astype(int) - smooth).max() < 12


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path, grey, compression):
    path = saved(tmp_path, "a.tif", Pillow.fromarray(grey), compression=compression)
    assert np.array_equal(semdrivers.read_pixels(path), grey)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_either_byte_order_and_polarity(tmp_path, photometric, byteorder):
    deep = np.random.default_rng(4).integers(0, 65536, (20, 30), dtype=np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, deep, photometric=photometric, byteorder=byteorder)
    pixels = semdrivers.read_pixels(path)
    assert pixels.dtype.isnative
    assert np.array_equal(pixels, 65535 - deep if photometric == "miniswhite" else deep)


def test_tiff_with_planar_colour(tmp_path, grey):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([grey] * 3), photometric="rgb", planarconfig="separate")
    assert np.array_equal(semdrivers.read_pixels(path), grey)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"rowsperstrip": 100},
        {"tile": (128, 64)},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 100},
        {"compression": "zlib", "tile": (128, 64)},
    ],
    ids=str,
)
def test_colour_tiff_of_every_layout_is_the_luma_of_its_colours(tmp_path, layout, dtype, byteorder):
    """Strips and tiles are converted as they come, so the last of each is cut off."""
    colours = np.random.default_rng(5).integers(0, np.iinfo(dtype).max, (300, 210, 4), dtype)
    colours[:150, :, 1] = colours[:150, :, 2] = colours[:150, :, 0]
    luma = np.rint(colours[..., :3] @ [0.299, 0.587, 0.114])
    for samples in (3, 4):
        for planar in ("contig", "separate"):
            data = colours[..., :samples] if planar == "contig" else np.moveaxis(colours[..., :samples], -1, 0)
            extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
            tifffile.imwrite(
                tmp_path / "a.tif", data, photometric="rgb", planarconfig=planar, byteorder=byteorder, **layout, **extra
            )
            pixels = semdrivers.read_pixels(tmp_path / "a.tif")
            assert pixels.dtype == dtype
            assert np.array_equal(pixels, luma)


@pytest.mark.slow
def test_a_picture_is_too_large_by_its_pixels_and_not_by_its_colours(tmp_path):
    large = tmp_path / "a.tif"
    tiles = (np.full((640, 9600, 3), row, np.uint8) for row in range(15))
    layout = {"photometric": "rgb", "compression": "zlib", "tile": (640, 9600)}
    tifffile.imwrite(large, tiles, shape=(9600, 9600, 3), dtype=np.uint8, **layout)
    pixels = semdrivers.read_pixels(large)
    assert pixels.shape == (9600, 9600)
    assert np.array_equal(pixels[::640, 7], np.arange(15))


def test_the_first_of_several_pictures(tmp_path, grey):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([grey, 255 - grey]), photometric="minisblack")
    assert np.array_equal(semdrivers.read_pixels(path), grey)


def test_floating_point_is_stretched_over_sixteen_bits(tmp_path):
    levels = np.linspace(-1.5, 2.5, 600, dtype=np.float32).reshape(20, 30)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, levels)
    pixels = semdrivers.read_pixels(path)
    assert pixels.dtype == np.uint16
    assert (pixels.min(), pixels.max()) == (0, 65535)
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()


def test_one_bit(tmp_path, grey):
    picture = Pillow.fromarray(grey > 127)
    pixels = semdrivers.read_pixels(saved(tmp_path, "a.png", picture))
    assert np.array_equal(pixels, np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("kind", ["LA", "RGB", "P", "1", "I;16"])
def test_a_large_picture_is_read_in_strips_as_a_small_one_is(tmp_path, kind):
    rows, columns = np.mgrid[:2050, :2050]
    values = (rows * columns // 64 % 256 ^ (rows * 7) % 32).astype(np.uint8)
    if kind == "I;16":
        Pillow.fromarray(values.astype(np.uint16) * 251 + 3).save(tmp_path / "large.png", compress_level=1)
    else:
        colours = np.dstack([values, values // 2, values // 3])
        Pillow.fromarray(colours).convert(kind).save(tmp_path / "large.png", compress_level=1)
    with Pillow.open(tmp_path / "large.png") as picture:
        for top in range(0, 2050, 1025):
            picture.crop((0, top, 2050, top + 1025)).save(tmp_path / f"{top}.png", compress_level=0)
    expected = np.vstack([read_pixels(tmp_path / f"{top}.png") for top in (0, 1025)])
    assert np.array_equal(read_pixels(tmp_path / "large.png"), expected)


@pytest.mark.parametrize("damage", ["shorter", "a bit", "no end"])
def test_a_damaged_large_picture_is_an_error(tmp_path, damage):
    path = tmp_path / "large.png"
    Pillow.fromarray(np.zeros((2050, 2050), np.uint8)).save(path, compress_level=0)
    whole = bytearray(path.read_bytes())
    if damage == "a bit":
        whole[len(whole) // 2] ^= 8
    path.write_bytes(whole[: {"shorter": len(whole) // 2, "a bit": None, "no end": 2000 * 2051}[damage]])
    with pytest.raises(InvalidParameterError, match=r"large\.png: no picture that can be read"):
        read_pixels(path)


def test_a_large_jpeg_with_colours_becomes_its_luma(tmp_path):
    rows, columns = np.mgrid[:2050, :2050]
    colours = np.dstack([rows // 9, columns // 9, (rows + columns) // 18]).astype(np.uint8)
    Pillow.fromarray(colours).save(tmp_path / "large.jpg", quality=95)
    assert np.abs(read_pixels(tmp_path / "large.jpg") - colours @ [0.299, 0.587, 0.114]).mean() < 1


def test_an_ordinary_picture_has_unknown_conditions(tmp_path, grey):
    image = semdrivers.read_image(saved(tmp_path, "a.png", Pillow.fromarray(grey)))
    assert math.isnan(image.working_distance)
    assert math.isnan(image.magnification)
    assert math.isnan(image.pixel_size)


def test_the_pixel_size_of_a_foreign_ome_tiff_is_told(tmp_path, grey):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, grey, metadata={"axes": "YX", "PhysicalSizeX": 0.0125, "PhysicalSizeXUnit": "µm"})
    assert semdrivers.read_image(path).pixel_size == pytest.approx(12.5)


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all", b"II*\0", b"II*\0" + bytes(60), b"\x89PNG\r\n\x1a\n" + bytes(40)]
)
@pytest.mark.parametrize("reader", [semdrivers.read_pixels, semdrivers.read_image])
def test_a_file_that_is_no_picture_is_one_clear_error(tmp_path, content, reader):
    path = tmp_path / "notes.tif"
    path.write_bytes(content)
    with pytest.raises(semdrivers.InvalidParameterError, match=r"notes\.tif: no picture") as caught:
        reader(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_picture_is_an_error(tmp_path, grey):
    path = saved(tmp_path, "a.png", Pillow.fromarray(np.tile(grey, (20, 20))))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(semdrivers.InvalidParameterError, match="no picture"):
        semdrivers.read_pixels(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(semdrivers.InvalidParameterError, match=r"gone\.tif: no such file"):
        semdrivers.read_pixels(tmp_path / "gone.tif")
    with pytest.raises(semdrivers.InvalidParameterError, match="that is a folder"):
        semdrivers.read_image(tmp_path)


def test_the_real_micrographs_can_all_be_read(data_folder):
    folders = (data_folder / "micrographs", data_folder / "series")
    paths = [path for folder in folders for path in sorted(folder.glob("*.*")) if path.suffix != ".json"]
    assert len(paths) >= 27
    for path in paths:
        pixels = semdrivers.read_pixels(path)
        assert pixels.ndim == 2, path.name
        assert min(pixels.shape) >= 480, path.name
        assert pixels.dtype == (np.uint16 if "16bit" in path.name else np.uint8), path.name
        assert pixels.std() > 1, path.name


@pytest.mark.parametrize("page", [-1, True, 0.0, "0"])
def test_a_page_is_a_whole_number_from_0(tmp_path, grey, page):
    Pillow.fromarray(grey).save(tmp_path / "a.png")
    with pytest.raises(InvalidParameterError, match="page must be a whole number from 0"):
        read_pixels(tmp_path / "a.png", page)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.array([[0.0, np.inf]], np.float32), "holds grey levels that are not finite"),
        (np.array([[0.0, np.nan]], np.float32), "holds grey levels that are not finite"),
        (np.ones((2, 2), np.complex64), "grey levels of type complex64 cannot be used"),
    ],
)
def test_grey_levels_that_are_none_are_named(tmp_path, pixels, words):
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(InvalidParameterError, match=words):
        read_pixels(tmp_path / "a.tif")


def test_whole_numbers_that_fit_into_16_bits_stay_and_others_are_stretched(tmp_path):
    for levels, read in (([0, 65535], [0, 65535]), ([0, 65536], [0, 65535]), ([-1, 1], [0, 65535])):
        tifffile.imwrite(tmp_path / "a.tif", np.array([levels], np.int32))
        assert read_pixels(tmp_path / "a.tif").tolist() == [read]


def test_the_second_page_of_a_gif_and_the_colours_of_print(tmp_path, grey):
    pages = [Pillow.fromarray(grey), Pillow.fromarray(255 - grey)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_pixels(tmp_path / "a.gif", 1), 255 - grey)
    pages[0].convert("RGB").convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_pixels(tmp_path / "a.jpg").astype(int) - grey).max() <= 8


def test_the_bits_of_a_grey_level_are_those_that_the_file_names(tmp_path):
    path, grey = tmp_path / "a.tif", np.arange(600, dtype=np.uint16).reshape(20, 30)
    for highest, expected in ((4095, 12), (16383, 14), (65535, None)):
        tifffile.imwrite(path, grey, extratags=[("MaxSampleValue", "H", 1, highest, True)])
        assert semdrivers.read_image(path).bit_depth == expected
