"""The verb `validate`."""

from cryoden.commands.fit import run


def validate(*words: str) -> None:
    """Score a checkpoint on the validation volumes.

    best and last are those of the run whose config.yaml is given:

      cryoden validate --config runs/gan/version_0/config.yaml --ckpt-path best
      cryoden validate --config runs/gan/version_0/config.yaml --ckpt-path best --data.num_workers 4
      cryoden validate --config quick --ckpt-path runs/quick/version_0/checkpoints/last.ckpt

      --config FILE               a run's config.yaml, a file of yours, or one that comes along, such as quick
      --ckpt-path FILE            the checkpoint, or best, or last
      --data.KEY VALUE            an argument of the data; --data.help NAME tells them
      --trainer.accelerator KIND  cpu or gpu, by default the best there is
    """
    run("validate", *words)
