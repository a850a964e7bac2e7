"""The Gymnasium environment, and control networks that learn in it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from semdrivers.errors import AutofocusError, InvalidParameterError
from semfocus_plugin.lab.studies import control
from semfocus_plugin.lab.training.curves import Curves

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env

from semfocus_plugin.lab.training.environment import FRAME_COST, SHORTEST, Ledger
from semfocus_plugin.networks import Evaluation, load, maximum_action, models_directory, read_manifest


def score_of(defocus):
    return 9 / (1 + (np.asarray(defocus) / 4.5) ** 2)


@pytest.fixture(scope="module")
def curves() -> Curves:
    grid = np.linspace(-20, 20, 401)
    values = np.stack([np.stack([score_of(grid), 0.02 * score_of(grid), 5 + 0 * grid])] * 3)
    magnification = np.array([1000.0, 3000.0, 9000.0])
    depth = np.array([maximum_action(m) / 9 for m in magnification])
    return Curves(grid, values, magnification, depth, np.zeros(3), ("a", "b", "c"))


class Stub:
    """An evaluator that reports the contrast of a frame."""

    blur_range = None

    def __call__(self, pixels, magnification):
        return Evaluation(float(min(pixels.std() / 10, 9)), 0.1, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("observation", ["state", "frame"])
@pytest.mark.filterwarnings("error:.*WARN")
def test_the_environment_passes_gymnasiums_checks(observation):
    check_env(gymnasium.make("SemFocus-v0", observation=observation, evaluator=Stub()).unwrapped)


@pytest.mark.slow
def test_a_step_to_the_focus_earns_more_than_one_away_from_it():
    made = gymnasium.make("SemFocus-v0", evaluator=load().evaluator)
    rewards = {}
    for sign in (1, -1):
        _, first = made.reset(seed=4)
        _, rewards[sign], _, _, after = made.step(np.array([0.3 * sign], np.float32))
        assert after["distance"] != first["distance"]
    assert rewards[1] != rewards[-1]
    with pytest.raises(InvalidParameterError, match="observation"):
        gymnasium.make("SemFocus-v0", observation="pictures")


def test_episodes_end_at_a_short_step_or_without_a_better_frame_and_cost_what_is_left():
    ledger = Ledger(3)
    ledger.begin(np.ones(3, bool), np.array([3.0, 3.0, 3.0]), np.array([6.0, 6.0, 6.0]))
    for number in range(5):
        action = np.array([0.5, 0.5, SHORTEST / 2 if number == 4 else 0.5])
        score, distance = np.array([2.0, 4.0 + number, 4.0 + number]), np.array([8.0, 4.0 - number, 1.0])
        reward, terminated, truncated = ledger.add(action, score, distance)
        assert terminated.tolist() == ([False] * 3 if number < 4 else [True, False, True])
        assert not truncated.any()
    assert reward[0] == pytest.approx(-FRAME_COST - 0.02 * 8 - 0.5 * 6)
    assert reward[2] == pytest.approx(-FRAME_COST - 0.02 - 0.5)


def test_curves_show_what_a_policy_earns(curves):
    made = gymnasium.make_vec("SemFocus-v0", 64, "vector_entry_point", curves=curves)
    earned = {}
    for name in ("still", "climbing"):
        states, _ = made.reset(seed=3)
        assert states.shape == (64, 80)
        total, ends = 0.0, 0
        for _ in range(40):
            action = climbing(states) if name == "climbing" else 0 * states[:, :1]
            states, reward, terminated, truncated, infos = made.step(action)
            ended = terminated | truncated
            assert ("final_obs" in infos) == ended.any()
            total, ends = total + reward.sum(), ends + ended.sum()
        earned[name] = total / ends
    assert earned["climbing"] > earned["still"] + 0.2


def climbing(states):
    """Go on where the score has risen, and turn back with half the step where it has not."""
    went, risen = states[:, :1], states[:, 20:21] > 0
    return np.where(went == 0, 0.4, np.where(risen, went, -0.5 * went))


@pytest.mark.slow
def test_a_reinforced_network_approaches_the_focus_and_goes_where_acnet_goes(curves, tmp_path, monkeypatch):
    reinforcement = pytest.importorskip("semfocus_plugin.lab.training.reinforcement")
    monkeypatch.setattr(reinforcement, "measure_folders", lambda *_: curves)
    monkeypatch.setattr(reinforcement, "_WARM_UP", 1000)
    made = tmp_path / "reinforced"
    config = reinforcement.ReinforcedConfig((str(tmp_path),), frames=4000, hidden=32, updates=2)
    reinforcement.train(config, made, Stub())
    reinforcement.train(
        reinforcement.ReinforcedConfig((str(tmp_path),), frames=6000, hidden=32), made, Stub(), resume=True
    )
    (card,) = read_manifest(made)
    assert card.details["metrics"]["epoch"] >= 6000
    (made / "acnet.onnx").unlink()
    again = reinforcement.train(dataclasses.replace(config, frames=6000), made, Stub(), resume=True)
    assert again.exists()
    shipped = next(each for each in read_manifest(models_directory()) if each.role == "acnet")
    assert (card.inputs, card.outputs, card.role) == (shipped.inputs, shipped.outputs, shipped.role)


@pytest.mark.slow
def test_runs_that_raise_are_no_comparison(tmp_path):
    """A folder without a control network."""
    made = json.loads((models_directory() / "manifest.json").read_text())
    made["models"] = [model for model in made["models"] if model["role"] == "aenet"]
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    (tmp_path / "aenet.onnx").write_bytes((models_directory() / "aenet.onnx").read_bytes())
    with pytest.raises(AutofocusError, match="1 of 1 runs on trained samples raised"):
        list(control.table({"no controller": str(tmp_path)}, 1, 5, workers=1))
