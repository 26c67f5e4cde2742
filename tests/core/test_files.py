"""The files of a run are JSON that any reader takes."""

import json
import math

from rlbench.tracking.files import Files


def test_a_number_that_is_not_finite_is_null(tmp_path):
    files = Files(tmp_path)
    files.log({"step": 1, "loss": math.nan, "parts": [math.inf, 2.0]})
    files.trajectories(1, [{"reward": -math.inf, "completions": ("a",)}])
    files.finish({"status": "diverged", "loss": math.nan}, {"time": {"wall": math.inf}})

    def read(name: str):
        return json.loads((tmp_path / name).read_text(), parse_constant=lambda constant: 1 / 0)

    assert read("metrics.jsonl") == {"step": 1, "loss": None, "parts": [None, 2.0]}
    assert read("trajectories.jsonl") == {"step": 1, "reward": None, "completions": ["a"]}
    assert read("summary.json") == {"status": "diverged", "loss": None}
    assert read("ledger.json") == {"time": {"wall": None}}
