"""Send the numbers of a training run to MLflow.

    pip install mlflow
    nonlocalnet train ... --tracker examples/trackers/mlflow_run.py:start

MLFLOW_TRACKING_URI names the server; without it, MLflow writes to the current folder.
"""

import json

import mlflow


def start(config):
    """Start a run; return a function that takes each line of metrics.jsonl."""
    mlflow.set_experiment("nonlocalnet")
    mlflow.start_run(run_name=config.out.name)
    mlflow.log_params(json.loads(config.as_json()))

    def track(line):
        kind, iteration = line.pop("kind"), line.pop("iteration", None)
        numbers = {f"{kind}/{k}": v for k, v in line.items() if isinstance(v, int | float)}
        mlflow.log_metrics(numbers, step=iteration)

    track.close = mlflow.end_run
    return track
