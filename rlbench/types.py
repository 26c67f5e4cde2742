"""The vocabulary: every public type of rlbench, on one page.

Shapes: B rollouts in a batch, T tokens in a row, V tokens in the vocabulary. Indexing convention:
anything said of token t (its log-probability, its value, its version) was known before t was chosen.
"""

import re
from collections.abc import Hashable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, runtime_checkable

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from jax import Array
else:
    Array = Any  # what only prints help or launches jobs does without JAX, whose import takes most of a second

AnyArray = Any  # jax.Array on a device, numpy.ndarray on the host
Params = Any  # a pytree of arrays
Metrics = dict[str, tuple[Array, Array]]  # name: (sum, weight); the mean is taken once, at the end

# Numbers of a signature. A config that leaves the range is refused before anything is compiled.
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
MOST, LEAST = 1e30, 1e-30  # of numbers that float32 holds, with room for sums and quotients


def held(value: float) -> float:
    """The number, which float32 makes neither zero nor infinite."""
    if value and not LEAST <= value <= MOST:
        raise PydanticCustomError("float32", "Input should be from 1e-30 to 1e30")
    return value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(held)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(held)]
AtLeastOne = Annotated[float, Field(ge=1, allow_inf_nan=False), AfterValidator(held)]
Fraction = Annotated[float, Field(ge=0, le=1)]

REWARD_TOLERANCE = 1e-6  # of full reward, which is 1: a sum of rewards is rounded
SOLVED_ABOVE = 1.0 - REWARD_TOLERANCE  # a rollout whose rewards add up to more is solved


LABEL = re.compile(r"[a-z0-9_]{1,64}")  # a fact about an episode, as part of the name of a metric


def is_full(reward: float) -> bool:
    """True of full reward, 1, as a reference solution earns it: neither less nor more."""
    return abs(reward - 1.0) < REWARD_TOLERANCE


class Rollouts(NamedTuple):
    """One batch of finished episodes, as arrays.

    Rows are right-padded. A row with no True in its mask is a masked row (its verifier broke, or
    it pads a short batch): nothing may depend on it.
    """

    tokens: AnyArray  # i32[B, T]   prompt, completions and the environment's answers
    mask: AnyArray  # bool[B, T]  True where the policy chose the token
    logp: AnyArray  # f32[B, T]   log pi(tokens[t] | tokens[<t]) under the policy that sampled it
    reward: AnyArray  # f32[B, T]   paid at the last token of the turn that earned it
    group: AnyArray  # i32[B]      0 <= group < B; equal: attempts at the same problem
    version: AnyArray  # i32[B, T]   learner step of the policy that sampled each token


class Loss(NamedTuple):
    """A loss is a sum and a weight, divided once after microbatches and devices are added up.

    `weight` depends on mask and shapes alone, so that the loss of two halves adds up to the loss
    of the whole; a mean per microbatch would not.
    """

    total: Array  # f32[]
    weight: Array  # f32[]
    metrics: Metrics


class Size(NamedTuple):
    """A network as its useful work sees it."""

    body: int  # weights of matrix products that every token goes through
    attention: int  # heads * head width, over all layers
    head: int  # weights between the body and an output


class ModelInitFn(Protocol):
    """Function that makes a network's parameters."""

    def __call__(self, key: Array, /) -> Params:
        """Parameters before any training.

        Args:
          key: a random key of JAX.

        Returns:
          A tree of arrays.
        """


class ApplyFn(Protocol):
    """Function that runs a network on whole rows, to score them and to train on them."""

    def __call__(self, params: Params, tokens: Array, /) -> Array:
        """Outputs at every token.

        Args:
          params: a tree as `init` makes it.
          tokens: i32[B, T], padded on the right.

        Returns:
          f32[B, T, outputs]. Outputs at t - 1 depend on tokens before t alone: they are said of token t.
        """


class BranchFn(Protocol):
    """Function that runs a network on rows of which several begin with the same tokens. It reads these once."""

    def __call__(self, params: Params, prompt: Array, length: Array, continuation: Array, /) -> tuple[Array, Array]:
        """Outputs at the end of every prompt, and at every token that follows.

        Args:
          params: a tree as `init` makes it.
          prompt: i32[N, P], padded on the right.
          length: i32[N], tokens of each prompt, from 1 to P.
          continuation: i32[N, G, S], padded on the right: what follows each prompt in G ways.

        Returns:
          f32[N, outputs] and f32[N, G, S, outputs], as `apply` gives them for the rows in full.
        """


