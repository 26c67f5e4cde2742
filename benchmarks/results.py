"""Pages of docs/results/ with one figure each, written from the runs of a sweep. `make results-NAME` makes these.

python -m benchmarks.results NAME FOLDER [FOLDER ...] --out docs/results
"""

import argparse
import platform
from collections.abc import Callable, Sequence
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.learned import processor
from rlbench.comparing.curves import AXES, training_flops
from rlbench.comparing.figures import HEIGHT, SHADES, Figure, Spec, accuracy_figure, colour, svg
from rlbench.comparing.groups import Comparison, Group, beside_others, comparisons
from rlbench.comparing.markdown import escaped, tabular
from rlbench.comparing.pairwise import judge
from rlbench.comparing.report import Part, average, group_ledger, interval, standings_table, tests_table, verdicts
from rlbench.comparing.runs import Run, load
from rlbench.comparing.statistics import bootstrap_interval
from rlbench.comparing.table import table_of

LEVEL = 0.05  # the chance of a false winner
DEMO = (
    "Otherwise the settings are those of the demo, which were tuned for none: 0.2 M parameters, 768 rollouts a batch, "
    "and one update a batch, so that no ratio of fresh data is clipped."
)
LIBRARIES = ("jax", "flax", "optax", "numpy")


class Page(NamedTuple):
    """A question and how it is answered."""

    title: str
    question: str
    budgets: tuple[str, ...]  # costs at which every pair is compared
    figure: Callable[[Comparison], Figure | None]
    table: Callable[[Sequence[Group]], Table] | None = None  # of all groups together, instead of what each cost


def against(axis: str) -> Callable[[Comparison], Figure | None]:
    """Accuracy against a cost."""
    return lambda comparison: accuracy_figure(comparison.groups, axis, AXES[axis], LEVEL)


def by(
    key: str, across_title: str, value: Callable[[Run], float], up_title: str, name: Callable[[Run], str]
) -> Callable[[Comparison], Figure | None]:
    """A number of runs against one of their config, a line a name."""

    def figure(comparison: Comparison) -> Figure:
        rows: list[Spec] = []
        for group in comparison.groups:
            values = np.array([value(run) for run in group.runs])
            low, high = bootstrap_interval(lambda some: some.mean(axis=-1), [values], level=LEVEL)
            about = {"algorithm": name(group.runs[0]), "x": group.runs[0].config[key]}
            rows.append(about | {"mean": values.mean(), "low": low, "high": high})
        names = list(dict.fromkeys(row["algorithm"] for row in rows))
        hue = colour("algorithm", names, SHADES)
        across = {"field": "x", "type": "quantitative", "title": across_title}
        up = {"type": "quantitative", "title": up_title, "scale": {"zero": False}}
        layers = [
            {"mark": {"type": "line", "point": True}, "encoding": {"y": up | {"field": "mean"}}},
            {"mark": "rule", "encoding": {"y": up | {"field": "low"}, "y2": {"field": "high"}}},
        ]
        encoding = {"x": across, "color": hue}
        spec = {"data": {"values": rows}, "height": HEIGHT, "encoding": encoding, "layer": layers}
        return Figure("by", up_title, spec)

    return figure


