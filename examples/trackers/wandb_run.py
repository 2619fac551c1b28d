"""Send the numbers of a training run to Weights & Biases.

    pip install wandb
    nonlocalnet train ... --tracker examples/trackers/wandb_run.py:start

WANDB_MODE=offline keeps them in the folder of the run, and WANDB_PROJECT names another project.
"""

import json

import wandb


def start(config):
    """Start or continue the run; return a function that takes each line of metrics.jsonl."""
    run = wandb.init(
        project="nonlocalnet",
        id=config.out.name,
        resume="allow",
        dir=config.out,
        config=json.loads(config.as_json()),
    )

    def track(line):
        kind, iteration = line.pop("kind"), line.pop("iteration", None)
        run.log({f"{kind}/{name}": value for name, value in line.items()}, step=iteration)

    track.close = run.finish
    return track
