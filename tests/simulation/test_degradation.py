import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from cryoden.errors import CryodenError
from cryoden.simulation.degradation import (
    GaussianNoise,
    MissingWedge,
    SaltAndPepper,
    apply_all,
    context_of,
    measured_by_all,
    sample_all,
)
from cryoden.wedge import wedge_mask


def volumes(n: int = 3, size: int = 24) -> torch.Tensor:
    return torch.rand(n, 1, size, size, size, generator=torch.Generator().manual_seed(1))


def parameters(steps, n: int = 3):
    generator = torch.Generator().manual_seed(2)
    return [sample_all(steps, generator) for _ in range(n)]


@pytest.mark.parametrize("snr", [0.1, 1.3, 10.0])
def test_noise_has_the_snr_asked_for(snr: float) -> None:
    clean = volumes()
    noise = apply_all([GaussianNoise(snr)], clean, parameters([GaussianNoise(snr)])) - clean
    measured = clean.var(dim=(1, 2, 3, 4)) / noise.var(dim=(1, 2, 3, 4))
    torch.testing.assert_close(measured, torch.full((3,), snr), rtol=0.05, atol=0)
    assert noise.mean().abs() < 0.05 * noise.std()


def test_nothing_but_the_box_counts_where_no_step_looks_beyond_it() -> None:
    clean, noise = volumes(), [GaussianNoise(1.3)]
    around = torch.nn.functional.pad(clean, (4,) * 6, value=20.0)
    assert torch.equal(
        apply_all(noise, around, parameters(noise), (4, 4, 4)), apply_all(noise, clean, parameters(noise))
    )


def test_a_range_is_drawn_from() -> None:
    drawn = [p[0]["snr"] for p in parameters([GaussianNoise((0.5, 2.0))], 50)]
    assert 0.5 <= min(drawn) < 0.7
    assert 1.8 < max(drawn) <= 2.0


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("step", [GaussianNoise(), MissingWedge(((-70, -50), (50, 70))), SaltAndPepper()])
def test_damage_does_not_depend_on_the_batch(step) -> None:
    clean, drawn = volumes(), parameters([step])
    together = apply_all([step], clean, drawn)
    same = partial(torch.testing.assert_close, rtol=0, atol=1e-6)  # on some CPUs MKL transforms two otherwise than one
    same(apply_all([step], clean.flip(0), drawn[::-1]).flip(0), together)
    same(apply_all([step], clean[1:2], drawn[1:2]), together[1:2])
    assert not torch.equal(together[0], apply_all([step], clean[:1], drawn[1:2])[0])


@pytest.mark.parametrize("axis", ["x", "y"])
def test_the_wedge_is_a_projection_that_takes_a_third(axis) -> None:
    step = MissingWedge(tilt_axis=axis)
    noise = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)) + 3
    once = apply_all([step], noise, parameters([step], 1))
    torch.testing.assert_close(apply_all([step], once, parameters([step], 1)), once, atol=1e-5, rtol=0)
    assert once.mean().item() == pytest.approx(noise.mean().item(), abs=1e-5)
    # within the square of frequencies |kz|, |kx| <= 1/2 the wedge below 60 degrees covers 1 - tan(30°) / 2
    assert (once.var() / noise.var()).item() == pytest.approx(1 - 0.5 * 3**-0.5, abs=0.02)


@pytest.mark.parametrize(("axis", "kept"), [("y", {"x", "y"}), ("x", {"x", "y"})])
def test_waves_along_the_beam_are_lost(axis, kept: set[str]) -> None:
    step = MissingWedge(tilt_axis=axis)
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(24) / 24)
    for name, shape in {"z": (24, 1, 1), "y": (1, 24, 1), "x": (1, 1, 24)}.items():
        volume = wave.view(1, 1, *shape).expand(1, 1, 24, 24, 24).contiguous()
        out = apply_all([step], volume, parameters([step], 1))
        torch.testing.assert_close(out, volume if name in kept else torch.zeros_like(volume), atol=1e-5, rtol=0)