PAGES = {
    "verdicts_arithmetic": Page(
        "PPO, GRPO and async-GRPO on addition of three digits",
        "PPO with a critic, GRPO and async-GRPO, each with the best settings of the same search: 8 trials in learning "
        "rate and minibatches, on two seeds that decide nothing here. Then 16 fresh seeds each, one run after the "
        "other, compared at equal rollouts, equal FLOPs and equal seconds.",
        ("rollouts", "flops", "seconds"),
        against("flops"),
    ),
    "verdicts_code": Page(
        "PPO, GRPO and async-GRPO on programs that are judged by unit tests",
        "PPO with a critic, GRPO and async-GRPO, each with the best settings of the same search: 8 trials in learning "
        "rate and minibatches, on two seeds that decide nothing here. Then 16 fresh seeds each, one run after the "
        "other, compared at equal rollouts, equal FLOPs and equal seconds.",
        ("rollouts", "flops", "seconds"),
        against("flops"),
    ),
    "critic_cost": Page(
        "What a critic costs, and what it gains",
        "PPO with a critic as large as the policy and no KL, against GRPO, which has no critic, and a KL of 0.001 to a "
        f"reference (`algo.kl_coef=0` leaves both out). {DEMO}",
        ("rollouts", "flops"),
        against("flops"),
    ),
    "group_size": Page(
        "Many attempts or many problems",
        "GRPO in groups of 2 to 32 attempts at a problem, at 768 rollouts a batch: the larger the group, the fewer the "
        "problems. A prompt is read once for its group, so that small groups cost more FLOPs a rollout; at equal FLOPs "
        f"they were not compared. {DEMO}",
        ("rollouts",),
        against("rollouts"),
    ),
    "budget": Page(
        "What equal FLOPs buy",
        "PPO, GRPO and async-GRPO until each has executed 1 TFLOP, padding included, warm start and evaluation "
        "excluded. The learning rate is constant, since it would otherwise depend on how many steps the budget pays "
        "for; with one that falls, async-GRPO does better ([staleness.md](staleness.md)). So this says what each buys "
        f"at this rate, not which is better in general. {DEMO}",
        ("flops",),
        against("flops"),
    ),
    "staleness": Page(
        "How stale data may be, and what corrections do about it",
        "A staleness of at most 0, 1, 2, 4 and 8 learner steps, which is reached only where sampling is so far ahead "
        "of training: the average was measured. `grpo` clips the ratio to the policy that sampled, and corrects for "
        "nothing else. `async_grpo` has the decoupled objective, whose importance ratio is truncated at 2, or nowhere "
        "(`is_cap=1000000`). `async_grpo_areal` masks tokens whose ratio is above 5, and has no KL to the reference. "
        "`dppo` masks tokens by how far their probability moved, and has none either. Runs are of 120 learner steps; "
        f"all take the mean over sequences, and add 1e-6 to a group's deviation. {DEMO}",
        (),
        by(
            "runner.max_staleness",
            "staleness, at most (learner steps)",
            lambda run: 100 * run.summary["accuracy_after"],
            "held-out accuracy at the end (%)",
            lambda run: f"{run.summary['algo']}{decoupled(run)}",
        ),
        table=lambda groups: staleness_table(groups),
    ),
    "environment_latency": Page(
        "What the latency of an environment costs",
        "Tickets are booked on a web site (docs/booking.md) whose pages take 0, 0.05 and 0.2 s on average, log-normal, "
        "under PPO, GRPO and async-GRPO and each with the runners `sync`, `async` and `inflight`. Runs were made one "
        "after the other. Seconds are those of a learner step, evaluations and compilation apart; CPU seconds are "
        "those of the environment, for each second that the device computed.",
        (),
        by(
            "task.latency.seconds",
            "latency of a page (s)",
            lambda run: step_seconds(run),
            "learner step (s)",
            lambda run: f"{run.summary['algo']} {runner_of(run)}",
        ),
        table=lambda groups: latency_table(groups),
    ),
}


def mean(group: Group, value: Callable[[Run], float]) -> float:
    """Of a group's seeds."""
    return float(np.mean([value(run) for run in group.runs]))


def flops(run: Run) -> float:
    """Operations of a whole run, without warm start and evaluation."""
    return training_flops(run.rows[-1])


def costs_table(groups: Sequence[Group]) -> Table:
    """One line a group: what it cost, as means over its seeds, without warm start and evaluation.

    Seconds are there where no run waited for others of its process.
    """
    ledgers = {group.label: group_ledger(group) for group in groups}

    def own(group: Group, *names: str) -> Any:
        return reduce(getitem, names, ledgers[group.label])

    def networks(group: Group) -> int:
        return sum(sum(parts.values()) for parts in own(group, "memory", "components").values())

    columns: dict[str, Callable[[Group], str]] = {
        "algorithm": lambda group: group.label,
        "seeds": lambda group: str(len(group.runs)),
        "accuracy at the start (%)": lambda group: f"{100 * average(group, 'accuracy_before'):.1f}",
        "at the end (%)": lambda group: f"{100 * average(group, 'accuracy_after'):.1f}",
        "TFLOPs": lambda group: f"{mean(group, flops) / 1e12:.2f}",
        "networks (MB)": lambda group: f"{networks(group) / 1e6:.2f}",
        "peak (MB)": lambda group: f"{own(group, 'memory', 'device_peak') / 1e6:.1f}",
        "rollouts": lambda group: f"{average(group, 'rollouts'):,.0f}",
        "verifier (CPU s)": lambda group: f"{own(group, 'verification', 'cpu_seconds'):.1f}",
    }
    if not beside_others(run for group in groups for run in group.runs):
        columns["wall (s)"] = lambda group: f"{own(group, 'time', 'wall') - own(group, 'time', 'evaluation'):.1f}"
    return table_of("", columns, groups)


def decoupled(run: Run) -> str:
    """A word for an importance ratio that is truncated nowhere."""
    return " without is_cap" if run.config.get("algo.is_cap", 0.0) > 100 else ""


def runner_of(run: Run) -> str:
    """The name of a run's runner."""
    if not run.config["runner.max_staleness"]:
        return "sync"
    return "inflight" if run.config["runner.swap"] == "chunk" else "async"


def step_seconds(run: Run) -> float:
    """Seconds of a learner step, without evaluations and compilation."""
    time = run.ledger["time"]
    away = time["evaluation"] + time["devices"]["waiting_for_compilation"]
    return float((time["wall"] - away) / run.summary["learner_steps"])


