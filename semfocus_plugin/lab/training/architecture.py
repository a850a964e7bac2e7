"""The networks: AENet as published and in compact form, and ACNet.

Both AENets take (N, 2, H, W): the normalised picture and the mag-image. 320 × 240 gives one score; larger pictures give
a map of scores, one every 16 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from semfocus_plugin.networks import ELLIPSE_OUTPUTS, MAGNIFICATION_SCALE
from semfocus_plugin.optics import HALF_SCORE, NOMINAL_PIXEL, TUNGSTEN

__all__ = ["STRIDE", "WINDOW", "ACNet", "CompactAENet", "PaperAENet", "implied_score", "nominal_half_blur"]

STRIDE = 16
"""Pixels between values of a map."""

WINDOW = (240 // STRIDE, 320 // STRIDE)
"""Features, down and along, whose average makes one value."""

_MIDDLE_MAGNIFICATION = 3_000.0
_DIRECTED, _SOFTLY = 0.45, 0.05
"""Length of the reported direction at which a blur begins to count as elliptical, and how softly.

A sample of lines looks like a line focus, but for its direction no network is sure."""

_LEVELS = 5
"""Octaves of the structure tensor, from one pixel up to `STRIDE`."""


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
    """AENet small enough for two cores: strided residual stages, gated average, heads that know the magnification.

    It reports the round blur that is most like the frame's, ln(1 + radius in pixels), and the ellipse that the
    defocused probe draws: the logarithms of its larger and its smaller semi-axis, the direction of the larger one; and
    the logarithm of the standard deviation of each. The score
    is the one that the larger radius implies, plus a correction of its own, which is what fine-tuning teaches. What a
    blur implies depends on the probe core, which a frame does not show: training knows it of every frame, and in use it
    is the nominal one.

    A head reads the blur of a round probe, and a second head how far either axis is from it, which counts where it sees
    a direction: what a network reads of round blurs stays as it is while the second head learns.

    Parameters
    ----------
    channels : tuple of int
        Channels of the stem and of the three stages.
    blocks : tuple of int
        Residual blocks of the stages.
    norms : bool
        Whether batch norms follow the convolutions; a network read from an ONNX file has them folded in.
    ellipse : bool
        Whether the network has the second head; files of before have none.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 24, 48, 96),
        blocks: tuple[int, ...] = (1, 2, 2),
        *,
        norms: bool = True,
        ellipse: bool = True,
    ) -> None:
        super().__init__()
        self.outputs = ("score", "log_blur", "log_sigma", *(ELLIPSE_OUTPUTS if ellipse else ()))
        self.window = WINDOW
        layers: list[nn.Module] = [_convolution(2, channels[0], (5, 5), 2, 2, norms), nn.LeakyReLU(0.2)]
        self._ends = [len(layers) - 1]
        for inputs, outputs, count in zip(channels, channels[1:], blocks, strict=False):
            layers += [_convolution(inputs, outputs, (3, 3), 1, 2, norms), nn.LeakyReLU(0.2)]
            layers += [_ResidualBlock(outputs, norms) for _ in range(count)]
            self._ends.append(len(layers) - 1)
        self.body = nn.Sequential(*layers)
        self.gate = nn.Conv2d(channels[-1], 1, 1)
        seen = channels[-1] + 1
        self.head = nn.Sequential(nn.Conv2d(seen, 64, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 2, 1))
        around = 2 + seen + 2 * sum(channels) + 3 * _LEVELS
        self.ellipse = (
            nn.Sequential(
                nn.Conv2d(around, around, 1, groups=around),  # brings what is seen to one scale
                nn.Conv2d(around, 128, 1),
                nn.LeakyReLU(0.2),
                nn.Dropout(0.1),
                nn.Conv2d(128, 64, 1),
                nn.LeakyReLU(0.2),
                nn.Dropout(0.1),
                _silent(nn.Conv2d(64, 7, 1)),
            )
            if ellipse
            else None
        )
        self.correction = nn.Sequential(nn.Conv2d(seen, 16, 1), nn.LeakyReLU(0.2), _silent(nn.Conv2d(16, 1, 1)))

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Return a map, (N, 1, h, w), of each of `outputs`; while training the score's is that of its correction."""
        return self.reported(*self.seen(frames), frames[:, 1:, :1, :1])

    def reported(self, seen: Tensor, around: Tensor, mag_image: Tensor) -> tuple[Tensor, ...]:
        """Return what `forward` does, from what `seen` returns and values of the mag-image, (N, 1, 1, 1)."""
        correction, blur = self.correction(seen), self.blur(seen, around)
        if self.training:
            return correction, *blur
        score = implied_score(self.larger(blur), nominal_half_blur(mag_image)) + correction
        return score.clamp(0, 9), *blur

    def larger(self, blur: Sequence[Tensor]) -> Tensor:
        """Return the map that the score is of, among maps of each of `outputs` but the score."""
        return blur[0] if self.ellipse is None else blur[2]

    def read(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Return a map, (N, 1, h, w), of the score's correction and of each of `outputs` but the score."""
        seen, around = self.seen(frames)
        blur = self.blur(seen, around)
        return self.correction(seen), *blur

    def seen(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the first head and the correction read, (N, c, h, w), and what the second reads beside it."""
        magnification = torch.log(frames[:, 1:] * (MAGNIFICATION_SCALE / _MIDDLE_MAGNIFICATION) + 1e-3)
        features = torch.cat([frames[:, :1], magnification], 1)
        around = []
        cell = STRIDE
        for number, layer in enumerate(self.body):
            features = layer(features)
            if number in self._ends:
                cell //= 2
                around += self._moments(features, cell) if self.ellipse is not None else []
        gate = torch.sigmoid(self.gate(features))
        pooled = self._pool(features * gate) / self._pool(gate)
        local = self._pool(magnification[:, :, ::STRIDE, ::STRIDE])
        if self.ellipse is not None:
            around.append(self._gradients(frames[:, :1]))  # the smallest map where a side is no multiple of `STRIDE`
        height, width = (around[-1] if around else pooled).shape[-2:]
        seen = torch.cat([each[:, :, :height, :width] for each in (pooled, local)], 1)
        return seen, torch.cat([each[:, :, :height, :width] for each in around], 1) if around else seen[:, :0]

    def blur(self, seen: Tensor, around: Tensor) -> tuple[Tensor, ...]:
        """Return a map of each of `outputs` but the score, from what `seen` returns."""
        rounded, sigma = self.head(seen).split(1, 1)
        of_round = rounded.clamp(0, 7), sigma.clamp(-6, 3)
        if self.ellipse is None:
            return of_round
        away, sigma_larger, apart, sigma_smaller, cosine, sine, sigma_direction = self.ellipse(
            torch.cat([rounded, sigma, seen, around], 1)
        ).split(1, 1)
        directed = torch.sqrt(cosine.square() + sine.square() + 1e-6).detach()
        shown = torch.sigmoid((directed - _DIRECTED) / _SOFTLY)
        larger = (rounded + away * shown).clamp(0, 7)
        return (
            *of_round,
            larger,
            sigma_larger.clamp(-6, 3),
            (larger - functional.softplus(apart - 1)).clamp_min(0),
            sigma_smaller.clamp(-6, 3),
            cosine,
            sine,
            sigma_direction.clamp(-6, 3),
        )

    def standardise(self, seen: Tensor, around: Tensor) -> None:
        """Have the second head see all that it reads in units of its scatter among frames; two tensors (N, c)."""
        assert self.ellipse is not None
        first = self.ellipse[0]
        assert isinstance(first, nn.Conv2d)
        read = torch.cat([self.head(seen[..., None, None]).flatten(1), seen, around], 1)
        scale = 1 / read.std(0).clamp_min(1e-3)
        first.weight.copy_(scale[:, None, None, None])
        first.bias.copy_(-scale * read.mean(0))  # type: ignore[union-attr]

    def _moments(self, features: Tensor, size: int) -> list[Tensor]:
        """Return mean and ln of the mean square of features, whose cells are `size` of them wide."""
        return [
            self._pool(functional.avg_pool2d(features, size)),
            torch.log(self._pool(functional.avg_pool2d(features.square(), size)) + 1e-4),
        ]

    def _gradients(self, picture: Tensor) -> Tensor:
        """Return the structure tensor of the picture in octaves: anisotropy along two axes, and ln of the energy.

        A mirror image turns the sign of the second number alone, and a transposed one that of the first, so that the
        head need not learn what a direction is.
        """
        moments = []
        for level in range(_LEVELS):
            around = functional.pad(picture, (1, 1, 1, 1), mode="replicate")
            along, down = (
                around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2],
                around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1],
            )
            products = torch.cat([along * along, down * down, along * down], 1)
            xx, yy, xy = self._pool(functional.avg_pool2d(products, STRIDE >> level)).chunk(3, 1)
            energy = xx + yy + 1e-6
            moments += [(xx - yy) / energy, 2 * xy / energy, torch.log(energy)]
            picture = functional.avg_pool2d(picture, 2)
        return torch.cat(moments, 1)

    def _pool(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.window, stride=1)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a layer that answers 0 until it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def implied_score(log_blur: Tensor, half_blur: Tensor) -> Tensor:
    """Return the ideal score of a blur, ln(1 + radius), that is half of 9 at the radius `half_blur`; pixels."""
    return 9 / (1 + ((torch.exp(log_blur) - 1) / half_blur).square())


def nominal_half_blur(mag_image: Tensor) -> Tensor:
    """Return the blur radius at which the ideal score is half, pixels, for the nominal core.

    Parameters
    ----------
    mag_image : Tensor
        Values of the mag-image.
    """
    return HALF_SCORE * torch.sqrt(1 + (mag_image * (MAGNIFICATION_SCALE * TUNGSTEN / NOMINAL_PIXEL)).square())


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, norms: bool) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _convolution(channels, channels, (3, 3), 1, norm=norms),
            nn.LeakyReLU(0.2),
            _convolution(channels, channels, (3, 3), 1, norm=norms),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x + self.main(x), 0.2)


class ACNet(nn.Module):
    """The control network: 80-512-512-512-512-1 with batch norm, leaky ReLU and tanh (Fig. 2c, Table S3)."""

    def __init__(self, inputs: int = 80, hidden: int = 512) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for k in range(4):
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
    inputs: int, outputs: int, kernel: tuple[int, int], padding: int = 0, stride: int = 1, norm: bool = True
) -> nn.Module:
    if not norm:
        return nn.Conv2d(inputs, outputs, kernel, stride, padding)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs))
