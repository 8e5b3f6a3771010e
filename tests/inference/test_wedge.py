"""What lies in the missing wedge, and `--measured-only`."""

import numpy as np
import pytest
import torch

from cryoden import Volume, denoise, export_weights, open_volume, write_volume
from cryoden.cli import main
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.inference import wedge
from cryoden.inference.denoise import denoise_file
from cryoden.inference.tilts import TiltRange
from cryoden.inference.wedge import see_wedge
from cryoden.networks import CompactUnet
from cryoden.simulation.degradation import MissingWedge

SHAPE = (20, 26, 31)
TILTS = TiltRange(-50, 60)


def noise(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(5, 1, shape)


def outside(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Waves (D, H, W) of a volume, by a transform of all axes, and which of them no tilt measured."""
    kz, _, kx = np.meshgrid(*(np.fft.fftfreq(size) for size in volume.shape), indexing="ij")
    angle = np.degrees(np.arctan2(kz, kx))
    angle = np.where(angle > 90, angle - 180, np.where(angle <= -90, angle + 180, angle))
    beyond = ((angle < TILTS.low) | (angle > TILTS.high)) & ((kx != 0) | (kz != 0))
    for axis, size in ((0, len(volume)), (2, volume.shape[2])):
        if size % 2 == 0:  # the fastest wave has two angles at once
            fastest = np.take(beyond, [size // 2], axis)
            other = fastest.take(-np.arange(fastest.shape[2 - axis]), 2 - axis)
            beyond[(slice(None),) * axis + (slice(size // 2, size // 2 + 1),)] = fastest & other
    return np.fft.fftn(volume), beyond


@pytest.fixture(scope="module")
def model() -> Denoiser:
    """A network that fills the wedge, as any that is not linear does."""
    network = Denoiser(CompactUnet(channels=4, levels=2), voxel_size=10.0)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.generator.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("memory", [1, 20 * 31 * 8 * 7, 1 << 25])
def test_outside_nothing_is_left_and_inside_nothing_is_changed(monkeypatch, memory):
    monkeypatch.setattr(wedge, "_MEMORY", memory)
    volume = noise()
    before, beyond = outside(volume)
    share = see_wedge(volume, TILTS, remove=True)
    after, _ = outside(volume)
    assert np.abs(after[beyond]).max() < 1e-9
    np.testing.assert_allclose(after[~beyond], before[~beyond], atol=1e-9)
    power = np.abs(before) ** 2
    assert share == pytest.approx(power[beyond].sum() / power.ravel()[1:].sum(), abs=1e-9)
    assert see_wedge(volume, TILTS, remove=True) < 1e-20


def test_the_share_is_that_of_what_a_wedge_took():
    """White noise fills Fourier space evenly; what a tilt series of the same tilts left holds nothing outside."""
    volume = noise((32, 24, 32))
    wedge_of = MissingWedge((TILTS.low, TILTS.high))
    parameters = [{"tilt_min": TILTS.low, "tilt_max": TILTS.high}]
    seen = wedge_of.apply(torch.from_numpy(volume)[None, None], parameters)[0, 0].numpy()
    lost = 1 - seen.var() / volume.var()
    assert see_wedge(volume.copy(), TILTS) == pytest.approx(lost, abs=1e-9)
    assert 0.3 < lost < 0.5
    assert see_wedge(seen, TILTS) < 1e-20
    assert see_wedge(np.full(SHAPE, 3.0), TILTS) == 0
    unchanged = noise()
    see_wedge(unchanged, TILTS)
    np.testing.assert_array_equal(unchanged, noise())


@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_a_denoised_volume_holds_nothing_but_what_was_measured_and_that_unchanged(model, contrast):
    given = Volume(noise().astype(np.float32), 10.0)
    ordinary, measured = (
        denoise(given, model, contrast=contrast, tile=16, tilt_range=(-50, 60), measured_only=only).data.astype(float)
        for only in (False, True)
    )
    expected = ordinary.copy()
    assert see_wedge(expected, TILTS, remove=True) > 0.01
    np.testing.assert_allclose(measured, expected, atol=1e-5)
    assert see_wedge(measured.copy(), TILTS) < 1e-12


def test_margins_become_background_since_their_edges_would_fill_the_wedge(model):
    data = noise()
    data[:, :, :9] = 0
    denoised = denoise(data, model, contrast="bright", measured_only=True, tilt_range=(-50, 60))
    assert see_wedge(denoised.astype(np.float64), TILTS) < 1e-12
    assert abs(denoised[:, :, :9].mean() - 5) < 0.5


def test_where_the_tilts_are_unknown_it_is_refused_before_the_work(model, tmp_path):
    write_volume(tmp_path / "a.mrc", Volume(noise().astype(np.float32), 10.0))
    files = tmp_path / "a.mrc", tmp_path / "b.mrc", model
    with pytest.raises(CryodenError, match=r"a\.mrc: which part of Fourier space was measured is not known"):
        denoise_file(*files, contrast="bright", measured_only=True)
    (tmp_path / "a.tlt").write_text("-50\n60\n")
    written = denoise_file(*files, contrast="bright", measured_only=True)
    assert see_wedge(written.data.astype(np.float64), TILTS) < 1e-12


def test_the_command_tells_the_share_and_what_it_was_told_by(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export_weights(model, "model.safetensors")
    write_volume("a.mrc", Volume(noise().astype(np.float32), 10.0))

    def run(*words: str) -> str:
        main(["denoise", *words, "--model", "model.safetensors", "--contrast", "bright", "--tile=16"])
        return capsys.readouterr().out

    assert "answer's power" not in run("a.mrc", "b.mrc")
    (tmp_path / "a.rawtlt").write_text("-50\n60\n")
    told = run("a.mrc", "--output", "out", "--preview")
    assert "tilts -50 to 60° (a.rawtlt)" in told
    assert "% of the answer's power lies beyond the tilts of -50 to 60°, where nothing was measured" in told
    assert "done already" in run("a.mrc", "--output", "out")
    told = run("a.mrc", "--output", "out", "--measured-only", "--overwrite")
    assert "lay beyond the tilts of -50 to 60°, where nothing was measured, and was taken out" in told
    assert "done already" in run("a.mrc", "--output", "out", "--measured-only")
    assert "tilts -40 to 60° (as stated)" in run(
        "a.mrc", "--output", "out", "--measured-only", "--tilt-range", "[-40, 60]", "--overwrite"
    )
    (tmp_path / "other.tlt").write_text("-30\n30\n")
    assert "tilts -30 to 30° (other.tlt)" in run("a.mrc", "c.mrc", "--measured-only", "--tilt-range", "other.tlt")
    assert b"measured part only, bright" in open_volume("c.mrc").header.tobytes()


def test_a_broken_file_beside_is_told_and_stops_only_what_needs_it(model, tmp_path, caplog):
    write_volume(tmp_path / "a.mrc", Volume(noise().astype(np.float32), 10.0))
    (tmp_path / "a.tlt").write_text("no angles")
    denoise_file(tmp_path / "a.mrc", tmp_path / "b.mrc", model, contrast="bright")
    assert "a.tlt tells no tilts" in caplog.text
    assert "nothing is told of the missing wedge" in caplog.text
    with pytest.raises(CryodenError, match=r"a\.tlt tells no tilts"):
        denoise_file(tmp_path / "a.mrc", tmp_path / "c.mrc", model, contrast="bright", measured_only=True)
