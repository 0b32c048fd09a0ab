#!/usr/bin/env python3
"""Submit a training to SLURM from Python, with submitit: what follows the options is what follows maft train.

One task is one process and one GPU. A job that is preempted or runs out of time goes back into the queue, and on from
its last checkpoint (SOLVER.CHECKPOINT_PERIOD).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from maft.errors import ToolParser, UserError, run_tool

EXAMPLE = """example:
  tools/submit.py --nodes 2 --gpus 8 --hours 24 --partition gpu maft/maft_vitb16_coco-stuff-171 SOLVER.MAX_ITER 1000
"""


class Training:
    """What every task of the job runs; submitit calls ``checkpoint`` where a job has to be put back into the queue."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> None:
        import submitit

        from maft.cli.train import main as train

        # Each process chooses its GPU by its rank, as under torchrun.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        train(["--resume", *self.words])

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="per machine (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=8, metavar="N", help="per GPU (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=24, metavar="H", help="default: %(default)s")
    parser.add_argument("--partition", metavar="NAME", help="of the cluster")
    parser.add_argument("--folder", type=Path, default=Path("output/jobs"), help="logs (default: %(default)s)")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="CONFIG KEY VALUE", help="as for maft train")
    return parser.parse_args()


def submit(arguments: argparse.Namespace, cluster: str | None = None) -> Any:
    """The submitted job.

    Args:
        cluster: None: SLURM; ``local``: processes of this machine.

    Raises:
        UserError: submitit is not installed, or there is no SLURM here.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError('tools/submit.py needs submitit: run pip install "maft[slurm]".') from error
    if cluster is None and shutil.which("srun") is None:
        raise UserError("There is no SLURM on this machine (no srun): submit from a login node of the cluster.")
    executor = submitit.AutoExecutor(arguments.folder, cluster=cluster)
    executor.update_parameters(
        name="maft",
        nodes=arguments.nodes,
        tasks_per_node=arguments.gpus,
        cpus_per_task=arguments.cpus,
        timeout_min=round(60 * arguments.hours),
        slurm_gpus_per_node=arguments.gpus,
        **({"slurm_partition": arguments.partition} if arguments.partition else {}),
    )
    return executor.submit(Training(arguments.words))


def main() -> None:
    arguments = parse_arguments()
    if not arguments.words:
        raise UserError("Name a config, as for maft train.")
    job = submit(arguments)
    print(f"job {job.job_id}; its logs are {job.paths.stdout} and {job.paths.stderr}")


if __name__ == "__main__":
    run_tool(main)
