"""The unit of density: what protein in bulk is above vitreous ice. Ice is 0, protein in bulk 1.

Electron scattering per volume follows from composition and mass density, with the forward scattering factors of Peng et
al. (1996): protein of 1.35 g/cm³ with its hydrogens, ice of 0.93 g/cm³, gold of 19.3 g/cm³.
"""

from typing import Literal

Sampling = Literal["band-limited", "thesis"]
"""How density becomes voxels, see `clean_volume`: "band-limited" in this unit, or "thesis" with the maximum 1."""

PROTEIN = 0.1659  # Å^-2
ICE = 0.0945  # Å^-2
UNIT = PROTEIN - ICE  # Å^-2

PROTEIN_VOLUME = 1230.0
"""Å³ of a kDa of protein in bulk, of 1.35 g/cm³: its density above ice, summed."""

VOLTS = 47.878 * UNIT
"""Potential of one unit of density, 3.42 V: scattering density times h² / (2π m e), which is 47.878 V Å²."""

VACUUM = -ICE / UNIT
"""The density of vacuum, -1.32: it is below ice."""

GOLD = (0.6238 - ICE) / UNIT
"""The density of gold, 7.41."""

BRIGHTEST = 2.0
"""No protein, membrane or nucleic acid is denser at the resolutions of tomograms: what is brighter is gold."""
