"""The reference lists every strength of every preset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from semdrivers.emulator.physics import PRESETS, ColumnPreset

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "emulator.md").read_text(encoding="utf-8")


def told(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value:g}"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ColumnPreset)])
def test_a_strength_is_listed_with_its_values(name: str) -> None:
    values = " | ".join(told(getattr(preset, name)) for preset in PRESETS.values())
    assert f"| `{name}` | {values} | " in PAGE
