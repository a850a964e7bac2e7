"""Specimens that the paper never trained on: a butterfly wing and a woven fabric; and one with nothing to see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semdrivers.emulator.specimens._fields import Array, Window, footprint, noise, rough, scattered, smoothstep


@dataclass(frozen=True, slots=True)
class ButterflyWing:
    """Overlapping scales of about 70 × 130 µm with ridges 1.7 µm apart and cross-ribs between them."""

    seed: int

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        p, seed = window.pixel, self.seed
        intensity = np.full((window.height, window.width), 0.25, np.float32)
        height = np.full_like(intensity, -6.0)
        dust = rough(window, 1.2, 2 * p, 0.4, seed + 1)
        warp = 0.5 * noise(window, 25.0, 25.0, seed + 2) + 0.12 * noise(window, 4.0, 4.0, seed + 3)
        scales = scattered(window, 48.0, 0.98, 110.0, seed + 4)
        scales = scales[np.argsort(-scales[:, 1])]
        for x, y, u, v, w, t in scales.tolist():
            turn = 0.35 * (u - 0.5)
            patch = footprint(window, x, y, 90.0)
            if patch is None:
                continue
            rows, columns, dx, dy = patch
            across = dx * math.cos(turn) + dy * math.sin(turn)
            along = dy * math.cos(turn) - dx * math.sin(turn)
            half_width = 34.0 + 8 * v
            finger = 5.0 * np.cos(across * np.float32(0.22) + 6 * w) * smoothstep(along, 25.0, 60.0)
            outline = np.maximum(np.abs(across) / half_width, np.abs(along + finger - 6) / 66.0)
            inside = outline < 1
            if not inside.any():
                continue
            ridges = self._ridges(across + warp[rows, columns] + np.float32(3 * t), along, p)
            rim = np.exp(-(((1 - outline) * half_width / max(0.9, p)) ** 2))
            tone = (0.5 + 0.14 * t) * (1 + 0.06 * dust[rows, columns]) + ridges + 0.5 * rim
            level = -2.0 + 0.07 * along + 0.004 * across**2 + 5.0 * (w - 0.5)
            np.copyto(intensity[rows, columns], tone.astype(np.float32), where=inside)
            np.copyto(height[rows, columns], level.astype(np.float32), where=inside)
        return intensity, height

    @staticmethod
    def _ridges(across: Array, along: Array, pixel: float) -> Array:
        pitch, rib = np.float32(1.7), np.float32(0.55)
        phase = np.abs(across / pitch - np.round(across / pitch)) * pitch
        fade = min(1.0, (1.7 / (2.0 * pixel)) ** 2)
        ridge = np.exp(-((phase / np.float32(max(0.22, 0.4 * pixel))) ** 2))
        out = np.float32(0.75 * fade) * ridge
        if pixel < 0.27:
            stagger = np.floor(across / pitch) * np.float32(0.21)
            offset = along / rib + stagger
            bars = np.exp(-(((np.abs(offset - np.round(offset)) * rib) / np.float32(max(0.09, 0.4 * pixel))) ** 2))
            out = out + np.float32(0.45) * bars * (1 - ridge) - np.float32(0.12) * (1 - bars) * (1 - ridge)
        return out


@dataclass(frozen=True, slots=True)
class Fabric:
    """A plain weave of yarns 220 µm wide, each a twisted bundle of 13 µm fibres with scaly skins."""

    seed: int

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        warp, warp_height = self._yarns(window, transposed=False)
        weft, weft_height = self._yarns(window, transposed=True)
        x = (window.xs + np.float32(window.x % 440.0))[None, :] * np.float32(math.pi / 220)
        y = (window.ys + np.float32(window.y % 440.0))[:, None] * np.float32(math.pi / 220)
        over = np.float32(30.0) * np.sin(x + 0.5) * np.sin(y + 0.3)
        top, bottom = warp_height + over, weft_height - over
        height = np.maximum(top, bottom).astype(np.float32)
        shadow = 1 - 0.3 * np.exp(-np.abs(top - bottom) / np.float32(4.0))
        return (1.3 * np.where(top > bottom, warp, weft) * shadow).astype(np.float32), height

    def _yarns(self, window: Window, *, transposed: bool) -> tuple[Array, Array]:
        """One set of parallel yarns, along y, or along x when transposed."""
        seed = self.seed + (1000 if transposed else 0)
        if transposed:
            window = Window(window.y, window.x, window.pixel, window.height, window.width)
        p = window.pixel
        bend = 4.0 * noise(window, 150.0, 260.0, seed + 1) + 0.8 * noise(window, 30.0, 60.0, seed + 2)
        yarn = (window.xs + np.float32(window.x % 220.0))[None, :] + bend
        body = np.sqrt(np.maximum(1 - ((yarn % 220.0 - 110) / 112) ** 2, 0.02))
        slant = yarn + np.float32(0.32) * ((window.ys + np.float32(window.y % 1e4))[:, None])
        fibre = 13.0
        number = np.floor(slant / fibre)
        across = (slant / fibre - number) * 2 - 1
        depth = np.sin(number * 12.9898 + seed) * 43758.547
        depth = (depth - np.floor(depth)).astype(np.float32)
        cosine = np.sqrt(np.maximum(1 - across**2, 0.0))
        skin = rough(window, 5.0, 2 * p, 0.7, seed + 3, anisotropy=0.35)
        crack = np.exp(-7 * np.abs(noise(window, 9.0, 3.0, seed + 4) + 0.5 * noise(window, 2.0, 0.8, seed + 5)))
        dirt = smoothstep(rough(window, 1.4, 2 * p, 0.6, seed + 6), 1.6, 1.9)
        edge = 0.45 + 0.2 / (cosine + np.float32(0.3))
        tone = edge * (0.8 + 0.35 * depth) * (1 + 0.11 * skin) - 0.22 * crack + 0.4 * dirt
        height = 40 * body + 6.0 * cosine + 5.0 * depth + 0.15 * skin
        if transposed:
            return tone.T, height.T
        return tone, height


@dataclass(frozen=True, slots=True)
class Featureless:
    """A mirror: nothing but the noise of the beam."""

    seed: int

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        shape = (window.height, window.width)
        return np.full(shape, 0.7, np.float32), np.zeros(shape, np.float32)
