"""One rule for every writer: a file that is there is kept, unless replacing it is configured."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import semdrivers
from semdrivers.files import plot_before_after, plot_result, replacing

PIXELS = np.arange(320 * 240, dtype=np.uint16).reshape(240, 320)
IMAGE = semdrivers.Image(PIXELS, 12.0, 1000.0, 400.0)
RESULT = semdrivers.AutofocusResult(
    status="refused", reason="", working_distance=12.0, start_working_distance=12.0, score=1.0, confidence=0.0,
    frames=0, elapsed=0.1, method="test",
)  # fmt: skip
WRITERS = {
    "a.tif": IMAGE.save,
    "b.tif": lambda path, **how: semdrivers.write_image(path, IMAGE, **how),
    "c.json": RESULT.save,
    "d.png": RESULT.plot,
    "e.png": lambda path, **how: plot_result(RESULT.to_dict(), path, **how),
    "f.png": lambda path, **how: plot_before_after(PIXELS, PIXELS, ("a", "b"), 1.0, path, **how),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_kept_unless_configured_otherwise(tmp_path, name):
    write, path = WRITERS[name], tmp_path / name
    assert write(path) == path
    path.write_bytes(b"precious")
    with pytest.raises(semdrivers.ExistingFileError, match="exists already and is kept"):
        write(path)
    assert path.read_bytes() == b"precious"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    write(path, overwrite=True)
    assert path.stat().st_size > 100


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("10 requested and 3 written")])
def test_a_file_that_the_disk_has_no_room_for_is_named(tmp_path, error):
    """The second is all that numpy says of it."""
    path = tmp_path / "mosaic.ome.tif"
    with pytest.raises(OSError, match=r"(No space left|as on a full disk).*mosaic\.ome\.tif"), replacing(path):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_at_once_one_wins_and_the_other_fails(tmp_path):
    path, barrier, outcomes = tmp_path / "a.txt", threading.Barrier(2), []

    def write(text):
        try:
            with replacing(path) as partial:
                partial.write_text(text)
                barrier.wait(10)
            outcomes.append(text)
        except semdrivers.ExistingFileError:
            outcomes.append("kept")

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=lambda text: text == "kept")[1] == "kept"
    assert path.read_text() == outcomes[outcomes[0] == "kept"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_that_leads_nowhere_is_kept_too(tmp_path):
    path = tmp_path / "a.tif"
    path.symlink_to(tmp_path / "elsewhere" / "a.tif")
    with pytest.raises(semdrivers.ExistingFileError):
        IMAGE.save(path)
    assert path.is_symlink()
