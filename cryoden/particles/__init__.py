"""Where a particle comes from: atoms of a PDB entry or a file, a density map, or a procedural phantom."""

from cryoden.particles.density_map import DensityMap, read_density_map
from cryoden.particles.load import (
    Particle,
    canonical_name,
    check_distinct,
    check_names,
    is_archive_entry,
    load_particle,
)
from cryoden.particles.structure import Structure, read_structure

__all__ = [
    "DensityMap",
    "Particle",
    "Structure",
    "canonical_name",
    "check_distinct",
    "check_names",
    "is_archive_entry",
    "load_particle",
    "read_density_map",
    "read_structure",
]
