"""The record of a run, read back from its folder: strictly, since files are torn, those of others, or no files at all.

Whatever reads a run's files reads them here. Only regular files are opened, and no more of one is held than a bound
allows; JSON is strict, and nested only so deep; YAML has no aliases and no tags; what comes out has the shape that is
declared below, and its numbers are finite. Keys that are not declared are kept as they are.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NotRequired

import yaml
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from .accounting import SCHEMA
from .types import Fate, Fraction, Natural, NonNegative, Phase

WORDS = "overrides.yaml"  # of the command line
MULTIRUN = "multirun.yaml"  # config of a multirun, in its folder
RECORD = ("config.yaml", "metrics.jsonl", "trajectories.jsonl", "summary.json", "ledger.json")  # a run's files
MOST_BYTES = 1 << 20  # of a file that is read whole, and of a line
MOST_METRICS = 4 << 30  # bytes of metrics.jsonl: a million learner steps
MOST_EVALUATIONS = 1 << 26  # bytes of its lines that hold an evaluation
MOST_LINES = 10_000_000  # of metrics.jsonl
DEEPEST = 50  # of YAML's collections within collections
LARGEST_INT, LARGEST = 2**63 - 1, 1e30  # numbers that every table, sum and format can hold
LONGEST = 300  # characters of a reason
LONGEST_NAME = 200
EVALUATED = b'"eval/accuracy"'  # in the lines of metrics.jsonl that hold an evaluation
BETWEEN = 50  # lines between evaluations that are read of a run, evenly spaced; a run may have a million
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


class Unreadable(ValueError):
    """A file of a run is not what it has to be; says which, and why, in one line."""


def is_name(text: str) -> str:
    if 0 < len(text) <= LONGEST_NAME and text.isprintable():
        return text
    raise ValueError(f"a name is one line of at most {LONGEST_NAME} characters that can be printed")


def has_fates(counts: dict[str, float]) -> dict[str, float]:
    if missing := [fate for fate in Fate if fate not in counts]:
        raise ValueError(f"no {', '.join(missing)}")
    return counts


open_ended = with_config(ConfigDict(extra="allow"))
Name = Annotated[str, AfterValidator(is_name)]
Numbers = dict[str, float]
ByFate = Annotated[Numbers, AfterValidator(has_fates)]


@open_ended
class Summary(TypedDict):
    """summary.json."""

    schema: int
    algo: Name
    task: Name
    seed: int
    status: Name
    accuracy_before: Fraction | None  # null where it was not measured
    accuracy_after: Fraction | None
    learner_steps: Natural
    rollouts: Natural
    tokens: Natural
    wall_seconds: NonNegative
    peak_memory_bytes: Natural
    flops: NotRequired[NonNegative]  # of a run that started
    error: NotRequired[str]
    sandbox: NotRequired[Name | None]  # backend that judged its programs; null where there were none


@open_ended
class Executed(TypedDict):
    by_phase: Numbers
    by_component: Numbers
    cells: dict[str, Numbers]
    by_fate: ByFate
    padding: float
    overhead: float
    left_out: float
    total: float


@open_ended
class Useful(TypedDict):
    by_phase: Numbers
    total: float


@open_ended
class Utilisation(TypedDict):
    hfu: float
    mfu: float


@open_ended
class Compute(TypedDict):
    executed: Executed
    useful: Useful
    utilisation: Utilisation


@open_ended
class NetworkPrice(TypedDict):
    without: Natural
    difference: int


@open_ended
class Memory(TypedDict):
    components: dict[str, dict[str, Natural]]
    kv_cache: Natural
    rollout_buffers: Natural
    temporaries: dict[str, Natural]
    price: dict[str, NetworkPrice]
    device_peak: Natural
    process_peak: Natural
    resident_peak: Natural


@open_ended
class RolloutCounts(TypedDict):
    problems: Natural
    generated: Natural
    by_fate: Annotated[dict[str, Natural], AfterValidator(has_fates)]


@open_ended
class TokenCounts(TypedDict):
    by_fate: Annotated[dict[str, Natural], AfterValidator(has_fates)]
    prefill_saved: Natural


@open_ended
class VerificationRecord(TypedDict):
    calls: Natural
    cpu_seconds: float
    wall_seconds: float


@open_ended
class Time(TypedDict):
    wall: float
    idle_fraction: float
    devices: Numbers
    actor: Numbers
    learner: Numbers


@open_ended
class Price(TypedDict):
    per_point: dict[str, float | None]
    per_solved: dict[str, float | None]


@open_ended
class LostRecord(TypedDict):
    crashes: Natural
    rollouts: Natural
    seconds: NonNegative
    flops: NonNegative


@open_ended
class LedgerRecord(TypedDict):
    """ledger.json, which docs/ledger.md defines."""

    compute: Compute
    memory: Memory
    rollouts: RolloutCounts
    tokens: TokenCounts
    verification: VerificationRecord
    time: Time
    lost_to_crash: LostRecord
    price: Price


def agrees(ledger: LedgerRecord) -> LedgerRecord:
    executed, price = ledger["compute"]["executed"], ledger["price"]
    if missing := executed["by_phase"].keys() - executed["cells"].keys():
        raise ValueError(f"compute.executed.cells: no {', '.join(sorted(missing))}")
    if missing := price["per_point"].keys() - price["per_solved"].keys():
        raise ValueError(f"price.per_solved: no {', '.join(sorted(missing))}")
    return ledger


@open_ended
class StepRecord(TypedDict):
    """A line of metrics.jsonl, of which only the place is known."""

    step: Natural


@open_ended
class TrajectoryRecord(TypedDict):
    """A line of trajectories.jsonl."""

    step: Natural
    problem: int
    greedy: bool
    prompt: str
    completions: list[str]
    reward: float | None
    status: str
    detail: str


typed_dict: Any = TypedDict  # mypy knows no keys that are no words
Row = open_ended(  # a line of metrics.jsonl
    typed_dict(
        "Row",
        {
            "step": Natural,
            "rollouts": Natural,
            "flops": NonNegative,
            "wall_seconds": NonNegative,
            "verification/cpu_seconds": NonNegative,
            f"flops/phase/{Phase.WARM_START}": NotRequired[NonNegative],
            f"flops/phase/{Phase.EVALUATION}": NotRequired[NonNegative],
            "eval/accuracy": NotRequired[Fraction | None],  # null where no verdict told
            "staleness_mean": NotRequired[float | None],
            "behaviour/effective_sample_size": NotRequired[float | None],  # of an asynchronous run, like the next
            "survivorship/length": NotRequired[float | None],
        },
    )
)
TOTALS = ("rollouts", "flops", "wall_seconds", "verification/cpu_seconds")


@open_ended
class Config(TypedDict):
    """config.yaml, of which the rest is the plugins'."""

    seed: int
    trials: NotRequired[Natural | None]


