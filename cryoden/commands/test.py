"""The verb `test`."""

from cryoden.commands.fit import run


def test(*words: str) -> None:
    """Score a checkpoint on the test volumes.

    The table is also written, as test.csv and results.json in the folder of a run of its own. best and last are those
    of the run whose config.yaml is given:

      cryoden test --config runs/gan/version_0/config.yaml --ckpt-path best
      cryoden test --config runs/gan/version_0/config.yaml --config overlays/unseen_particle --ckpt-path best
      cryoden test --config quick --ckpt-path runs/quick/version_0/checkpoints/last.ckpt

      --config FILE               a run's config.yaml, a file of yours, or one that comes along, such as quick
      --ckpt-path FILE            the checkpoint, or best, or last
      --data.KEY VALUE            an argument of the data; --data.help NAME tells them
      --trainer.accelerator KIND  cpu or gpu, by default the best there is
    """
    run("test", *words)