class ExtendFn(Protocol):
    """Function that runs a network on the next tokens of every row, to sample. The cache holds those before."""

    def __call__(self, params: Params, cache: Any, tokens: Array, length: Array, /) -> tuple[Array, Any]:
        """Reads length[b] of tokens[b, S] into row b.

        Args:
          params: a tree as `init` makes it.
          cache: of B rows, a Cache of rlbench/models/cache.py.
          tokens: i32[B, S], padded on the right.
          length: i32[B], each from 0 to S.

        Returns:
          f32[B, outputs] at the last token read, without meaning where length[b] is 0; and the longer cache. A row
          depends on no other.
        """


class CacheFn(Protocol):
    """Function that makes a key-value cache."""

    def __call__(self, rows: int, slots: int, /) -> Any:
        """An empty cache.

        Args:
          rows: sequences.
          slots: tokens that each has room for.

        Returns:
          A Cache of rlbench/models/cache.py, every row of which has no token yet.
        """


class ResizedFn(Protocol):
    """Function that makes a model of the same architecture at other sizes, such as a critic."""

    def __call__(self, outputs: int, **sizes: int) -> "Model":
        """The model at other sizes.

        Args:
          outputs: numbers that it gives at each token; 1 for a critic.
          sizes: by the names of the model's YAML; the others stay.

        Returns:
          A model, whose parameters its own `init` makes.

        Raises:
          ConfigError: a size has no such name, or the architecture cannot have it.
        """


class SizeFn(Protocol):
    """Function that reads a network's size off its parameters. Useful FLOPs are counted from it."""

    def __call__(self, params: Params, /) -> Size | None:
        """The size of a network.

        Args:
          params: a tree of this architecture at any sizes, or any other tree.

        Returns:
          The size; None of a tree that is not of this architecture.
        """


class Model(NamedTuple):
    """A network as pure functions of its parameters.

    A critic is a model with one output. `temperature` and `emits` define the one distribution that
    every log-probability refers to: softmax(outputs / temperature) over the tokens it emits.
    `branch` saves time where rows share a prompt; a network without one leaves it out.
    """

    init: ModelInitFn
    apply: ApplyFn
    extend: ExtendFn
    cache: CacheFn
    resized: ResizedFn
    size: SizeFn
    emits: AnyArray  # bool[outputs]  tokens that may be chosen
    temperature: float
    dtype: str  # of the arithmetic
    chunk_tokens: int  # tokens that one forward pass may hold at once on a device; or one row
    branch: BranchFn | None = None


class InitFn(Protocol):
    """Function that makes an algorithm's networks from the policy. Called once, at the start."""

    def __call__(self, key: Array, policy: Params, rollouts: Rollouts, /) -> tuple[Params, Params]:
        """Networks before the first learner step.

        Args:
          key: a random key of JAX, for networks that are new.
          policy: parameters of the model. They may be returned as they are: the learner copies them.
          rollouts: shapes and dtypes of a batch with rows as long as they can be; there are no numbers in it.

        Returns:
          Trainable and frozen: two dicts of networks by name. The names are those that costs are reported under.
          Frozen may hold any other arrays, too, such as a replay buffer.
        """


class ScoreFn(Protocol):
    """Function that looks at a batch before it is trained on. Called once a batch; no gradient goes through it."""

    def __call__(self, trainable: Params, frozen: Params, rollouts: Rollouts, version: Array, /) -> dict[str, Array]:
        """Numbers about each rollout that the loss needs.

        Args:
          trainable: networks by name, as they are at the start of the learner step.
          frozen: networks by name, as `init` made them or `after` left them.
          rollouts: the whole batch, B rows of T tokens.
          version: i32[], learner steps so far; compare rollouts.version.

        Returns:
          Arrays by name, [B] or [B, T], a row a rollout. "advantage", if there is one, is f32[B, T], and zero means
          that the row teaches nothing.
        """