def staleness_table(groups: Sequence[Group]) -> Table:
    """One line a group: how stale its data were, and how accurate that made it."""

    def stale(run: Run) -> float:
        return float(np.mean([row["staleness_mean"] for row in run.rows if row["step"]]))

    def end(group: Group) -> str:
        values = np.array([100 * run.summary["accuracy_after"] for run in group.runs])
        return interval(*bootstrap_interval(lambda some: some.mean(axis=-1), [values], level=LEVEL))

    columns: dict[str, Callable[[Group], str]] = {
        "algorithm": lambda group: f"{group.runs[0].summary['algo']}{decoupled(group.runs[0])}",
        "staleness, at most": lambda group: str(group.runs[0].config["runner.max_staleness"]),
        "on average": lambda group: f"{mean(group, stale):.2f}",
        "seeds": lambda group: str(len(group.runs)),
        "accuracy at the end (%)": lambda group: f"{100 * average(group, 'accuracy_after'):.1f}",
        f"{1 - LEVEL:.0%} interval": end,
        "TFLOPs": lambda group: f"{mean(group, flops) / 1e12:.2f}",
    }
    return table_of("", columns, groups)


def latency_table(groups: Sequence[Group]) -> Table:
    """One line a group: its seconds, and what the environment took of them."""

    def waits(run: Run) -> float:
        devices = run.ledger["time"]["devices"]
        return float((devices["waiting_for_verification"] + devices["waiting_for_drain"]) / run.ledger["time"]["wall"])

    def pace(run: Run) -> float:
        judged = run.ledger["verification"]
        names = ("cpu_seconds_per_accelerator_second", "cpu_seconds_per_device_second")
        return float(next(judged[name] for name in names if name in judged) or 0.0)

    columns: dict[str, Callable[[Group], str]] = {
        "algorithm": lambda group: group.runs[0].summary["algo"],
        "runner": lambda group: runner_of(group.runs[0]),
        "latency (s)": lambda group: str(group.runs[0].config["task.latency.seconds"]),
        "seeds": lambda group: str(len(group.runs)),
        "learner step (s)": lambda group: f"{mean(group, step_seconds):.2f}",
        "waits for the site (%)": lambda group: f"{100 * mean(group, waits):.0f}",
        "idle (%)": lambda group: f"{100 * mean(group, lambda run: run.ledger['time']['idle_fraction']):.0f}",
        "CPU s for a device's second": lambda group: f"{mean(group, pace):.3f}",
        "success at the end (%)": lambda group: f"{100 * average(group, 'accuracy_after'):.1f}",
    }
    return table_of("", columns, groups)


def section(page: Page, comparison: Comparison, name: str) -> list[str]:
    """The verdicts, the costs and the figure of one task."""
    blocks = [f"## {escaped(comparison.title)}"]
    for budget in page.budgets:
        part = Part(comparison, judge(comparison, AXES[budget], level=LEVEL))
        blocks.append(tabular(standings_table(part, costs=False)))
        if part.judgement.tests:
            blocks.append(tabular(tests_table(part)))
            blocks.append("\n".join(f"- {escaped(words)}" for words, _ in verdicts(part.judgement)))
    blocks += ["On average over seeds:", tabular((page.table or costs_table)(comparison.groups))]
    return [*blocks, f"![{page.title}]({name})"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PAGES)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of the sweep's runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page and its figure")
    options = parser.parse_args()
    page, stem = PAGES[options.name], options.name.replace("_", "-")
    runs, skipped = load(options.folders)
    for one in skipped:
        parser.exit(1, f"{one.folder}: {one.reason}\n")
    if not runs:
        parser.exit(1, f"no finished run in {' '.join(map(str, options.folders))}\n")
    asked, _ = comparisons(runs)
    if page.table:  # whose rows are of tasks that differ
        asked = [Comparison(asked[0].title.split()[0], [group for one in asked for group in one.groups])]
    blocks = [f"# {page.title}", page.question]
    options.out.mkdir(parents=True, exist_ok=True)
    for number, comparison in enumerate(asked):
        name = f"{stem}{f'-{number + 1}' if len(asked) > 1 else ''}.svg"
        if figure := page.figure(comparison):
            (options.out / name).write_text(svg(figure))
        blocks += section(page, comparison, name)
    if beside_others(runs):
        blocks.append("The seeds of a setting shared a process, so that seconds are not reported.")
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    made = f"Made on {processor()} with {versions}, Python {platform.python_version()}."
    blocks += ["Warm start and evaluation are not in the costs. " + made, f"    make results-{stem}"]
    (options.out / f"{stem}.md").write_text("\n\n".join(blocks) + "\n")


if __name__ == "__main__":
    main()
