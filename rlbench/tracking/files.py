"""The local truth of a run: metrics.jsonl, a line a learner step as it happens, and summary.json."""

import json
import os
from pathlib import Path
from typing import Any


class Files:
    """Writes into a run's folder. The summary is replaced in one move, so that it is whole at any time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._metrics = (folder / "metrics.jsonl").open("w", buffering=1)

    def log(self, row: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(row) + "\n")

    def note(self, text: str) -> None:
        pass

    def finish(self, summary: dict[str, Any]) -> None:
        self._metrics.close()
        draft = self.folder / "summary.json.part"
        draft.write_text(json.dumps(summary, indent=2) + "\n")
        os.replace(draft, self.folder / "summary.json")
