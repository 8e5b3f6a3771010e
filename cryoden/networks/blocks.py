"""The pieces that the networks are made of."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cryoden.errors import CryodenError
from cryoden.networks.cpu.convolutions import (
    carefully,
    convolve,
    convolve_concatenated,
    convolve_doubling,
    convolve_upsampled,
)

NormName = Literal["batch", "instance", "group"]

RUNNING = ("running_mean", "running_var")

_GROUPS = 8


def is_of_all_levels(name: str, there: Sequence[int] | None, today: Sequence[int] | None) -> bool:
    """Whether a weight is a statistic from before each level of a `BatchNorm` had its own: (C,) for (levels, C)."""
    return name.endswith(RUNNING) and today is not None and len(today) == 2 and there == today[1:]


def make_norm(norm: NormName, channels: int, levels: int = 1) -> nn.Module:
    """A normalisation of (B, channels, D, H, W) features, with a scale and a shift per channel.

    Args:
        norm: "batch" (over the batch, the thesis's), "instance" (each channel of each volume) or "group" (8
            groups of channels of each volume, or as many of 8, 4, 2, 1 as divide `channels`).
        channels: Number of channels.
        levels: That share it, see `BatchNorm`.

    Returns:
        The layer; it has 2 * channels parameters whatever the norm.

    Raises:
        CryodenError: The norm is another word.
    """
    match norm:
        case "batch":
            return BatchNorm(channels, levels)
        case "instance":
            return GroupNorm(channels, channels)
        case "group":
            return GroupNorm(math.gcd(channels, _GROUPS), channels)
    raise CryodenError(f"norm is 'batch', 'instance' or 'group', got {norm!r}")


def _refuse_single_values(features: Tensor, sets: int, remedy: str) -> None:
    """One value has no variance; torch says so in words of its own.

    Args:
        features: (B, C, ...), to be normalised.
        sets: Into which their values are parted, each with a mean and a variance.
        remedy: What to do about it, beside larger batches.

    Raises:
        CryodenError: Each set is a single value.
    """
    if features.numel() == sets:
        raise CryodenError(
            f"norm: got features {tuple(features.shape)} of a single volume, and one value alone has no variance; let "
            "no batch be of one volume, the last of an epoch neither (--data.batch_size, --data.copies), or give "
            f"{remedy}"
        )


class GroupNorm(nn.GroupNorm):
    """torch's, which refuses in one line what it cannot normalise."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...) features.

        Raises:
            CryodenError: There is one volume, and one value of it in each group.
        """
        _refuse_single_values(input, self.num_groups, "a larger --data.box, or other --model.channels or --model.norm")
        return super().forward(input)


class VectorBatchNorm(nn.BatchNorm1d):
    """torch's, which refuses in one line what it cannot normalise."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, features) vectors.

        Raises:
            CryodenError: In training, there is one volume alone.
        """
        if self.training:
            _refuse_single_values(input, self.num_features, "--model.norm group")
        return super().forward(input)


class BatchNorm(nn.BatchNorm3d):
    """Batch norm that levels may share, and whose statistics are exact for channels_last_3d volumes on a CPU too.

    Levels that share scales and shifts have features of other means and variances. In training each is normalised by
    its own, so each has running statistics of its own: with those of all levels in one, the network that is used would
    not be the one that was trained, and UpsampleUnet's answers came out a quarter too bright.

    On a CPU torch sums a channel in float32, voxel after voxel: two volumes of 64^3 give statistics that are wrong by
    1e-3, larger batches worse. The columns of a matrix it sums in float64, as fast; so each voxel of a section is made
    a column, and the columns of a channel are combined.

    Args:
        num_features: Number of channels.
        levels: That share it.

    Attributes:
        running_mean: (C,), or (levels, C) of several.
        running_var: The same.
    """

    def __init__(self, num_features: int, levels: int = 1) -> None:
        super().__init__(num_features)
        if levels > 1:
            self.running_mean = torch.zeros(levels, num_features)
            self.running_var = torch.ones(levels, num_features)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in RUNNING:
            key, today = prefix + name, getattr(self, name)
            if key in state_dict and is_of_all_levels(key, state_dict[key].shape, today.shape):
                state_dict[key] = state_dict[key].expand_as(today).clone()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, input: Tensor, level: int = 0) -> Tensor:
        """Normalise (B, C, D, H, W) features of a level.

        Raises:
            CryodenError: In training, there is one volume, and one voxel of it.
        """
        if self.training:
            _refuse_single_values(input, self.num_features, "--model.norm group")
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self._check_input_dim(input)
        running_mean, running_var = (
            each.view(-1, self.num_features)[level] for each in (self.running_mean, self.running_var)
        )
        if self.training:
            self.num_batches_tracked += 1
        channels_last = input.is_contiguous(memory_format=torch.channels_last_3d) and not input.is_contiguous()
        if not (self.training and channels_last and input.device.type == "cpu"):
            return F.batch_norm(
                *(input, running_mean, running_var, self.weight, self.bias),
                training=self.training,
                momentum=self.momentum,
                eps=self.eps,
            )
        normalised: Tensor
        normalised, mean, variance = _ChannelsLastBatchNorm.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        count = input.numel() / input.shape[1]
        # As torch's own does, unseen by autograd: a norm that levels share is used again before its first gradient.
        running_mean.data.lerp_(mean, self.momentum)
        running_var.data.lerp_(variance * (count / (count - 1)), self.momentum)
        return normalised


class _ChannelsLastBatchNorm(torch.autograd.Function):
    """(B, C, D, H, W), scale (C,), shift (C,) and epsilon to what is normalised, its mean and its variance."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels = input.shape[1]
        columns = input.permute(0, 2, 3, 4, 1).flatten(2).flatten(0, 1)  # (B * D, H * W * C), a view
        means, variances = (
            statistic.view(-1, channels).to(weight.dtype)
            for statistic in torch.batch_norm_update_stats(columns, None, None, 0.0)
        )
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        ctx.save_for_backward(input, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(input, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        input, weight, mean, inverse_deviation = ctx.saved_tensors
        # Its sums are of both signs, and as exact as those of the contiguous form.
        to_input, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, input, weight, None, None, mean, inverse_deviation, True, 0.0, [True, True, True]
        )
        return to_input, to_weight, to_bias, None


def make_vector_norm(norm: NormName, features: int) -> nn.Module:
    """The same for (B, features) vectors; "instance" and "group" both become a layer norm.

    Args:
        norm: "batch", "instance" or "group".
        features: Length of the vectors.

    Returns:
        The layer; it has 2 * features parameters whatever the norm.
    """
    return VectorBatchNorm(features) if norm == "batch" else GroupNorm(1, features)


class Convolution(nn.Conv3d):
    """`nn.Conv3d`, the same along all axes: `convolve`, `carefully`."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) to (B, out_channels, ...)."""
        padding = self.padding[0]
        assert isinstance(padding, int)
        how = partial(convolve, weight=self.weight, bias=self.bias, stride=self.stride[0], padding=padding)
        return carefully(how, input)


class Doubling(nn.ConvTranspose3d):
    """The thesis's transposed convolution: kernel 5, stride 2, exactly twice the box.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 5, 2, padding=2, output_padding=1)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # no choice of the output's size
        """(B, in_channels, D, H, W) to (B, out_channels, 2D, 2H, 2W)."""
        return carefully(partial(convolve_doubling, weight=self.weight, bias=self.bias), input)


class _Layers(nn.Sequential):
    """A convolution, an activation, and a normalisation that levels may share."""

    def forward(self, input: Tensor, level: int = 0) -> Tensor:
        """(B, in_channels, D, H, W) of a level to (B, out_channels, ...), channels_last_3d."""
        return self.finish(self[0](input), level)

    def finish(self, features: Tensor, level: int = 0) -> Tensor:
        """Activate and normalise what the convolution gave for a level.

        Raises:
            CryodenError: The batch norm, which levels share, was made one that processes share.
        """
        _, activation, norm = self
        if isinstance(norm, nn.SyncBatchNorm) and norm.running_mean is not None and norm.running_mean.ndim > 1:
            raise CryodenError(
                "sync_batchnorm: levels share a batch norm here, which torch cannot keep apart for several processes; "
                "leave it out (running statistics are averaged over processes), or give --model.norm group"
            )
        # A single small volume is convolved by another routine, which forgets the layout.
        features = activation(features.contiguous(memory_format=torch.channels_last_3d))
        normalised: Tensor = norm(features, level) if isinstance(norm, BatchNorm) else norm(features)
        return normalised


class Block(_Layers):
    """Convolution, ReLU, normalisation, in the thesis's order.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel: Kernel size, odd; padded so that stride 1 keeps the box.
        stride: 2 halves an even box.
        norm: See `make_norm`.
        levels: That share it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        norm: NormName = "batch",
        levels: int = 1,
    ) -> None:
        super().__init__(
            Convolution(in_channels, out_channels, kernel, stride, kernel // 2),
            nn.ReLU(inplace=True),
            make_norm(norm, out_channels, levels),
        )


class UpBlock(_Layers):
    """Transposed convolution that doubles the box, ReLU, normalisation.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        norm: See `make_norm`.
        levels: That share it.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: NormName = "batch", levels: int = 1) -> None:
        super().__init__(
            Doubling(in_channels, out_channels), nn.ReLU(inplace=True), make_norm(norm, out_channels, levels)
        )


def start_at(bias: float, last: nn.Conv3d | nn.ConvTranspose3d) -> None:
    """Make a network's last layer answer about `bias` everywhere before training.

    Args:
        bias: What the layer answers, before its activation.
        last: The layer, with a bias; changed in place.
    """
    assert last.bias is not None
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.fill_(bias)


class DensityHead(nn.Sequential):
    """Convolution to one channel, and about 0 everywhere before training.

    With a Softplus and the usual bias of 0 every voxel would start at Softplus(0) = 0.69, in a box that is 98 % zero;
    a bias of -3 and small weights keep it at 0.05 where a particle makes large features.

    Args:
        in_channels: Channels in, normalised.
        kernel: 1 or 3.
        nonnegative: Let a Softplus follow: density is never below its background.
    """

    def __init__(self, in_channels: int, *, kernel: int = 3, nonnegative: bool = True) -> None:
        conv = Convolution(in_channels, 1, kernel, padding=kernel // 2)
        start_at(-3.0, conv)
        super().__init__(conv, nn.Softplus())
        if not nonnegative:
            self.end_linearly()

    def end_linearly(self) -> None:
        """Drop the Softplus, if there is one, and the bias that was for it."""
        conv, *softplus = self
        if softplus:
            assert isinstance(conv.bias, nn.Parameter)
            nn.init.zeros_(conv.bias)
            del self[1:]


class MergeBlock(Block):
    """A block with kernel 3 over the concatenation of the decoder's features and a skip.

    The concatenation is never made: see `convolve_concatenated`.

    Args:
        in_channels: Channels of the decoder's features.
        skip_channels: Channels of the skip.
        out_channels: Channels out.
        norm: See `make_norm`.
        levels: That share it.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, *, norm: NormName = "batch", levels: int = 1
    ) -> None:
        super().__init__(in_channels + skip_channels, out_channels, kernel=3, norm=norm, levels=levels)

    def forward(self, decoded: Tensor, skip: Tensor, level: int = 0) -> Tensor:  # type: ignore[override]  # two volumes
        """Decoded (B, C, D, H, W) and skip (B, S, D, H, W) of a level to (B, out_channels, D, H, W)."""
        convolution = self[0]
        assert isinstance(convolution, nn.Conv3d)
        how = partial(convolve_concatenated, weight=convolution.weight, bias=convolution.bias)
        return self.finish(carefully(how, decoded, skip), level)


class UpsampleBlock(nn.Module):
    """Nearest-neighbour upsampling ×2 of the decoder's features, concatenation with the skip, then a block.

    The block's convolution is computed by `convolve_upsampled`.

    Args:
        in_channels: Channels of the decoder's features.
        skip_channels: Channels of the skip.
        out_channels: Channels out.
        norm: See `make_norm`.
        levels: That share it.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, *, norm: NormName = "batch", levels: int = 1
    ) -> None:
        super().__init__()
        self.block = Block(in_channels + skip_channels, out_channels, kernel=3, norm=norm, levels=levels)

    def forward(self, decoded: Tensor, skip: Tensor, level: int = 0) -> Tensor:
        """Decoded (B, C, D, H, W) and skip (B, S, 2D, 2H, 2W) of a level to (B, out_channels, 2D, 2H, 2W)."""
        convolution = self.block[0]
        assert isinstance(convolution, nn.Conv3d)
        how = partial(convolve_upsampled, weight=convolution.weight, bias=convolution.bias)
        return self.block.finish(carefully(how, decoded, skip), level)