class LossFn(Protocol):
    """Function whose gradient by `trainable` an optimizer update takes. Called on any rows of a batch."""

    def __call__(self, trainable: Params, frozen: Params, rollouts: Rollouts, scores: dict[str, Array], /) -> Loss:
        """The loss of some rows of a batch.

        Args:
          trainable: networks by name, as they are at the update.
          frozen: networks by name, as in `score`.
          rollouts: B rows of the batch, in any order. Groups may be torn apart.
          scores: the same rows of what `score` returned.

        Returns:
          Sums over the rows, and their weights.
        """


class AfterFn(Protocol):
    """Function that makes the frozen networks of the next learner step. Called once a learner step, after its updates.

    With it, frozen can hold a moving average of the policy, or rollouts that are trained on again.
    """

    def __call__(self, trainable: Params, frozen: Params, rollouts: Rollouts, scores: dict[str, Array], /) -> Params:
        """Frozen networks after a learner step.

        Args:
          trainable: networks by name, as they are after the step's last update.
          frozen: networks by name, as they were in it.
          rollouts: the whole batch.
          scores: what `score` returned for it.

        Returns:
          Frozen networks of the same structure, shapes and dtypes.
        """


class ActingFn(Protocol):
    """Function that gives the policy that samples, in training and in evaluation."""

    def __call__(self, trainable: Params, frozen: Params, /) -> Params:
        """The policy that samples.

        Args:
          trainable: networks by name.
          frozen: networks by name.

        Returns:
          Parameters of the structure, shapes and dtypes of the policy's.
        """


class KeepFn(Protocol):
    """Function that selects rows to train on. More is sampled until a batch is full of them."""

    def __call__(self, rollouts: Rollouts, /) -> Array:
        """The selection among the rows of one round of sampling.

        Args:
          rollouts: B rows of T tokens.

        Returns:
          bool[B], True where a row is kept.
        """


def keep_all(rollouts: Rollouts) -> Array:
    """bool[B]: every rollout is trained on, unless an algorithm says otherwise."""
    return rollouts.group >= 0


def frozen_stays(trainable: Params, frozen: Params, rollouts: Rollouts, scores: dict[str, Array]) -> Params:
    """The frozen networks as they are, unless an algorithm says otherwise."""
    return frozen


def policy_of(trainable: Params, frozen: Params) -> Params:
    """The policy that samples, unless an algorithm says otherwise: trainable["policy"]."""
    return trainable["policy"]


class Algorithm(NamedTuple):
    """An algorithm as pure functions over pytrees, in the manner of optax."""

    init: InitFn
    score: ScoreFn
    loss: LossFn
    acting: ActingFn = policy_of
    keep: KeepFn = keep_all
    after: AfterFn = frozen_stays
    group_size: int = 1  # attempts at each problem of a batch
    idle_without_advantage: bool = False  # a row whose advantage is zero everywhere has a gradient of exactly zero


class LearnerState(NamedTuple):
    """State that a learner step takes and gives; `version` counts learner steps."""

    trainable: Params
    frozen: Params
    opt_state: Any
    version: int


class Status(StrEnum):
    """Status of a completion. A verifier that broke is INFRASTRUCTURE: no reward, no row."""

    OPEN = "open"  # the episode goes on
    PASSED = "passed"
    WRONG = "wrong"
    ERROR = "error"  # a program that raised, crashed or did not answer
    TIMEOUT = "timeout"  # wrong for want of time
    MEMORY = "out_of_memory"
    UNSUPPORTED = "unsupported"  # by the interpreter that had to run it; a failure like the others
    INFRASTRUCTURE = "infrastructure"


class Phase(StrEnum):
    """Purpose of a computation. Programs mark theirs by jax.named_scope; the ledger counts by them."""

    PREFILL = "prefill"  # prompts and the environment's text, read into the cache
    DECODE = "decode"  # completions, token by token
    SCORE = "score"  # one look at a batch, no gradient
    FORWARD = "train_forward"
    BACKWARD = "train_backward"  # what is recomputed for it is in it
    OPTIMIZER = "optimizer"
    WARM_START = "warm_start"
    EVALUATION = "evaluation"