@open_ended
class SourceRecord(TypedDict):
    path: str
    provider: str


@open_ended
class Choices(TypedDict):
    algo: Name
    task: Name


@open_ended
class Runtime(TypedDict):
    config_sources: list[SourceRecord]
    choices: Choices
    cwd: str
    output_dir: str


@open_ended
class HydraJob(TypedDict):
    config_name: str


@open_ended
class Sweep(TypedDict):
    subdir: str | int


@open_ended
class HydraNode(TypedDict):
    runtime: Runtime
    job: HydraJob
    sweep: Sweep
    mode: Name


@open_ended
class HydraRecord(TypedDict):
    """.hydra/hydra.yaml."""

    hydra: HydraNode


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json, of this version's schema.

    Raises, as all readers here:
      Unreadable: it is missing, torn, of another shape, or no file.
    """
    return of_this_schema("summary.json", read_json(folder / "summary.json", dict[str, Any]), Summary)


def read_ledger(folder: Path) -> dict[str, Any]:
    """ledger.json, of this version's schema."""
    kind = Annotated[LedgerRecord, AfterValidator(agrees)]
    return of_this_schema("ledger.json", read_json(folder / "ledger.json", dict[str, Any]), kind)


def of_this_schema(name: str, content: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The content of a file, if this version of rlbench would have written it so."""
    if (schema := content.get("schema")) != SCHEMA:
        raise Unreadable(f"{name}: written by another version of rlbench (schema {line(str(schema))}, not {SCHEMA})")
    return valid(kind, content, name)


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml, nested."""
    return read_yaml(folder / "config.yaml", Config)


def read_words(folder: Path) -> list[str] | None:
    """The words of the command line, for one job; None where they were not kept."""
    path = folder / ".hydra/overrides.yaml"
    return read_yaml(path, list[str]) if os.path.lexists(path) else None


def read_own_words(folder: Path) -> list[str]:
    """The words of the command line that a run itself wrote down."""
    return read_yaml(folder / WORDS, list[str])


def read_hydra(folder: Path) -> dict[str, Any]:
    """Hydra's record of itself."""
    return read_yaml(folder / ".hydra/hydra.yaml", HydraRecord)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of metrics.jsonl, and evenly spaced lines between; the others are not parsed: it takes the time.

    Raises:
      Unreadable: also where its last line is torn, or steps or totals fall.
    """
    name, rows, parsed = "metrics.jsonl", list[dict[str, Any]](), 0
    with opened(folder / name, MOST_METRICS) as file:
        lines = sum(part.count(b"\n") for part in iter(partial(file.read, MOST_BYTES), b""))
        if lines > MOST_LINES:
            raise Unreadable(f"{name}: more than {MOST_LINES:,} lines")
        every = max(1, lines // BETWEEN)
        file.seek(0)
        for number, text in enumerate(lines_of(file, name)):
            if not text.endswith(b"\n"):
                raise Unreadable(f"{name}: the last line is torn")
            evaluated = EVALUATED in text
            parsed += evaluated * len(text)
            if parsed > MOST_EVALUATIONS:
                raise Unreadable(f"{name}: more than {MOST_EVALUATIONS:,} bytes of evaluations")
            if evaluated or number % every == 0 or number == lines - 1:
                row = read_row(text, number, name)
                if rows and row["step"] <= rows[-1]["step"]:
                    raise Unreadable(f"{name}: line {number + 1}: step {row['step']} after {rows[-1]['step']}")
                if fell := next((total for total in TOTALS if rows and row[total] < rows[-1][total]), None):
                    raise Unreadable(f"{name}: line {number + 1}: {fell} is less than before")
                rows.append(row)
    if not rows:
        raise Unreadable(f"{name}: empty")
    return rows


def lines_of(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a file, none of which is longer than may be held."""
    while text := file.readline(MOST_BYTES):
        if len(text) == MOST_BYTES:
            raise Unreadable(f"{name}: a line of more than {MOST_BYTES:,} bytes")
        yield text


def read_row(text: bytes, number: int, name: str, kind: Any = Row) -> dict[str, Any]:
    """One line of JSON; `number` counts from 0."""
    return valid(kind, parse_json(text, f"{name}: line {number + 1}"), f"{name}: line {number + 1}")


def read_json(path: Path, kind: Any) -> Any:
    """A small file of JSON, of a declared shape."""
    return valid(kind, parse_json(content(path), path.name), path.name)


def parse_json(text: bytes, name: str) -> Any:
    try:
        parsed = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise Unreadable(f"{name}: no JSON: {error}") from None
    return plain(parsed, name)


def read_yaml(path: Path, kind: Any) -> Any:
    """A small file of YAML, of a declared shape."""
    name, text = path.name, content(path)
    try:
        check_events(yaml.parse(text, Loader))
        parsed = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not, a number too long to be read
        raise Unreadable(line(f"{name}: no YAML: {error}")) from None
    return valid(kind, plain(parsed, name, finite=False), name)


def check_events(events: Iterable[yaml.Event]) -> None:
    """Refuses what a config never has and what may take forever, before anything is made of it.

    Raises:
      ValueError: an alias, of which a few stand for billions; a tag; collections too deep in one another.
    """
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"an alias: *{event.anchor}")
        if tag := getattr(event, "tag", None):
            raise ValueError(f"a tag: {tag}")
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")


