"""The local truth of a run: metrics.jsonl, a line a learner step as it happens, summary.json and ledger.json."""

import json
import os
from pathlib import Path
from typing import Any


class Files:
    """Writes into a run's folder. What is written last is put there in one move: it is whole or not there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._metrics = (folder / "metrics.jsonl").open("w", buffering=1)

    def log(self, row: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(row) + "\n")

    def note(self, text: str) -> None:
        pass

    def finish(self, summary: dict[str, Any] | None, ledger: dict[str, Any] | None) -> None:
        self._metrics.close()
        if ledger:
            self._put("ledger.json", ledger)
        if summary:
            self._put("summary.json", summary)

    def _put(self, name: str, content: dict[str, Any]) -> None:
        draft = self.folder / f"{name}.part"
        draft.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(draft, self.folder / name)
