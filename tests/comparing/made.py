"""Runs made by hand: the files that a run leaves, with the numbers that a test is about."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlbench.accounting import SCHEMA
from rlbench.comparing.groups import Comparison, Group
from rlbench.comparing.runs import Run, flat
from rlbench.types import Fate

CONFIG = {
    "algo": {"group_size": 8},
    "task": {"digits": 2},
    "evaluation": {"problems": 256, "every": 5},
    "steps": 10,
    "cache": None,
    "warm_start": {"steps": 100},
}


def ledger() -> dict[str, Any]:
    executed = {"by_phase": {"decode": 2e9}, "by_component": {"policy": 2e9}, "cells": {"decode": {"policy": 2e9}}}
    executed |= {"by_fate": dict.fromkeys(Fate, 0.0), "padding": 0.0, "overhead": 0.0, "left_out": 0.0, "total": 2e9}
    network = {"parameters": 1_000_000, "optimizer_state": 2_000_000, "gradients": 1_000_000}
    return {
        "schema": SCHEMA,
        "compute": {
            "executed": executed,
            "useful": {"by_phase": {}, "total": 1e9},
            "utilisation": {"hfu": 0.2, "mfu": 0.1},
            "uncounted": [],
        },
        "memory": {
            "components": {"policy": network},
            "sampling_network": "policy",
            "kv_cache": 500_000,
            "rollout_buffers": 100_000,
            "temporaries": {"update": 3_000_000},
            "price": {"critic": {"with": 8_000_000, "without": 4_000_000, "difference": 4_000_000}},
            "device_peak": 8_000_000,
            "process_peak": 8_000_000,
            "resident_peak": 500_000_000,
        },
        "rollouts": {"problems": 10, "generated": 100, "by_fate": dict.fromkeys(Fate, 0) | {Fate.TRAINED: 100}},
        "tokens": {"by_fate": dict.fromkeys(Fate, 0), "prefill_saved": 0},
        "verification": {"calls": 100, "cpu_seconds": 0.5, "wall_seconds": 0.6},
        "time": {
            "wall": 10.0,
            "evaluation": 1.0,
            "idle_fraction": 0.25,
            "devices": {"actor_only": 7.5, "waiting_for_host": 2.5},
        }
        | {"actor": {"computing": 10.0}, "learner": {"waiting": 10.0}},
        "lost_to_crash": {"crashes": 0, "learner_steps": 0, "seconds": 0.0, "flops": 0.0, "rollouts": 0},
        "price": {"gain": None, "per_point": {"flops": 1e9}, "per_solved": {"flops": None}},
    }


def rows(accuracies: dict[int, float | None], rollouts: int = 100) -> list[dict[str, Any]]:
    """Metrics of which those at the steps given hold an evaluation."""
    made = []
    for step in range(max(accuracies) + 1):
        row = {"step": step, "rollouts": rollouts * step, "flops": 1e9 + 1e6 * step, "flops/phase/warm_start": 1e9}
        row |= {"wall_seconds": 1.0 + step, "verification/cpu_seconds": 0.1 * step}
        row |= {"staleness_mean": 0.0} if step else {}
        made.append(row | ({"eval/accuracy": accuracies[step]} if step in accuracies else {}))
    return made


def run(
    seed: int = 0,
    accuracies: dict[int, float | None] | None = None,
    *,
    algo: str = "first",
    task: str = "adding",
    status: str = "finished",
    folder: Path = Path("nowhere"),
    sandbox: str | None = None,
    **config: Any,
) -> Run:
    """One in memory. Keys of the config are dotted, with __ for a dot."""
    summary = {
        "schema": SCHEMA,
        "algo": algo,
        "task": task,
        "seed": seed,
        "status": status,
        "wall_seconds": 10.0,
        "flops": 2e9,
    }
    summary |= {"peak_memory_bytes": 8_000_000, "sandbox": sandbox}
    points = {0: 0.1, 10: 0.5} if accuracies is None else accuracies
    summary |= {"accuracy_before": points[0], "accuracy_after": points[max(points)]}
    summary |= {"learner_steps": max(points), "rollouts": 100 * max(points), "tokens": 1000}
    settings = dict(flat(CONFIG)) | {key.replace("__", "."): value for key, value in config.items()}
    settings = {"seed": seed, "warm_start.seed": seed, "algo._target_": f"nowhere.{algo}"} | settings
    words = [f"algo={algo}", f"seed={seed}"]
    return Run(folder, settings, summary, ledger(), rows(points), words)


def write(run: Run, folder: Path) -> Path:
    """The run as files."""
    (folder / ".hydra").mkdir(parents=True)
    nested: dict[str, Any] = {}
    for key, value in run.config.items():
        *above, last = key.split(".")
        inner = nested
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(nested))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(run.words))
    (folder / ".hydra" / "config.yaml").write_text("seed: 0\n")
    (folder / "summary.json").write_text(json.dumps(run.summary))
    (folder / "ledger.json").write_text(json.dumps(run.ledger))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run.rows))
    return folder


def comparison(**scores: list[float] | np.ndarray) -> Comparison:
    """Groups whose seeds end at these accuracies, in percent."""
    groups = [
        Group(label, [run(seed, {0: 0.0, 10: score / 100}, algo=label) for seed, score in enumerate(values)])
        for label, values in scores.items()
    ]
    return Comparison("adding", groups)