def test_the_sign_of_an_asymmetric_range() -> None:
    mask = wedge_mask((32, 32), (0, 50), "y")  # rows kz, columns kx
    assert mask[4, 8]  # atan(4 / 8) = 27 degrees
    assert not mask[-4, 8]  # -27 degrees
    assert mask[[4, -4], 16].all()  # at Nyquist a wave is at 14 degrees and at -14 at once
    assert not wedge_mask((32, 32), (0, 50), "x")[4, 8]
    assert wedge_mask((32, 32), (0, 50), "x")[-4, 8]
    assert wedge_mask((32, 31), (-90, 90)).all()


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("tilts", [(-50.0, 40.0), (0.0, 50.0), (-60.0, 60.0), (10.0, 30.0)])
@pytest.mark.parametrize("shape", [(8, 10), (8, 9), (7, 10), (7, 9), (2, 2), (1, 4), (4, 1)])
def test_a_wedge_is_that_of_the_mirrored_tilts_mirrored_and_symmetric_about_the_origin(shape, tilts, axis):
    depth, width = shape
    half = wedge_mask(shape, tilts, axis)
    turned = wedge_mask(shape, (-tilts[1], -tilts[0]), axis)
    assert torch.equal(turned.roll(-1, 0).flip(0), half)
    # each wave of the whole spectrum by its own angle, the fastest of an even axis by both of its signs
    for z, kz in enumerate(torch.fft.fftfreq(depth, dtype=torch.float64).tolist()):
        for x, kx in enumerate(torch.fft.fftfreq(width, dtype=torch.float64).tolist()):
            signs = [(a * kz, b * kx) for a in (1, -1)[: 1 + (kz == -0.5)] for b in (1, -1)[: 1 + (kx == -0.5)]]
            lines = [math.degrees(math.atan2(a if axis == "y" else -a, b)) for a, b in signs]
            seen = any(tilts[0] - 1e-6 <= line + turn <= tilts[1] + 1e-6 for line in lines for turn in (-180, 0, 180))
            there = (z, x) if x <= width // 2 else (-z % depth, width - x)
            assert bool(half[there]) == (seen or kz == kx == 0)


def test_what_several_steps_leave_is_what_each_leaves() -> None:
    steps = [MissingWedge((-60, 20)), GaussianNoise(), MissingWedge((-20, 60))]
    both = MissingWedge((-20, 20))
    expected = both.measured(volumes(), [both.sample(torch.Generator())] * 3)
    found = measured_by_all(steps, volumes(), parameters(steps))
    for each in (found, expected):
        each[..., -1] = each[..., each.shape[-3] // 2, :, :] = True  # at Nyquist a wave has two angles at once
    assert torch.equal(found, expected)


def test_steps_look_as_far_as_all_of_them_together() -> None:
    class Far(GaussianNoise):
        @property
        def context(self) -> tuple[int, int, int]:
            return 1, 2, 3

    assert context_of([Far(), GaussianNoise(), Far()]) == (2, 4, 6)


def test_salt_and_pepper_replaces_as_many_as_asked() -> None:
    step = SaltAndPepper(0.2, low=-1, high=2)
    out = apply_all([step], volumes(), parameters([step]))
    assert (out == 2).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (out == -1).float().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(0), "snr: got 0; allowed is a number above 0"),
        (lambda: GaussianNoise((2, 1)), r"snr: got \(2, 1\)"),
        (lambda: MissingWedge((-100, 60)), "between -90 and 90"),
        (lambda: MissingWedge((60, -60)), "must be below the second"),
        (lambda: MissingWedge(tilt_axis="z"), "allowed are 'x' and 'y'"),
        (lambda: SaltAndPepper(1.5), "between 0 and 1"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(CryodenError, match=message):
        make()
