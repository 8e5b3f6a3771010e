"""How much structure was taken away is told from the tomogram alone."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryoden.inference.removed import SUSPICIOUS, structure_removed, tell_removed

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=(32, 48, 52)).astype(np.float32)
TRUTH = gaussian_filter(RANDOM.normal(size=NOISE.shape), 2.5).astype(np.float32)
TRUTH *= 1.5 / TRUTH.std()
BEFORE = 100 + TRUTH + NOISE


def test_noise_alone_is_little_and_all_is_all():
    assert structure_removed(BEFORE, 100 + TRUTH) < 0.3
    assert structure_removed(BEFORE, np.full_like(BEFORE, 100)) == pytest.approx(1)
    assert structure_removed(BEFORE, BEFORE) == 0


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_part_of_the_structure_is_suspicious(share):
    assert structure_removed(BEFORE, 100 + (1 - share) * TRUTH) > SUSPICIOUS


def test_wide_filters_are_suspicious():
    assert structure_removed(BEFORE, gaussian_filter(BEFORE, 4)) > SUSPICIOUS


@pytest.mark.parametrize(("a", "b"), [(1000.0, -3.0), (-1.0, 0.0), (1e-3, 5.0)])
def test_the_unit_and_the_contrast_do_not_matter(a, b):
    expected = structure_removed(BEFORE, 100 + 0.5 * TRUTH)
    assert structure_removed(a * BEFORE + b, a * (100 + 0.5 * TRUTH) + b) == pytest.approx(expected, abs=0.01)


def test_nothing_brings_the_two_to_one_scale():
    assert structure_removed(BEFORE, 100 + 0.3 * TRUTH) > structure_removed(BEFORE, 100 + TRUTH) + 0.3


def test_margins_hot_voxels_and_a_bead_do_not_decide():
    expected = structure_removed(BEFORE, 100 + TRUTH)
    before, after = BEFORE.copy(), 100 + TRUTH
    before[::9, ::7, ::5] += 1e4
    before[10:14, 20:24, 20:24] = 500
    before[:, :4] = after[:, :4] = 0
    assert structure_removed(before, after) == pytest.approx(expected, abs=0.1)


def test_the_middle_of_a_mapped_file_is_enough(tmp_path):
    shape = (10, 12, 400)
    before, after = (np.memmap(tmp_path / name, np.float32, mode="w+", shape=shape) for name in ("before", "after"))
    before[:] = RANDOM.normal(size=shape)
    after[:] = before
    after[..., :100] = after[..., -100:] = 0
    assert structure_removed(before, after) == 0


def test_words():
    assert tell_removed(0.214) == "what was taken away correlates 0.21 with what was there"
    assert "correlates 0.94 with what was there, and above 0.7 structure went with the noise" in tell_removed(0.94)
