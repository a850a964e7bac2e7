"""What napari gets: pictures and series as layers with scale and conditions, and the score of one."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pillow

import semdrivers
import semfocus_plugin
from semfocus_plugin.napari import read, reader_of, score_active_layer, score_of


def image(level: int = 0, working_distance: float = 12.0) -> semdrivers.Image:
    pixels = np.random.default_rng(level).integers(0, 256, (240, 320), np.uint8)
    return semdrivers.Image(pixels, working_distance, 5000.0, 80.0, metadata={"stage_x": 1.5})


def layer_of(data, arguments, kind):
    """A layer as napari makes it of what a reader returns, as far as the score needs one."""
    return SimpleNamespace(data=data, rgb=False, **{"scale": (1.0, 1.0), "units": (), "metadata": {}, **arguments})


def test_a_picture_is_a_layer_with_its_scale_and_conditions(tmp_path):
    path = str(image().save(tmp_path / "a.ome.tif"))
    ((pixels, arguments, kind),) = reader_of(path)(path)
    assert (kind, arguments["name"], arguments["scale"]) == ("image", "a.ome.tif", (0.08, 0.08))
    assert arguments["units"] == ("µm", "µm")
    assert arguments["metadata"]["working_distance"] == 12.0
    assert arguments["metadata"]["metadata"]["stage_x"] == 1.5
    assert np.array_equal(pixels, image().pixels)
    assert [layer[1]["name"] for layer in read([path, path])] == ["a.ome.tif"] * 2


def test_a_focal_series_is_a_stack_by_working_distance(tmp_path):
    places = [12.3, 12.1, 12.2]
    for index, place in enumerate(places):
        image(index, place).save(tmp_path / f"{index}.ome.tif")
    with (tmp_path / "series.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "working_distance"), *((f"{i}.ome.tif", p) for i, p in enumerate(places))])
    ((pixels, arguments, _),) = reader_of(str(tmp_path))(str(tmp_path))
    assert pixels.shape == (3, 240, 320)
    assert arguments["metadata"]["working_distances"] == sorted(places)
    for plane, place in zip(pixels, sorted(places), strict=True):
        assert np.array_equal(plane, image(places.index(place)).pixels)


def test_pictures_of_several_sizes_are_a_stack_of_the_smallest(tmp_path):
    for index in range(2):
        pixels = np.tile(image().pixels, (index + 1, index + 1))
        semdrivers.Image(pixels, 12.0 + index, 5000.0, 80.0 / (index + 1)).save(tmp_path / f"{index}.ome.tif")
    lines = [("file", "working_distance"), ("0.ome.tif", 12.0), ("1.ome.tif", 13.0)]
    with (tmp_path / "series.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    ((pixels, arguments, _),) = reader_of(str(tmp_path))(str(tmp_path))
    assert np.array_equal(
        pixels, [image().pixels, np.tile(image().pixels, (2, 2)).reshape(240, 2, 320, 2).mean((1, 3)).round()]
    )
    assert arguments["scale"] == (1.0, 0.08, 0.08)


def test_a_picture_without_a_scale_gets_none_and_is_scored_by_what_is_known(tmp_path):
    path = str(tmp_path / "a.png")
    Pillow.fromarray(image().pixels).save(path)
    layer = layer_of(*read(path)[0])
    assert layer.scale == (1.0, 1.0)
    layer.metadata["magnification"] = 5000.0
    assert score_of(layer) == semfocus_plugin.score(image().pixels, magnification=5000.0)
    layer.data, layer.rgb = np.zeros((240, 320, 3), np.uint8), True
    with pytest.raises(semdrivers.InvalidParameterError, match="no grey picture"):
        score_of(layer)


def test_other_files_are_left_to_other_readers(tmp_path):
    assert reader_of(str(tmp_path / "a.czi")) is None
    assert reader_of([]) is None


def test_the_active_layer_is_scored_as_from_python(tmp_path):
    path = str(image().save(tmp_path / "a.ome.tif"))
    layer = layer_of(*read(path)[0])
    expected = semfocus_plugin.score(image())
    viewer = SimpleNamespace(
        layers=SimpleNamespace(selection=SimpleNamespace(active=layer)), dims=SimpleNamespace(current_step=(0, 0))
    )
    score_active_layer(viewer)
    assert layer.metadata["score"] == pytest.approx(expected)
    assert f"{expected:.2f}" in viewer.status
    stack = layer_of(np.stack([np.zeros((240, 320), np.uint8), image().pixels]), {"name": "stack"}, "image")
    assert score_of(stack, (1, 0, 0), 5000.0) == pytest.approx(expected)
    stack.scale, stack.units = (1.0, 0.08, 0.08), ("pixel", "micrometer", "micrometer")
    assert score_of(stack, (1, 0, 0)) == pytest.approx(expected)
    viewer.layers.selection.active = None
    with pytest.raises(semdrivers.InvalidParameterError, match="no layer is active"):
        score_active_layer(viewer)


def test_a_layer_without_magnification_asks_for_it():
    with pytest.raises(semdrivers.InvalidParameterError, match="does not hold its magnification"):
        score_of(layer_of(image().pixels, {"name": "plain"}, "image"))


def test_napari_itself_opens_a_picture_and_a_series_and_scores_them(tmp_path, monkeypatch):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    components = pytest.importorskip("napari.components", reason="napari is not installed")
    pytest.importorskip("qtpy.QtWidgets", reason="Qt is not installed", exc_type=ImportError)
    from napari._qt.qt_event_loop import get_qapp
    from npe2 import PluginManager

    PluginManager.instance().discover()
    application, viewer = get_qapp(), components.ViewerModel()  # all but the window, which needs OpenGL
    series = tmp_path / "series"
    series.mkdir()
    for index in range(2):
        image(index, 12.0 + index).save(series / f"{index}.ome.tif")
    (series / "series.csv").write_text("file,working_distance\n0.ome.tif,12\n1.ome.tif,13\n")
    viewer.open(str(image().save(tmp_path / "a.ome.tif")), plugin="semdrivers")
    viewer.open(str(series), plugin="semdrivers")
    assert [layer.data.shape for layer in viewer.layers] == [(240, 320), (2, 240, 320)]
    assert [str(unit) for unit in viewer.layers[1].units] == ["pixel", "micrometer", "micrometer"]
    (contribution,) = [each for each in PluginManager.instance().iter_widgets() if each.plugin_name == "semdrivers"]
    widget = contribution.get_callable()()
    widget.viewer.bind(viewer)
    viewer.layers.selection.active = viewer.layers[0]
    widget.magnification.value = 150_000
    widget.call_button.clicked.emit(True)
    assert viewer.status.startswith("a.ome.tif: score ")
    assert application is not None
