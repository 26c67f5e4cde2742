"""The command `rlbench-evaluate`: evaluates the policy of a run, on its task or with other settings.

    rlbench-evaluate RUN_FOLDER                                           as the run itself does at its end
    rlbench-evaluate RUN_FOLDER task.digits=3 evaluation.problems=512
    rlbench-evaluate RUN_FOLDER evaluation.samples=16 evaluation.pass_at=[1,16]
    rlbench-evaluate --best RUN_FOLDER                                    its checkpoint of the best held-out accuracy

Accuracy is that of greedy completions; pass@k and the majority vote are of sampled ones. A line is added to
RUN_FOLDER/evaluations.jsonl: the metrics under the names that metrics.jsonl has, the words, and some completions.
Exit codes: 0, or 2 where there is no such run, or its policy cannot be evaluated like this.
"""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..command_line import parser_of
from ..contract.task import opened
from ..devices import keep_compilations
from ..evaluation import distinct_problems, evaluate
from ..help import explain, is_one_line
from ..parts import Parts
from ..tracking.files import strict_json
from .policy import plan_of, policy_of

FILE = "evaluations.jsonl"


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    try:
        line = evaluated(options.folder, options.words, best=options.best)
        with (options.folder / FILE).open("a") as file:
            file.write(strict_json(line) + "\n")
    except Exception as error:
        if not is_one_line(error) and not isinstance(error, OSError):
            raise
        print(f"rlbench-evaluate: {' '.join(explain(error, options.words).split())}", file=sys.stderr)
        sys.exit(2)
    show(line)


def parser() -> argparse.ArgumentParser:
    arguments = parser_of("rlbench-evaluate", __doc__)
    arguments.add_argument("folder", type=Path, help="of a run")
    arguments.add_argument("words", nargs="*", help="overrides, as those of rlbench")
    arguments.add_argument("--best", action="store_true", help="the checkpoint of the best held-out accuracy")
    return arguments


def evaluated(folder: Path, words: list[str], *, best: bool) -> dict[str, Any]:
    """The metrics of a run's policy, with what they are of."""
    plan = plan_of(folder, words)
    keep_compilations(plan.cache / "compilations")
    with contextlib.closing(plan.verifier), opened(plan.task):
        policy = policy_of(folder, plan, best=best)
        problems = distinct_problems(plan.task, "heldout", plan.evaluation.problems)
        measured = evaluate(plan.evaluation, problems, Parts(plan).evaluator, policy.params, policy.step)
    return {"step": policy.step, "words": words, **measured.metrics, "trajectories": measured.trajectories}


def show(line: dict[str, Any]) -> None:
    """Prints the metrics."""
    table = Table("metric", "", box=box.SIMPLE_HEAD, title=f"after {line['step']} learner steps", title_justify="left")
    for name, value in line.items():
        if name.startswith("eval/"):
            text = "unknown" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value}"
            table.add_row(name.removeprefix("eval/"), text)
    Console().print(table)


if __name__ == "__main__":
    main()
