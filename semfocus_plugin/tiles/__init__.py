"""A whole sample, tile by tile: the plan, the pictures by a focus map, the mosaic and the report."""

from semfocus_plugin.tiles._joint import Joint, focus_between, joint
from semfocus_plugin.tiles._mosaic import Placed, assemble, place, write_mosaic
from semfocus_plugin.tiles._plan import Plan, Tile, plan_tiles
from semfocus_plugin.tiles._report import preview, write_report
from semfocus_plugin.tiles._run import MAP, PLAN, TileRecord, open_folder, read_tiles, second_look, take_tiles
from semfocus_plugin.tiles._sides import SIDES, AstigmaticTracker, beam_at

__all__ = [
    "MAP",
    "PLAN",
    "SIDES",
    "AstigmaticTracker",
    "Joint",
    "Placed",
    "Plan",
    "Tile",
    "TileRecord",
    "assemble",
    "beam_at",
    "focus_between",
    "joint",
    "open_folder",
    "place",
    "plan_tiles",
    "preview",
    "read_tiles",
    "second_look",
    "take_tiles",
    "write_mosaic",
    "write_report",
]
