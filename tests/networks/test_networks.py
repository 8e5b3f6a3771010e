import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.networks.base import DenoisingNetwork, constructor_arguments
from cryoden.networks.blocks import (
    BatchNorm,
    Block,
    Convolution,
    Doubling,
    MergeBlock,
    UpBlock,
    UpsampleBlock,
    make_norm,
)
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.cpu.convolutions import convolve_concatenated, convolve_upsampled
from cryoden.networks.discriminators import DraganDiscriminator, Pix2PixDiscriminator, SimpleDiscriminator
from cryoden.networks.original_unet import OriginalUnet
from cryoden.networks.simple_autoencoder import SimpleAutoEncoder
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet

NORMS = ("batch", "instance", "group")
SMALL = {SimpleAutoEncoder: 1, Unet: 4, UpsampleUnet: 4, CompactUnet: 4}  # channels that keep tests fast
EVERY_SMALL = pytest.mark.parametrize(
    "network", [kind(channels=channels) for kind, channels in SMALL.items()], ids=lambda n: type(n).__name__
)


def standardised_particle(*shape: int) -> Tensor:
    """Noise of unit variance with a particle that peaks at 40 in the middle."""
    volumes = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    centre = tuple(slice(size // 2 - 2, size // 2 + 2) for size in shape)
    volumes[(slice(None), slice(None), *centre)] += 40
    return volumes


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (SimpleAutoEncoder, 4_370_275),
        (Unet, 1_348_225),
        (UpsampleUnet, 415_441),
        (SimpleDiscriminator, 3_104_817),
        (CompactUnet, 581_809),
    ],
)
def test_parameter_counts(kind: type[nn.Module], parameters: int, norm: str) -> None:
    assert sum(p.numel() for p in kind(norm=norm).parameters()) == parameters


@pytest.mark.parametrize(
    "network",
    [
        SimpleAutoEncoder(channels=2, norm="group", output_range=1.0),
        Unet(channels=3, norm="instance"),
        UpsampleUnet(channels=3, norm="group"),
        CompactUnet(channels=5, levels=2, norm="batch"),
        SimpleDiscriminator(channels=3, box=32, norm="instance"),
    ],
    ids=lambda n: type(n).__name__,
)
def test_constructor_arguments_rebuild_the_network(network: nn.Module) -> None:
    arguments = constructor_arguments(network)
    again = type(network)(**arguments)
    again.load_state_dict(network.state_dict())
    inputs = [standardised_particle(32, 32, 32)] * (2 if isinstance(network, SimpleDiscriminator) else 1)
    assert arguments == constructor_arguments(again)
    assert all(isinstance(value, int | float | str | bool) for value in arguments.values())
    assert torch.equal(network.eval()(*inputs), again.eval()(*inputs))


@EVERY_SMALL
def test_any_box_of_the_right_multiple(network: DenoisingNetwork) -> None:
    shape = (2 * network.multiple, 3 * network.multiple, 2 * network.multiple)
    assert network(torch.randn(2, 1, *shape)).shape == (2, 1, *shape)