def plain(value: Any, name: str, place: str = "", *, finite: bool = True) -> Any:
    """A tree of what JSON has, every key of it text.

    Args:
      place: of the value, for errors.
      finite: whether infinity and NaN are refused.
    """
    where = f"{name}: {place}" if place else name
    if isinstance(value, dict):
        tree = {}
        for key, inner in value.items():
            if not isinstance(key, str | int | float) or not str(key).isprintable() or len(str(key)) > LONGEST_NAME:
                raise Unreadable(f"{where}: a key that is no name: {line(repr(key))}")
            tree[str(key)] = plain(inner, name, f"{place}.{key}" if place else str(key), finite=finite)
        return tree
    if isinstance(value, list):
        return [plain(inner, name, f"{place}.{index}", finite=finite) for index, inner in enumerate(value)]
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise Unreadable(f"{where}: a number of more than 64 bits")
    if isinstance(value, float) and finite and not abs(value) <= LARGEST:
        raise Unreadable(f"{where}: {value}, which is no number that can be compared")
    if value is None or isinstance(value, str | int | float):
        return value
    raise Unreadable(f"{where}: a {type(value).__name__}, which no config has")


def valid(kind: Any, value: Any, name: str) -> Any:
    """The value as it is, if it has the declared shape; strictly: a string is no number, true is no 1."""
    try:
        adapter(kind).validate_python(value, strict=True)
        return value
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    if missing := [".".join(map(str, error["loc"])) for error in errors if error["type"] == "missing"]:
        raise Unreadable(line(f"{name}: no {', '.join(missing)}"))
    place = ".".join(map(str, errors[0]["loc"]))
    message = errors[0]["msg"].removeprefix("Value error, ")
    raise Unreadable(line(": ".join(filter(None, [name, place, message[0].lower() + message[1:]]))))


@cache
def adapter(kind: Any) -> TypeAdapter:
    """The validator of a shape."""
    return TypeAdapter(kind)


def content(path: Path) -> bytes:
    """A small file, whole."""
    with opened(path, MOST_BYTES) as file:
        whole = file.read(MOST_BYTES + 1)
    if len(whole) > MOST_BYTES:  # it grew, or says nothing of its size
        raise Unreadable(f"{path.name}: more than {MOST_BYTES:,} bytes")
    return whole


def opened(path: Path, most: int) -> BinaryIO:
    """A regular file, open for reading. A FIFO is not waited for, and of a device nothing is read.

    Args:
      most: bytes that it may have.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise Unreadable(f"no {path.name}") from None
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > most:
        os.close(descriptor)
        wrong = f"more than {most:,} bytes" if stat.S_ISREG(status.st_mode) else "no regular file"
        raise Unreadable(f"{path.name}: {wrong}")
    return os.fdopen(descriptor, "rb")


def line(text: str) -> str:
    """A text as one line that can be printed anywhere, cut where it is long."""
    whole = printable(" ".join(text.split()))
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"


def printable(text: object) -> str:
    """A text, of a path for one, in which what no terminal and no file of UTF-8 can show is escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))
