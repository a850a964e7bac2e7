"""The networks: AENet as published and in compact form, and ACNet.

Both AENets take (N, 2, H, W): the normalised picture and the mag-image. 320 × 240 gives one score; larger pictures give
a map of scores, one every 16 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_STRIDE = 16
_MIDDLE_MAGNIFICATION = 3_000.0
_NOMINAL_CORE = 30.0 / 400_000.0
"""Probe core in pixels of the FAST frame at magnification 1: 30 nm over 400 µm."""
_WINDOW = (240 // _STRIDE, 320 // _STRIDE)


class PaperAENet(nn.Module):
    """AENet of the paper (Fig. 2b; Table S2 reconstructed from the counts in the text): 51.6 M parameters at width 1.

    Parameters
    ----------
    width : float
        Factor on the channels of every layer from the third on.
    """

    outputs = ("score",)

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c = [max(1, round(width * n)) for n in (32, 64, 128, 256, 512)]
        self.head = nn.Sequential(
            _convolution(2, 2, (5, 5), padding=2),
            _convolution(2, 3, (3, 4)),
            _convolution(3, c[0], (3, 4)),
            nn.LeakyReLU(0.2),
        )
        self.body = nn.Sequential(
            _PaperBlock(c[0], c[1], (3, 4)),
            nn.MaxPool2d(2),
            _PaperBlock(c[1], c[2], (3, 4)),
            nn.MaxPool2d(2),
            _PaperBlock(c[2], c[3], (3, 4)),
            nn.MaxPool2d(2),
            _PaperBlock(c[3], c[4], (4, 5)),
            nn.MaxPool2d(2),
            _PaperBlock(c[4], c[4], (4, 5)),
        )
        self.tail = nn.Sequential(
            _convolution(c[4], c[4], (4, 5)),
            nn.LeakyReLU(0.2),
            _convolution(c[4], c[3], (1, 1)),
            nn.LeakyReLU(0.2),
            _convolution(c[3], c[2], (1, 1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(c[2], 1, 1, bias=False),
        )

    def forward(self, frames: Tensor) -> tuple[Tensor]:
        """Return the score map, (N, 1, h, w), unclipped while training."""
        score = self.tail(self.body(self.head(frames)))
        return (score if self.training else score.clamp(0, 9),)


class _PaperBlock(nn.Module):
    """Two unpadded convolutions, and a projection shortcut whose kernel spans both."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _convolution(inputs, outputs, kernel), nn.LeakyReLU(0.2), _convolution(outputs, outputs, kernel)
        )
        self.shortcut = _convolution(inputs, outputs, (2 * kernel[0] - 1, 2 * kernel[1] - 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.main(x) + self.shortcut(x), 0.2)


class CompactAENet(nn.Module):
    """AENet small enough for two cores: strided residual stages, gated average, a head that knows the magnification.

    Beside the score it gives the blur that it saw, ln(1 + radius in pixels), and the logarithm of its standard
    deviation. Once trained, the score is the mean of two readings: the head's own, which has seen columns with probe
    cores of every size and knows none of them, and the score that the blur implies under a nominal core.

    Parameters
    ----------
    channels : tuple of int
        Of the stem and of the three stages.
    blocks : tuple of int
        Residual blocks of the stages.
    """

    outputs = ("score", "log_blur", "log_sigma")

    def __init__(self, channels: tuple[int, ...] = (16, 24, 48, 96), blocks: tuple[int, ...] = (1, 2, 2)) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(2, channels[0], (5, 5), 2, 2), nn.LeakyReLU(0.2)]
        for inputs, outputs, count in zip(channels, channels[1:], blocks, strict=False):
            layers += [_convolution(inputs, outputs, (3, 3), 1, 2), nn.LeakyReLU(0.2)]
            layers += [_ResidualBlock(outputs) for _ in range(count)]
        self.body = nn.Sequential(*layers)
        self.gate = nn.Conv2d(channels[-1], 1, 1)
        self.head = nn.Sequential(nn.Conv2d(channels[-1] + 1, 64, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 3, 1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of score (unclipped while training), log blur and log sigma, each (N, 1, h, w)."""
        magnification = torch.log(frames[:, 1:] * (100_000 / _MIDDLE_MAGNIFICATION) + 1e-3)
        features = self.body(torch.cat([frames[:, :1], magnification], 1))
        gate = torch.sigmoid(self.gate(features))
        pooled = _pool(features * gate) / _pool(gate)
        height, width = features.shape[-2:]
        told = _pool(magnification[:, :, ::_STRIDE, ::_STRIDE][:, :, :height, :width])
        score, log_blur, log_sigma = self.head(torch.cat([pooled, told], 1)).split(1, 1)
        log_blur = log_blur.clamp(0, 7)
        if not self.training:
            score = (score.clamp(0, 9) + _implied_score(log_blur, told)) / 2
        return score, log_blur, log_sigma.clamp(-6, 3)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _convolution(channels, channels, (3, 3), 1),
            nn.LeakyReLU(0.2),
            _convolution(channels, channels, (3, 3), 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x + self.main(x), 0.2)


class ACNet(nn.Module):
    """The control network: 80-512-512-512-512-1 with batch norm, leaky ReLU and tanh (Fig. 2c, Table S3)."""

    def __init__(self, inputs: int = 80, hidden: int = 512, layers: int = 4) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for k in range(layers):
            stack += [
                nn.Linear(hidden if k else inputs, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.LeakyReLU(0.2),
            ]
        self.stack = nn.Sequential(*stack, nn.Linear(hidden, 1), nn.Tanh())

    def forward(self, state: Tensor) -> Tensor:
        """Return the step as a fraction of A_max, (N, 1), from states (N, 80)."""
        step: Tensor = self.stack(state)
        return step


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], padding: int = 0, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs))


def _implied_score(log_blur: Tensor, log_magnification: Tensor) -> Tensor:
    """Score of a blur, half at 4.5 times the root of squared pixel and squared core."""
    core = torch.exp(log_magnification) * (_MIDDLE_MAGNIFICATION * _NOMINAL_CORE)
    radius = torch.exp(log_blur) - 1
    return 9 / (1 + radius * radius / (4.5**2 * (1 + core * core)))


def _pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, _WINDOW, stride=1)
