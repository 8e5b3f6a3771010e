"""Simulated particles, each alone in its box, for Lightning."""

from collections.abc import Sequence

from cryoden.data.base import Particles, VolumeDataModule, check_above_zero, split_copies
from cryoden.data.dataset import ParticleDataset, VolumeDataset
from cryoden.simulation.degradation import Degradation, SaltAndPepper, default_degradation
from cryoden.simulation.tilt_series import TiltSeriesDegradation

THESIS_ENTRIES = ("1u6g", "3cf3", "4b4t", "1qvr", "3h84", "2cg9", "3qm1", "3gl1", "3d2f", "4d8q")


class ParticleDataModule(VolumeDataModule):
    """Volumes simulated from particles: each copy in a random orientation, alone in its box, then degraded.

    Density is computed in worker processes; training volumes are degraded in batches on the device. Validation and test
    volumes never change. Every item is a pure function of the seed, the epoch and its index, whatever the number of
    workers and processes. A batch also has `rotation`.

    Args:
        entries: particles: PDB entries ("1u6g"), structure files (.cif, .pdb, .ent, each also .gz), density maps (.mrc,
            .map) or phantoms ("phantom:7"). The default is the thesis's ten (3qm1 for its misprint 3qml).
        holdout: particles never trained on; where there are any, validation and test use these alone.
        copies: volumes per particle, training and validation together.
        val_fraction: the share of copies that validate; as many again, in other orientations, test.
        fresh: new orientations and noise each epoch; false repeats those of the first epoch, as the thesis did.
        cache: a folder in which volumes are kept for this and later trainings. They are those of the first epoch for
            ever, clean and degraded, as with fresh: false.
        box: voxels along each side.
        voxel_size: angstrom.
        resolution: angstrom; the simulated density holds no finer detail.
        degradation: the steps from clean to degraded, in order; by default noise at snr 1.3, then a ±60° missing wedge.
        structure_dir: a folder searched for structure files before the archive; default: $CRYODEN_STRUCTURE_DIR.
        assembly: null for the deposited model, or the name of a biological assembly, such as "1".
        hydrogens: keep hydrogen atoms.
        ligands: keep ligands.
        batch_size: volumes per batch and process.
        num_workers: processes that compute density; by default one fewer than there are cores, at most 8.
        seed: of everything random here.
    """

    def __init__(
        self,
        entries: list[str] = list(THESIS_ENTRIES),  # noqa: B006 - never changed; shown in the CLI's help
        holdout: list[str] | None = None,
        copies: int = 100,
        val_fraction: float = 0.2,
        fresh: bool = True,
        cache: str | None = None,
        box: int = 64,
        voxel_size: float = 6.0,
        resolution: float = 12.0,
        degradation: list[Degradation] | None = None,
        structure_dir: str | None = None,
        assembly: str | None = None,
        hydrogens: bool = False,
        ligands: bool = True,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            default_degradation() if degradation is None else degradation,
            voxel_size=voxel_size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            cache=cache,
        )
        self.save_hyperparameters()
        check_above_zero(box=box, voxel_size=voxel_size, resolution=resolution)
        self.particles = Particles(
            entries, holdout, structure_dir=structure_dir, assembly=assembly, hydrogens=hydrogens, ligands=ligands
        )
        self.copies = split_copies(copies, val_fraction, "copies")
        self.box = box
        self.resolution = resolution
        self.fresh = fresh

    def prepare_data(self) -> None:
        """Download what is missing, once per machine."""
        self.particles.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Read the particles and check that each fits the box."""
        self.particles.load(self.box, self.voxel_size, self.resolution)

    @property
    def experiment(self) -> str:
        """The experiment of the thesis that these data make."""
        if any(isinstance(step, TiltSeriesDegradation) for step in self.degradation):
            return "realistic"  # a tilt series made the thesis's realistic volumes
        if any(isinstance(step, SaltAndPepper) for step in self.degradation):
            return "different-noise"
        return "unseen-particle" if self.unseen else "control"

    @property
    def unseen(self) -> frozenset[str]:
        """Which of the entries that validate and test are never trained on."""
        return self.particles.unseen

    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        return ParticleDataset(
            self.particles.of(split),
            self.copies[split],
            degradation,
            box=self.box,
            voxel_size=self.voxel_size,
            resolution=self.resolution,
            **self._randomness(split),
        )