class Fate(StrEnum):
    """Fate of a rollout: the first that applies."""

    INFRASTRUCTURE = "infrastructure_failure"  # its verifier broke
    STALE = "stale"  # too old when its turn came, or left over when the run ended
    FILTERED = "filtered"  # the algorithm did not keep it, or its batch was full
    ZERO_ADVANTAGE = "zero_advantage"  # trained on, and taught nothing
    TRAINED = "trained"


class Problem(NamedTuple):
    """One problem of a task: the text shown to the model, and the state that judges the completion.

    Problems of equal identity are the same one in other words: evaluation asks one of them.
    """

    prompt: str
    state: Any
    key: Hashable = None  # what is asked, apart from its wording; None: the prompt says it all

    @property
    def identity(self) -> Hashable:
        """The key, or the prompt where there is none."""
        return self.prompt if self.key is None else self.key


class Step(NamedTuple):
    """The environment's answer to one completion."""

    state: Any
    observation: str | None
    reward: float
    status: Status
    cpu_seconds: float = 0.0
    detail: str = ""  # the reason of the status, for people
    solved: bool | None = None  # of the last step: whether the rollout is solved; None: if its rewards add up to 1
    labels: tuple[str, ...] = ()  # of the last step: facts about the episode; success is reported for each

    @property
    def next_observation(self) -> str | None:
        """The text that the model has to answer; None when the episode is over."""
        return self.observation if self.status == Status.OPEN else None


class Call(NamedTuple):
    """A call and what it has to return, exactly: same type, same value."""

    args: tuple[Any, ...]
    expected: Any


class Check(NamedTuple):
    """Source that defines check(candidate), and whatever it needs. A process of its own runs it, which is trusted."""

    source: str


class Program(NamedTuple):
    """A source that defines a function, and what the function has to do."""

    source: str
    entry_point: str
    tests: tuple[Call, ...] | Check


class Verdict(NamedTuple):
    """Outcome of a program."""

    status: Status
    cpu_seconds: float = 0.0  # of its process
    around_seconds: float = 0.0  # of processor time that judging it took besides
    wall_seconds: float = 0.0
    detail: str = ""
    queue_seconds: float = 0.0  # that it waited for a free worker
    repeated: bool = False  # the verdict of an identical program


class SettleFn(Protocol):
    """Function that judges a completion once its program was run."""

    def __call__(self, verdict: Verdict, /) -> Step:
        """The step that a verdict makes.

        Args:
          verdict: the outcome of the program. Its status is never OPEN; INFRASTRUCTURE: it could not be judged.

        Returns:
          The environment's answer to the completion.
        """


class PendingStep(NamedTuple):
    """The environment's answer to a completion that has to be run before it can be judged."""

    program: Program
    settle: SettleFn

    @classmethod
    def last(cls, program: Program, state: Any) -> "PendingStep":
        """One that ends the episode, and pays 1 for a program that passes."""

        def settle(verdict: Verdict) -> Step:
            passed = verdict.status == Status.PASSED
            return Step(state, None, float(passed), verdict.status, verdict.cpu_seconds, verdict.detail)

        return cls(program, settle)


class Bounds(NamedTuple):
    """Worst cases of a task's text, from which buckets are known before a run. Unit: characters."""

    alphabet: frozenset[str]  # every character that prompts, reference solutions and observations use
    prompt: int
    completion: int  # the longest reference solution of one turn
    turns: int = 1
    observation: int = 0


@runtime_checkable
class Task(Protocol):
    """Deterministic, picklable, ignorant of models. The rewards of a solved rollout add up to 1, or its step says so.

    Optional: `solution`, as of SolvableTask; `blocking = True` where steps wait for something; `open()` and `close()`,
    called before the first step and after the last.
    """

    bounds: Bounds

    def problem(self, seed: int, split: str) -> Problem:
        """A problem of a split, always the same one for the same arguments.

        Args:
          seed: its number in the split, from 0 to far beyond 2^32.
          split: "train" or "heldout", which share no problem.

        Returns:
          The problem, its prompt within `bounds`.
        """

    def step(self, state: Any, completion: str) -> Step | PendingStep:
        """Judges one completion. May block.

        Args:
          state: that of the problem, or of the step before; a copy, which may be changed.
          completion: the text of one turn.

        Returns:
          The environment's answer, or the program that a sandbox has to run first.
        """


