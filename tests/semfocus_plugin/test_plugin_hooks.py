"""The plugin as `semdrivers` sees it: found through its entry point, called through its hooks."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import semdrivers
from semdrivers import AutofocusSettings, BusyError, InvalidParameterError, ModelError
from semfocus_plugin import methods, plugin


def test_methods_are_offered_and_found_through_the_entry_point():
    offered = semdrivers.get_plugin_manager().autofocus_methods()
    assert {"dual-network", "paper"} <= set(offered)
    (record,) = [r for r in semdrivers.get_plugin_manager().records if r.name == "semfocus"]
    assert record.loaded
    assert set(record.hooks) == {
        "semdrivers_autofocus",
        "semdrivers_autofocus_methods",
        "semdrivers_focus_between",
    }


def test_method_of_another_plugin_is_passed_on(simulate):
    microscope, _ = simulate(1)
    settings = AutofocusSettings(method="somebody-elses")
    assert plugin.semdrivers_autofocus(microscope, settings, None, None) is None
    assert microscope.sent == []


def test_unknown_method_is_named_before_the_instrument_is_touched(simulate):
    microscope, _ = simulate(1)
    with pytest.raises(InvalidParameterError, match="dual-networks"):
        semdrivers.autofocus(microscope, method="dual-networks")
    assert microscope.sent == []


def test_broken_models_are_named_and_nothing_moves(simulate, monkeypatch, tmp_path):
    monkeypatch.setenv("SEMFOCUS_MODELS", str(tmp_path))
    microscope, _ = simulate(1)
    start = microscope.working_distance
    with pytest.raises(ModelError, match="reinstall"):
        semdrivers.autofocus(microscope)
    assert set(microscope.sent) <= {start}


@pytest.mark.parametrize("name", [method.name for method in methods.METHODS])
def test_every_method_keeps_the_contract(simulate, tiny_models, name):
    microscope, _ = simulate(4)
    start, seen = microscope.working_distance, []
    result = semdrivers.autofocus(microscope, method=name, max_frames=25, progress=seen.append)
    assert result.method == name
    assert result.frames == len(result.trace) == len(seen) <= 25
    assert result.working_distance == microscope.working_distance
    assert result.start_working_distance == start
    assert result.status in ("focused", "refused")
    assert result.focused or microscope.working_distance == start


def test_two_runs_at_once_on_one_microscope_are_refused(simulate, tiny_models):
    microscope, _ = simulate(5)
    errors = []

    def second(step):
        if step.index == 0:
            try:
                semdrivers.autofocus(microscope)
            except BusyError as error:
                errors.append(error)

    thread = threading.Thread(target=lambda: semdrivers.autofocus(microscope, progress=second, method="dual-network"))
    thread.start()
    thread.join(60)
    assert len(errors) == 1


def test_neither_torch_nor_the_emulator_is_needed_to_focus(tiny_models):
    script = (
        "import sys, semfocus_plugin.plugin, semfocus_plugin\n"
        "heavy = {'torch', 'onnxruntime', 'semdrivers.emulator', 'matplotlib', 'typer'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