@EVERY_SMALL
def test_other_boxes_are_refused(network: DenoisingNetwork) -> None:
    box = (32, 32, 32 + network.multiple // 2)
    message = rf"{type(network).__name__} .* multiples of {network.multiple} voxels, got 32 x 32 x {box[-1]}"
    with pytest.raises(CryodenError, match=message):
        network(torch.zeros(1, 1, *box))
    with pytest.raises(CryodenError, match=r"\(batch, 1, D, H, W\), got \(1, 2, 32, 32, 32\)"):
        network(torch.zeros(1, 2, 32, 32, 32))
    with pytest.raises(CryodenError, match=r"\(batch, 1, D, H, W\), got \(32, 32, 32\)"):
        network(torch.zeros(32, 32, 32))


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("norm", NORMS)
def test_starts_near_zero_even_on_a_particle(kind: type[DenoisingNetwork], norm: str) -> None:
    torch.manual_seed(0)
    start = kind(channels=SMALL[kind], norm=norm)(standardised_particle(32, 32, 32))
    assert start.min() >= 0
    assert start.max() < 0.5


def test_simple_auto_encoder_stays_in_its_range() -> None:
    torch.manual_seed(0)
    network = SimpleAutoEncoder(channels=1, output_range=1.0)
    network.layers[-2].bias.data.fill_(100.0)
    assert network(standardised_particle(32, 32, 32)).max() == 1.0
    with pytest.raises(CryodenError, match=r"output_range must be above 0\.05, its start, and at most 4096, got 0"):
        SimpleAutoEncoder(output_range=0.0)
    with pytest.raises(CryodenError, match="at most 4096, got nan"):
        SimpleAutoEncoder(output_range=float("nan"))
    with pytest.raises(CryodenError, match="at most 4096, got 5000"):  # which no file would be read with
        SimpleAutoEncoder(output_range=5000.0)


def boxes_seen(network: nn.Module, volumes: Tensor) -> dict[str, list[int]]:
    """The input boxes of each named part, in the order of its calls."""
    seen: dict[str, list[int]] = {}
    for name, part in network.named_children():
        part.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].shape[-1])
        )
    network(volumes)
    return seen


def test_levels_share_weights_as_in_the_thesis() -> None:
    volumes = torch.randn(1, 1, 64, 64, 64)
    assert boxes_seen(Unet(channels=1), volumes) == {
        "first": [64],
        "narrow": [32, 16],
        "bottleneck": [8],
        "widen_bottleneck": [4],
        "merge": [8, 16, 32],
        "widen": [8, 16, 32],
        "last": [64],
        "head": [64],
    }
    assert boxes_seen(UpsampleUnet(channels=1), volumes) == {
        "first": [64],
        "narrow": [64, 32, 16],
        "widen": [8, 16, 32],
        "head": [64],
    }


def test_blocks_activate_before_they_normalise() -> None:
    assert [type(layer) for layer in Block(2, 3, kernel=5)] == [Convolution, nn.ReLU, BatchNorm]
    assert [type(layer) for layer in UpBlock(2, 3)] == [Doubling, nn.ReLU, BatchNorm]


def test_only_the_strided_decoder_leaves_a_checkerboard() -> None:
    def centre(kind: type[DenoisingNetwork]) -> Tensor:
        """The last features for a constant volume, far from its borders (4, 8, 8, 8)."""
        torch.manual_seed(0)
        network = kind(channels=4).eval()
        network.head = nn.Identity()
        with torch.no_grad():
            return network(torch.ones(1, 1, 64, 64, 64))[0, :, 28:36, 28:36, 28:36]

    smooth = centre(UpsampleUnet)
    assert smooth.abs().max() > 1e-3
    assert smooth.std((1, 2, 3)).max() < 1e-6
    assert centre(Unet).std((1, 2, 3)).max() > 1e-3


@pytest.mark.parametrize("kind", SMALL)
def test_learns_a_particle(kind: type[DenoisingNetwork]) -> None:
    torch.manual_seed(0)
    degraded = standardised_particle(32, 32, 32)[:1]
    clean = torch.zeros_like(degraded)
    clean[..., 14:18, 14:18, 14:18] = 40
    network = kind(channels=SMALL[kind], **({} if kind is CompactUnet else {"norm": "group"}))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(degraded) - clean).square().mean() / clean.square().mean()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
    assert loss.item() < 0.7  # zeros score 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", SMALL)
def test_only_batch_norm_looks_at_the_other_volumes(kind: type[DenoisingNetwork], norm: str) -> None:
    torch.manual_seed(0)
    network = kind(channels=SMALL[kind], norm=norm)
    nn.init.normal_(list(network.parameters())[-2], std=0.1)  # CompactUnet's last layer is zero
    one, other = standardised_particle(32, 32, 32).split(1)
    together, beside_another = (network(torch.cat([one, mate]))[:1] for mate in (one, 3 * other))
    assert torch.allclose(together, beside_another, rtol=1e-4, atol=1e-5) == (norm != "batch")


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(CryodenError, match="'batch', 'instance' or 'group', got 'layer'"):
        make_norm("layer", 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [32, 48])