class SolvableTask(Task, Protocol):
    """A task with reference solutions: what a warm start trains on, and the task itself is tested by."""

    def solution(self, state: Any) -> str:
        """The reference solution: the next completion on the way to being solved.

        Args:
          state: as in `step`.

        Returns:
          A text within `bounds`.
        """


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back. By convention id 0 pads and id 1 ends a completion; neither is in an encoded text."""

    vocabulary: int  # how many ids there are
    emits: Any  # bool[vocabulary]: ids that a policy may choose

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Args:
          text: characters of the task's alphabet.

        Returns:
          At most one id a character, each below `vocabulary`.

        Raises:
          ConfigError: a character has no id; names the first.
        """

    def decode(self, tokens: Any) -> str:
        """The text of token ids.

        Args:
          tokens: a list of ids, or integers [length].

        Returns:
          The text; ids 0 and 1 are left out.
        """


@runtime_checkable
class Tracker(Protocol):
    """A receiver of a run's numbers. Called on the learner's thread, once a learner step."""

    def begin(self, folder: Path) -> None:
        """The run begins.

        Args:
          folder: of the run. Its config.yaml is in it, and its record will be: metrics.jsonl and the like.
        """

    def log(self, row: dict[str, Any]) -> None:
        """One line of metrics.

        Args:
          row: values by name. "step" is the learner step, 0 before the first.
        """

    def trajectories(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Some completions of an evaluation, before the line of metrics of the same step.

        Args:
          step: the learner step.
          rows: each has `problem`, `greedy`, `prompt`, `completions`, `reward`, `status`, `detail` and `truncated`.
        """

    def note(self, text: str) -> None:
        """A line for whoever watches.

        Args:
          text: no part of the record.
        """

    def finish(self, summary: dict[str, Any] | None, ledger: dict[str, Any] | None) -> None:
        """The last word of the run, also of one that failed or was interrupted.

        Args:
          summary: as in summary.json; None if the ledger does not reconcile.
          ledger: as in ledger.json; None if that is so, or if the run never started.
        """


class ConfigError(ValueError):
    """A config that cannot run: says the key, the value, and what is allowed, in one line."""

    def __init__(self, key: str, value: Any, allowed: str):
        super().__init__(key, value, allowed)

    def below(self, place: str) -> "ConfigError":
        """The same error of a key that stands below a place in the config."""
        key, value, allowed = self.args
        return ConfigError(f"{place}.{key}", value, allowed)

    def __str__(self) -> str:
        key, value, allowed = self.args
        return f"{key.lstrip('.')}={value}: {allowed}"


class PluginError(AssertionError):
    """A promise that a plugin does not keep: says where, what was expected and what came, in one line.

    Args:
      about: the plugin's function to look at: "score" or "loss" of an algorithm, "step" of a task, ...
      expected: empty where it raised.
      where: file:line and name of that function, once they are known.
    """

    def __init__(self, about: str, expected: str, came: str, where: str = ""):
        super().__init__(about, expected, came, where)
        self.about, self.expected, self.came, self.where = about, expected, came, where

    def at(self, where: str) -> "PluginError":
        """The same error, and where to look, unless it is known already."""
        return PluginError(self.about, self.expected, self.came, self.where or where)

    def __str__(self) -> str:
        fault = f"expected {self.expected}; came {self.came}" if self.expected else self.came
        return f"{self.where or self.about}: {fault}"


class TooManyFailures(RuntimeError):
    """More completions could not be judged than may; the message is one line."""


class Stalled(RuntimeError):
    """Nothing in a run moves any more; the message is one line and says what its parts wait for."""


class NotWritten(RuntimeError):
    """A file of a run cannot be written: a full disk, say; says which, and why, in one line."""


class OutOfMemory(MemoryError):
    """A program needs more memory than its device has; says which, for what shapes, and what makes it smaller."""


class Diverged(ArithmeticError):
    """A metric of a learner step is not finite."""

    def __init__(self, step: int, metric: str, value: float):
        super().__init__(step, metric, value)

    def __str__(self) -> str:
        step, metric, value = self.args
        return f"learner step {step}: {metric} is {value}"


FAILURES = (Diverged, NotWritten, OutOfMemory, Stalled, TooManyFailures)  # of a run, told in one line
