"""The networks: AENet as published and in compact form, and ACNet.

Both AENets take (N, 2, H, W): the normalised picture and the mag-image. 320 × 240 gives one score; larger pictures give
a map of scores, one every 16 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from semfocus_plugin.networks import MAGNIFICATION_SCALE
from semfocus_plugin.optics import HALF_SCORE, NOMINAL_PIXEL, TUNGSTEN

__all__ = ["ACNet", "CompactAENet", "PaperAENet", "implied_score", "nominal_half_blur"]

_STRIDE = 16
_MIDDLE_MAGNIFICATION = 3_000.0
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

    It tells the blur that it sees, ln(1 + radius in pixels), and the logarithm of its standard deviation. The score is
    the one that the blur implies, plus a correction of its own, which is what fine-tuning teaches. What a blur implies
    depends on the probe core, which a frame does not show: training knows it of every frame, and in use it is the
    nominal one.

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
        self.head = nn.Sequential(nn.Conv2d(channels[-1] + 1, 64, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 2, 1))
        none = nn.Conv2d(16, 1, 1)
        nn.init.zeros_(none.weight)
        nn.init.zeros_(none.bias)  # type: ignore[arg-type]
        self.correction = nn.Sequential(nn.Conv2d(channels[-1] + 1, 16, 1), nn.LeakyReLU(0.2), none)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of score (while training, of its correction), log blur and log sigma, each (N, 1, h, w)."""
        correction, log_blur, log_sigma = self.read(frames)
        if self.training:
            return correction, log_blur, log_sigma
        score = implied_score(log_blur, nominal_half_blur(frames[:, 1:, :1, :1])) + correction
        return score.clamp(0, 9), log_blur, log_sigma

    def read(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of the score's correction, of log blur and log sigma, each (N, 1, h, w)."""
        magnification = torch.log(frames[:, 1:] * (MAGNIFICATION_SCALE / _MIDDLE_MAGNIFICATION) + 1e-3)
        features = self.body(torch.cat([frames[:, :1], magnification], 1))
        gate = torch.sigmoid(self.gate(features))
        pooled = _pool(features * gate) / _pool(gate)
        height, width = features.shape[-2:]
        told = _pool(magnification[:, :, ::_STRIDE, ::_STRIDE][:, :, :height, :width])
        seen = torch.cat([pooled, told], 1)
        log_blur, log_sigma = self.head(seen).split(1, 1)
        return self.correction(seen), log_blur.clamp(0, 7), log_sigma.clamp(-6, 3)


def implied_score(log_blur: Tensor, half_blur: Tensor) -> Tensor:
    """Return the ideal score of a blur, ln(1 + radius), that is half of 9 at the radius `half_blur`; pixels."""
    return 9 / (1 + ((torch.exp(log_blur) - 1) / half_blur).square())


def nominal_half_blur(told: Tensor) -> Tensor:
    """Return the blur radius at which the ideal score is half, pixels, for the nominal core.

    Parameters
    ----------
    told : Tensor
        Values of the mag-image.
    """
    return HALF_SCORE * torch.sqrt(1 + (told * (MAGNIFICATION_SCALE * TUNGSTEN / NOMINAL_PIXEL)).square())


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


def _pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, _WINDOW, stride=1)
