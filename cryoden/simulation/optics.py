"""What an electron microscope does to an image: wavelength, contrast transfer, radiation damage.

The few lines of torch-ctf and torch-fourier-filter that are needed, of which the first takes 0.3 s to import and the
second needs pandas and weights the images of a movie against each other; the tests compare the two with these.
"""

import math

import torch
from torch import Tensor

# CODATA 2018
_PLANCK = 6.62607015e-34  # J s
_MASS = 9.1093837015e-31  # kg
_CHARGE = 1.602176634e-19  # C
_LIGHT = 299792458.0  # m/s


def wavelength(voltage: float) -> float:
    """Wavelength of electrons in Å, relativistic.

    Args:
        voltage: kV.

    >>> round(wavelength(300), 4)
    0.0197
    """
    energy = _CHARGE * voltage * 1e3
    return 1e10 * _PLANCK / math.sqrt(2 * _MASS * energy + (energy / _LIGHT) ** 2)


def interaction_constant(voltage: float) -> float:
    """Phase shift of electrons in rad per volt of potential and nm of way, 2π m e λ / h².

    Args:
        voltage: kV.

    >>> round(interaction_constant(300), 5)
    0.00653
    """
    mass = _MASS + _CHARGE * voltage * 1e3 / _LIGHT**2
    return 1e-9 * 2 * math.pi * mass * _CHARGE * wavelength(voltage) * 1e-10 / _PLANCK**2


def aberration(frequency: Tensor, defocus: Tensor, voltage: float, spherical_aberration: float) -> Tensor:
    """By how much the lens shifts the phase of each wave: χ = π λ Δz k² - π/2 Cs λ³ k⁴ (Wade 1992).

    "A brief look at imaging and contrast transfer".

    Args:
        frequency: k, 1/Å, any shape.
        defocus: Δz, µm, positive under focus; broadcastable to `frequency`.
        voltage: kV.
        spherical_aberration: Cs, mm.

    Returns:
        Of the shape of both together, rad.
    """
    length = wavelength(voltage)
    squared = frequency.square()
    phase = math.pi * length * (defocus * 1e4) * squared
    return phase - math.pi / 2 * spherical_aberration * 1e7 * length**3 * squared.square()


def exit_wave(phase_shift: Tensor, amplitude_contrast: float) -> Tensor:
    """The electron wave behind a specimen, exp(i φ e^{ia}), where sin a is the amplitude contrast.

    Of a weak φ the lens makes an intensity of 1 - 2 sin(χ + a) φ, see `contrast_transfer`; of a strong one, such as
    gold's, never less than 0.

    Args:
        phase_shift: φ, rad, any shape.
        amplitude_contrast: fraction, 0 to 1.

    Returns:
        Of the same shape, complex.
    """
    angle = math.asin(amplitude_contrast)
    return torch.polar(torch.exp(-math.sin(angle) * phase_shift), math.cos(angle) * phase_shift)


def contrast_transfer(aberration: Tensor, amplitude_contrast: float) -> Tensor:
    """Contrast transfer function sin(χ + a), with which a weak phase shift φ becomes an intensity of 1 - 2 CTF φ.

    Protein is dark under focus, as in the images of a microscope.

    Args:
        aberration: χ, rad, any shape.
        amplitude_contrast: sin a, fraction, 0 to 1.

    Returns:
        Of the same shape, between -1 and 1.
    """
    return torch.sin(aberration + math.asin(amplitude_contrast))


def mean_free_path(voltage: float) -> float:
    """How far electrons go through ice before they lose energy, in nm, on average.

    395 at 300 kV (Rice et al. 2018, "Routine determination of ice thickness for cryo-EM grids"), and in proportion to
    the square of their speed at other voltages.

    Args:
        voltage: kV.

    >>> round(mean_free_path(200))
    317
    """

    def squared_speed(voltage: float) -> float:
        return 1 - (1 + _CHARGE * voltage * 1e3 / (_MASS * _LIGHT**2)) ** -2

    return 395 * squared_speed(voltage) / squared_speed(300)


def deconvolution(frequency: Tensor, transfer: Tensor) -> Tensor:
    """The filter by which Warp deconvolves images, at its default strength and fall-off: t / (t² + 1 / snr).

    Tegunov and Cramer 2019, "Real-time cryo-electron microscopy data preprocessing with Warp", with a signal-to-noise
    ratio of 1000 exp(-200 Å k).

    Args:
        frequency: k, 1/Å, any shape.
        transfer: t, contrast transfer, broadcastable to `frequency`.

    Returns:
        Of the shape of both together.
    """
    return transfer / (transfer.square() + 1e-3 * torch.exp(200 * frequency))


def damage(frequency: Tensor, dose: Tensor, voltage: float) -> Tensor:
    """What radiation leaves of the signal: exp(-N / 2 Nc), with the critical exposure Nc = 0.245 k^-1.665 + 2.81.

    Grant and Grigorieff 2015, "Measuring the optimal exposure for single particle cryo-EM", at 300 kV; at lower
    voltages electrons do more damage, by 1 / 0.8 at 200 kV and 1 / 0.64 at 100 kV.

    Args:
        frequency: 1/Å, any shape; 0 is never damaged.
        dose: N, electrons per Å² so far; broadcastable to `frequency`.
        voltage: kV.

    Returns:
        Of the shape of both together, between 0 and 1.
    """
    harm = 0.8 ** ((300 - voltage) / 100)
    critical = harm * (0.245 * frequency.clamp(min=1e-6) ** -1.665 + 2.81)
    return torch.exp(-dose / (2 * critical))