def test_discriminator_gives_one_logit_and_sees_both_volumes(norm: str, box: int) -> None:
    torch.manual_seed(0)
    discriminator = SimpleDiscriminator(channels=4, box=box, norm=norm)
    degraded = standardised_particle(box, box, box)
    candidate = torch.randn_like(degraded)
    logits = discriminator(degraded, candidate)
    assert logits.shape == (2, 1)
    assert not torch.allclose(logits, discriminator(degraded.flip(2).roll(5, 3), candidate))
    assert not torch.allclose(logits, discriminator(degraded, candidate.flip(2).roll(5, 3)))


@pytest.mark.parametrize("channels", [0, -3, 4097, 2.5, float("nan")])
@pytest.mark.parametrize("kind", [*SMALL, OriginalUnet, SimpleDiscriminator, Pix2PixDiscriminator, DraganDiscriminator])
def test_channels_are_counted(kind: type[nn.Module], channels: float) -> None:
    with pytest.raises(CryodenError, match=rf"^channels: got {channels}; allowed is a whole number from 1 to 4096$"):
        kind(channels=channels)


@pytest.mark.parametrize(
    ("network", "shapes", "remedy"),
    [
        (UpsampleUnet(2), [(1, 1, 8, 8, 8)], "--model.norm group"),
        (Unet(2), [(1, 1, 16, 16, 16)], "--model.norm group"),
        (SimpleDiscriminator(4, box=32), [(1, 1, 32, 32, 32)] * 2, "--model.norm group"),
        (UpsampleUnet(2, norm="instance"), [(1, 1, 8, 8, 8)], "a larger --data.box, or other --model.channels or"),
        (SimpleDiscriminator(1, box=16, norm="group"), [(1, 1, 16, 16, 16)] * 2, "a larger --data.box"),
    ],
)
def test_a_single_value_cannot_be_normalised(network: nn.Module, shapes: list[tuple[int, ...]], remedy: str) -> None:
    told = r"^norm: got features \(1, .*\) of a single volume, .*\(--data.batch_size, --data.copies\), or give "
    with pytest.raises(CryodenError, match=told + remedy):
        network(*map(torch.zeros, shapes))
    network(*(torch.randn(2, *shape[1:]) for shape in shapes))
    if "group" in remedy:  # by what they have learnt
        network.eval()(*map(torch.zeros, shapes))


def test_discriminator_refuses_other_boxes() -> None:
    with pytest.raises(CryodenError, match="box must be a multiple of 16 voxels, got 40"):
        SimpleDiscriminator(box=40)
    discriminator = SimpleDiscriminator(channels=4, box=32)
    right, wrong = torch.zeros(2, 1, 32, 32, 32), torch.zeros(2, 1, 32, 32, 16)
    with pytest.raises(CryodenError, match=r"candidate volumes of shape .*32, 32, 32\), got \(2, 1, 32, 32, 16\)"):
        discriminator(right, wrong)
    with pytest.raises(CryodenError, match="degraded volumes of shape"):
        discriminator(wrong, right)


