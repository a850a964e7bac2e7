"""Metal specimens of the paper: tin balls, a TEM grid with torn film, gold nanoparticles on carbon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semdrivers.emulator.specimens._fields import (
    Array,
    Window,
    footprint,
    median,
    noise,
    rough,
    scattered,
    smoothstep,
    specks,
)


@dataclass(frozen=True, slots=True)
class TinBalls:
    """Spheres of 0.1 to 50 µm on a carbon pad, edge-bright, small ones on large ones, with a grainy skin."""

    seed: int

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        seed, p = self.seed, window.pixel
        pad = rough(window, 20.0, 2 * p, 0.85, seed + 1)
        height = np.float32(0.6) * pad
        intensity = 0.42 + 0.07 * pad + 0.05 * rough(window, 1.5, 2 * p, 0.4, seed + 2)
        grain = rough(window, 3.0, 2 * p, 0.55, seed + 3)
        crystals = np.abs(noise(window, 2.3, 2.9, seed + 4)) + 0.6 * np.abs(noise(window, 0.55, 0.7, seed + 5))
        skin = 1 + 0.10 * grain - 0.16 * np.exp(-14 * crystals)
        radius = 12.8
        while radius > max(0.3 * p, 0.05):
            dense = 0.5 if radius > 6 else 0.3 if radius > 1.5 else 0.12
            balls = scattered(window, 3.4 * radius, dense, 2 * radius, seed + int(radius * 1000))
            if 2 * radius < 1.3 * p:
                specks(window, balls[:, :2], radius * (1 + balls[:, 2]), 1.0 + 0.4 * balls[:, 3], intensity)
            else:
                for x, y, u, v, w, _ in balls.tolist():
                    self._ball(window, intensity, height, skin, (x, y, radius * (1 + u)), 0.85 + 0.3 * v, w)
            radius /= 2
        return intensity.astype(np.float32), height

    @staticmethod
    def _ball(
        window: Window,
        intensity: Array,
        height: Array,
        skin: Array,
        place: tuple[float, float, float],
        tone: float,
        lift: float,
    ) -> None:
        x, y, radius = place
        patch = footprint(window, x, y, radius)
        if patch is None:
            return
        rows, columns, dx, dy = patch
        squared = (dx * dx + dy * dy) / np.float32(radius * radius)
        cosine = np.sqrt(np.maximum(1 - squared, 0))
        ground = median(height[rows, columns])
        top = np.float32(ground + radius * (0.6 + 0.4 * lift)) + np.float32(radius) * cosine
        seen = (squared < 1) & (top > height[rows, columns])
        edge = 0.72 + 0.26 / (cosine + np.float32(0.22)) - 0.16 * dx / np.float32(radius)
        value = np.float32(tone) * edge * skin[rows, columns]
        np.copyto(intensity[rows, columns], value.astype(np.float32), where=seen)
        np.copyto(height[rows, columns], top.astype(np.float32), where=seen)


@dataclass(frozen=True, slots=True)
class TemGrid:
    """A copper grid of 62 µm pitch: grainy bars, torn lacey film in the holes, dirt of every size."""

    seed: int

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        seed, p, pitch = self.seed, window.pixel, 62.0
        wobble = 0.5 * rough(window, 14.0, 2 * p, 0.9, seed + 1)
        phase_x = np.abs((window.xs + np.float32(window.x % pitch)) % pitch - pitch / 2)[None, :]
        phase_y = np.abs((window.ys + np.float32(window.y % pitch)) % pitch - pitch / 2)[:, None]
        hole = np.maximum(phase_x, phase_y) + 0.35 * np.maximum(phase_x + phase_y - 32, 0) + wobble
        edge = max(0.25, 0.7 * p)
        bar = smoothstep(hole, 20.0 - edge, 20.0 + edge)
        grain = rough(window, 4.0, 2 * p, 0.6, seed + 2)
        lines = np.exp(-9 * np.abs(noise(window, 3.1, 2.4, seed + 3)))
        metal = 1.05 + 0.13 * grain - 0.3 * lines
        metal += 0.8 * np.exp(-(((hole - 20.6) / max(0.5, p)) ** 2))
        web = rough(window, 5.0, 2 * p, 1.0, seed + 4) + 0.4 * rough(window, 0.9, 2 * p, 0.9, seed + 5)
        soft = max(0.05, 0.25 * p)
        film = smoothstep(web, -0.35 - soft, -0.35 + soft)
        rim = np.exp(-((web + 0.35) ** 2) / np.float32(2 * max(0.05, 0.2 * p) ** 2))
        sheet = film * (0.46 + 0.06 * rough(window, 2.0, 2 * p, 0.3, seed + 6)) + 0.1 * (1 - film) + 0.35 * rim
        intensity = (bar * metal + (1 - bar) * sheet).astype(np.float32)
        height = (9.0 * bar + 0.8 * (1 - bar) * noise(window, 30.0, 30.0, seed + 7)).astype(np.float32)
        self._dirt(window, intensity, height)
        return intensity, height

    def _dirt(self, window: Window, intensity: Array, height: Array) -> None:
        size = 2.0
        while size > max(0.3 * window.pixel, 0.04):
            grains = scattered(window, 7 * size, 0.5, 2 * size, self.seed + 50 + int(size * 1000))
            if 1.5 * size < 1.3 * window.pixel:
                specks(window, grains[:, :2], size * (0.5 + grains[:, 2]), 0.9 + 0.6 * grains[:, 5], intensity)
                grains = grains[:0]
            for x, y, u, v, w, t in grains.tolist():
                radius = size * (0.5 + u)
                patch = footprint(window, x, y, 1.5 * radius)
                if patch is None:
                    continue
                rows, columns, dx, dy = patch
                turn = np.arctan2(dy, dx) * np.float32(2 + int(4 * v))
                rim = 1 + 0.12 * np.cos(turn + 6 * w) + 0.08 * np.sin(np.arctan2(dy, dx) + 9 * t)
                distance = np.sqrt(dx * dx + dy * dy) / (np.float32(radius) * rim)
                body = 1 - smoothstep(distance, 1 - window.pixel / radius, 1 + window.pixel / radius)
                value = 0.7 + 0.6 * t + 0.4 * distance**4
                target = intensity[rows, columns]
                target += body * (np.minimum(value, 1.9).astype(np.float32) - target)
                height[rows, columns] += np.float32(0.5 * radius) * body
            size /= 2


@dataclass(frozen=True, slots=True)
class GoldNanoparticles:
    """Gold islands of 10 to 400 nm on carbon. Fields wider than 40 µm show the film: domains and cracks."""

    seed: int

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        seed, p = self.seed, window.pixel
        carbon = rough(window, 6.0, 2 * p, 0.7, seed + 1)
        intensity = (0.45 + 0.05 * carbon).astype(np.float32)
        height = (0.05 * carbon).astype(np.float32)
        cover = noise(window, 1.9, 1.9, seed + 2)
        radius = 0.16
        while radius > max(0.3 * p, 0.006):
            islands = scattered(window, 3.2 * radius, 0.5, 2.2 * radius, seed + int(radius * 1e5))
            at_row = np.clip(islands[:, 1] / p, 0, window.height - 1).astype(np.int64)
            at_column = np.clip(islands[:, 0] / p, 0, window.width - 1).astype(np.int64)
            islands = islands[cover[at_row, at_column] >= 1.6 * islands[:, 5] - 1.9]
            if 1.4 * radius < 1.3 * p:
                sizes = radius * (0.7 + 0.7 * islands[:, 2])
                specks(window, islands[:, :2], sizes, 1.35 + 0.5 * islands[:, 5], intensity)
                islands = islands[:0]
            for x, y, u, v, w, t in islands.tolist():
                size = radius * (0.7 + 0.7 * u)
                patch = footprint(window, x, y, 1.4 * size)
                if patch is None:
                    continue
                rows, columns, dx, dy = patch
                cosine, sine, stretch = math.cos(6.3 * v), math.sin(6.3 * v), 1 + 0.5 * w
                along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
                distance = np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / np.float32(size)
                body = 1 - smoothstep(distance, 1 - 0.6 * p / size, 1 + 0.6 * p / size)
                value = np.float32(1.25 + 0.5 * t) + 0.35 * distance**4
                target = intensity[rows, columns]
                target += body * (np.minimum(value, 2.2) - target)
                height[rows, columns] += np.float32(0.6 * size) * body
            radius /= 1.7
        self._film(window, cover, radius, intensity)
        return intensity, height

    def _film(self, window: Window, cover: Array, radius: float, intensity: Array) -> None:
        """Lay the islands from `radius` (µm) down, too small for the pixels, as the film that the eye makes of them.

        Faded in with the field (8 000×: nothing, 1 000×: all of it), so that closer views are the islands alone.
        """
        shown = smoothstep(np.array(math.log(max(window.size)), np.float32), math.log(40.0), math.log(130.0))
        if shown == 0:
            return
        classes = max(math.ceil(math.log(max(radius, 0.006) / 0.006) / math.log(1.7)), 0)
        present = np.clip((cover + np.float32(1.9)) / np.float32(1.6), 0, 1)
        film = 1 - (1 - np.float32(0.17) * present) ** classes
        intensity += shown * film * (np.float32(1.7) - intensity)
        domains = rough(window, 90.0, 10.0, 0.6, self.seed + 3)
        bend = noise(window, 55.0, 40.0, self.seed + 4) + np.float32(0.3) * noise(window, 11.0, 11.0, self.seed + 5)
        crack = np.exp(-np.abs(bend) * np.float32(20 / max(1.0, window.pixel)))
        intensity *= (1 + shown * np.float32(0.12) * domains) * (1 - shown * np.float32(0.55) * crack)
