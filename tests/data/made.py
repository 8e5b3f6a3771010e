"""Small data, and what a training sees of them."""

from cryoden import SceneContents, SceneDataModule
from cryoden.data import VolumeDataModule

SMALL = {"box": 24, "voxel_size": 14.0, "resolution": 28.0, "val_fraction": 0.34, "num_workers": 0, "batch_size": 2}


def made(kind: type, **arguments):
    """Data of two phantoms, ready to use: volumes of one particle each, or scenes of one to three."""
    scenes = {"scenes": 6, "contents": SceneContents(count=(1, 3))}
    size = scenes if kind is SceneDataModule else {"copies": 3}
    data = kind(**{"entries": ["phantom:1", "phantom:2"], **SMALL, **size, **arguments})
    data.setup()
    return data


def epochs(data: VolumeDataModule, n: int = 2) -> list[list[dict]]:
    """The batches of the first epochs, as a training sees them."""
    loader = data.train_dataloader()
    seen = []
    for epoch in range(n):
        loader.sampler.set_epoch(epoch)
        seen.append([data.on_after_batch_transfer(batch, 0) for batch in loader])
    return seen