def plainly(decoded: Tensor, skip: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `convolve_upsampled` computes, as the thesis writes it: upsample, concatenate, convolve."""
    return F.conv3d(torch.cat([F.interpolate(decoded, scale_factor=2.0), skip], dim=1), weight, bias, padding=1)


def upsampled_inputs(
    batch: int, channels: tuple[int, int, int], shape: tuple[int, int, int], dtype: torch.dtype
) -> list[Tensor]:
    """Decoder's features, skip, weight and bias; channels are those of the decoder, the skip and the result."""
    torch.manual_seed(0)
    decoded, skip, out = channels
    shapes = [
        (batch, decoded, *shape),
        (batch, skip, *(2 * size for size in shape)),
        (out, decoded + skip, 3, 3, 3),
        (out,),
    ]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("batch", "channels", "shape"), [(2, (3, 5, 4), (3, 4, 5)), (1, (1, 1, 1), (1, 1, 2)), (1, (16, 16, 16), (8, 8, 8))]
)
def test_upsampled_convolution_is_the_plain_one(
    batch: int,
    channels: tuple[int, int, int],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    tolerance: float,
    memory_format: torch.memory_format,
) -> None:
    inputs = upsampled_inputs(batch, channels, shape, dtype)
    plain = plainly(*inputs)
    upstream = torch.randn_like(plain)
    decoded, skip, *parameters = inputs
    volumes = [volume.contiguous(memory_format=memory_format) for volume in (decoded, skip)]
    split = convolve_upsampled(*volumes, *parameters)
    pairs = [
        (split, plain),
        *zip(torch.autograd.grad(split, inputs, upstream), torch.autograd.grad(plain, inputs, upstream), strict=True),
    ]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() < tolerance * theirs.norm()


def test_upsampled_convolution_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(convolve_upsampled, upsampled_inputs(1, (2, 1, 2), (1, 2, 2), torch.float64))


def test_upsampled_convolution_in_bfloat16() -> None:
    inputs = upsampled_inputs(1, (8, 8, 8), (4, 4, 4), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        split = convolve_upsampled(*inputs)
    assert split.dtype == torch.bfloat16
    plain = plainly(*inputs)
    assert (split - plain).norm() < 0.01 * plain.norm()
    upstream = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad(split, inputs, upstream.bfloat16()),
        torch.autograd.grad(plain, inputs, upstream),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("kind", [UpsampleBlock, MergeBlock])
@pytest.mark.parametrize("norm", NORMS)
def test_split_blocks_are_concatenation_and_a_block(kind: type[UpsampleBlock | MergeBlock], norm: str) -> None:
    torch.manual_seed(0)
    block = kind(4, 1, 4, norm=norm).double()
    scale = 2 if kind is UpsampleBlock else 1
    inputs = [
        torch.randn(2, 4, 3, 4, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 1, 3 * scale, 4 * scale, 5 * scale, dtype=torch.float64, requires_grad=True),
    ]
    concatenated = torch.cat([F.interpolate(inputs[0], scale_factor=scale), inputs[1]], dim=1)
    plain = nn.Sequential.forward(block.block if kind is UpsampleBlock else block, concatenated)
    merged = block(*inputs)
    upstream = torch.randn_like(plain)
    leaves = [*inputs, *block.parameters()]
    torch.testing.assert_close(merged, plain)
    for ours, theirs in zip(
        torch.autograd.grad(merged, leaves, upstream), torch.autograd.grad(plain, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    names = [name.removeprefix("block.") for name, _ in block.named_parameters()]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_concatenated_convolution_passes_gradcheck() -> None:
    torch.manual_seed(0)
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 2, 2, 3, 2), (1, 1, 2, 3, 2), (2, 3, 3, 3, 3), (2,))
    ]
    assert torch.autograd.gradcheck(convolve_concatenated, inputs)


@pytest.mark.parametrize("kind", [UpsampleUnet, Unet])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_features_and_their_gradients_stay_channels_last(kind: type[DenoisingNetwork], precision: torch.dtype) -> None:
    network = kind(channels=4)
    seen: list[tuple[str, bool]] = []

    def check(name: str, features: Tensor) -> None:
        seen.append((name, features.is_contiguous(memory_format=torch.channels_last_3d)))

    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.register_forward_hook(lambda _, inputs, output, name=name: check(name, output))
            layer.register_full_backward_hook(lambda _, to_input, to_output, name=name: check(name, to_output[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        denoised = network(standardised_particle(32, 32, 32))
    denoised.float().sum().backward()
    assert len(seen) >= 12
    assert all(fast for _, fast in seen), seen
    assert denoised.is_contiguous()


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 5), (1, 16, 32, 32, 32), (3, 2, 1, 1, 2)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
def test_batch_norm_of_channels_last_volumes(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(shape[1]), nn.BatchNorm3d(shape[1]).double()
    nn.init.normal_(ours.weight, 1.0, 0.1)
    theirs.load_state_dict(ours.state_dict())
    if dtype == torch.float64:
        ours.double()
    plain = (torch.randn(shape).relu() + 3.0).to(dtype).double().requires_grad_()  # a mean of 6 deviations
    volumes = plain.detach().to(dtype, memory_format=torch.channels_last_3d).requires_grad_()
    upstream = torch.randn(shape).to(dtype).double()
    for _ in range(2):
        normalised, reference = ours(volumes), theirs(plain)
    assert normalised.dtype == dtype
    normalised.backward(upstream.to(dtype, memory_format=torch.channels_last_3d))
    reference.backward(upstream)
    pairs = [
        (normalised, reference),
        (volumes.grad, plain.grad),
        (ours.weight.grad, theirs.weight.grad),
        (ours.bias.grad, theirs.bias.grad),
        (ours.running_mean, theirs.running_mean),
        (ours.running_var, theirs.running_var),
    ]
    for a, b in pairs:
        assert (a.double() - b).norm() < tolerance * b.norm()
    assert ours.num_batches_tracked == 2
    torch.testing.assert_close(
        ours.eval()(volumes).double(), theirs.eval()(plain), rtol=10 * tolerance, atol=10 * tolerance
    )


def test_batch_norm_shared_by_volumes_of_either_layout() -> None:
    norm = BatchNorm(4)
    volumes = torch.randn(2, 4, 3, 3, 3, requires_grad=True)
    once = norm(volumes)
    twice = norm(volumes.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(once, twice)
    (once.square() + twice).sum().backward()
    assert norm.num_batches_tracked == 2


# the deepest level has 16 voxels, and 128: the fewer, the more its variances at rest differ
@pytest.mark.parametrize(("kind", "difference"), [(Unet, 0.1), (UpsampleUnet, 0.01)])
def test_at_rest_a_network_is_the_one_that_was_trained(kind: type[DenoisingNetwork], difference: float) -> None:
    torch.manual_seed(0)
    network, volumes = kind(channels=4), standardised_particle(32, 32, 32)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -1.0, 1.0)  # so that levels differ
    with torch.no_grad():
        for _ in range(100):
            trained = network(volumes)
        at_rest = network.eval()(volumes)
    assert (at_rest - trained).norm() < difference * (trained - trained.mean()).norm()


@pytest.mark.parametrize("kind", [UpsampleUnet, Unet])
def test_weights_whose_levels_shared_their_statistics_are_read(kind: type[DenoisingNetwork]) -> None:
    network = kind(channels=4)
    before = {
        name: torch.rand(4) if name.endswith(("mean", "var")) else value for name, value in network.state_dict().items()
    }
    network.load_state_dict(before)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name].expand_as(value))


def test_a_norm_that_levels_share_is_not_one_that_processes_share() -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(UpsampleUnet(channels=2))
    with pytest.raises(CryodenError, match=r"^sync_batchnorm: .*; leave it out .*, or give --model.norm group$"):
        network.eval()(torch.zeros(1, 1, 8, 8, 8))


@pytest.mark.parametrize("batch", [1, 2])
def test_blocks_are_channels_last_whatever_they_get(batch: int) -> None:
    features = Block(1, 4, kernel=3)(torch.randn(batch, 1, 8, 8, 8))
    assert features.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("kind", [UpsampleUnet, Unet])
def test_training_answers_as_exactly_as_in_float64(kind: type[DenoisingNetwork]) -> None:
    torch.manual_seed(0)
    network = kind(channels=8)
    volumes = torch.randn(2, 1, 32, 32, 32)
    single = network(volumes)
    double = network.double()(volumes.double())
    assert (single - double).norm() < 1e-6 * double.norm()
