"""The vocabulary: every public type of rlbench, on one page.

Shapes: B rollouts in a batch, T tokens in a row, V tokens in the vocabulary. Indexing convention:
anything said of token t (its log-probability, its value, its version) was known before t was chosen.
"""

from collections.abc import Callable, Hashable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

Array = jax.Array
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


class Rollouts(NamedTuple):
    """One batch of finished conversations, as arrays.

    Rows are right-padded. A row with no True in its mask did not happen (its verifier broke, or it
    pads a short batch): nothing may depend on it.
    """

    tokens: AnyArray  # i32[B, T]   prompt, replies and the environment's answers
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


class Model(NamedTuple):
    """A network as pure functions of its parameters.

    A critic is a model with one output. `temperature` and `emits` define the one distribution that
    every log-probability refers to: softmax(outputs / temperature) over the tokens it emits.
    """

    init: Callable[[Array], Params]  # key -> params
    apply: Callable[[Params, Array], Array]  # params, tokens i32[B, T] -> f32[B, T, outputs]
    extend: Callable[..., tuple[Array, Any]]  # params, cache, tokens[B, S], length[B] -> f32[B, outputs], cache
    segment: Callable[[int, int], Any]  # rows, slots -> an empty segment of a key-value cache
    resized: Callable[..., "Model"]  # (**sizes) -> the same architecture at other sizes
    size: Callable[[Params], Size | None]  # of a tree of this architecture's parameters, whatever their sizes
    emits: AnyArray  # bool[outputs]  tokens that may be chosen
    temperature: float
    dtype: str  # of the arithmetic
    chunk_tokens: int  # tokens that one forward pass may hold at once on a device; or one row


def keep_all(rollouts: Rollouts) -> Array:
    """bool[B]: every rollout is trained on, unless an algorithm says otherwise."""
    return jnp.ones(rollouts.group.shape, bool)


def policy_of(trainable: Params, frozen: Params) -> Params:
    """The policy that samples, unless an algorithm says otherwise: trainable["policy"]."""
    return trainable["policy"]


class Algorithm(NamedTuple):
    """Pure functions over pytrees, in the manner of optax.

    The names at the top of `trainable` and `frozen` are those that costs are reported under. Where
    `score` returns "advantage", it is f32[B, T] and zero means that the row teaches nothing.
    """

    init: Callable[[Array, Params], tuple[Params, Params]]  # key, policy -> trainable, frozen
    score: Callable[..., dict[str, Array]]  # trainable, frozen, rollouts, version; once a batch, no gradient
    loss: Callable[..., Loss]  # trainable, frozen, rollouts, scores
    acting: Callable[[Params, Params], Params] = policy_of
    keep: Callable[[Rollouts], Array] = keep_all  # -> bool[B]; a batch is sampled until it is full of these
    group_size: int = 1  # attempts at each problem of a batch


class LearnerState(NamedTuple):
    """State that a learner step takes and gives; `version` counts learner steps."""

    trainable: Params
    frozen: Params
    opt_state: Any
    version: int


class Status(StrEnum):
    """Status of a reply. A verifier that broke is INFRASTRUCTURE: no reward, no row."""

    OPEN = "open"  # the conversation goes on
    PASSED = "passed"
    WRONG = "wrong"
    ERROR = "error"  # a program that raised, crashed or did not answer
    TIMEOUT = "timeout"  # wrong for want of time
    MEMORY = "out of memory"
    UNSUPPORTED = "unsupported"  # by the interpreter that had to run it; a failure like the others
    INFRASTRUCTURE = "infrastructure"


class Phase(StrEnum):
    """Purpose of a computation. Programs mark theirs by jax.named_scope; the ledger counts by them."""

    PREFILL = "prefill"  # prompts and the environment's text, read into the cache
    DECODE = "decode"  # replies, token by token
    SCORE = "score"  # one look at a batch, no gradient
    FORWARD = "train forward"
    BACKWARD = "train backward"  # what is recomputed for it is in it
    OPTIMIZER = "optimizer"
    WARM_START = "warm start"
    EVALUATION = "evaluation"


class Fate(StrEnum):
    """Fate of a rollout: the first that applies."""

    INFRASTRUCTURE = "infrastructure failure"  # its verifier broke
    STALE = "stale"  # too old when its turn came, or left over when the run ended
    FILTERED = "filtered"  # the algorithm did not keep it, or its batch was full
    ZERO_ADVANTAGE = "zero advantage"  # trained on, and taught nothing
    TRAINED = "trained"


class Problem(NamedTuple):
    """One problem of a task: the text shown to the model, and the state that judges the reply.

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
    """The environment's answer to one reply."""

    state: Any
    observation: str | None
    reward: float
    status: Status
    cpu_seconds: float = 0.0
    detail: str = ""  # the reason of the status, for people

    @property
    def asks(self) -> str | None:
        """The text that the model has to answer; None when the conversation is over."""
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


class Trial(NamedTuple):
    """The environment's answer to a reply that has to be run before it can be judged."""

    program: Program
    settle: Callable[[Verdict], Step]

    @classmethod
    def last(cls, program: Program, state: Any) -> "Trial":
        """One that ends the conversation, and pays 1 for a program that passes."""

        def settle(verdict: Verdict) -> Step:
            passed = verdict.status == Status.PASSED
            return Step(state, None, float(passed), verdict.status, verdict.cpu_seconds, verdict.detail)

        return cls(program, settle)


class Bounds(NamedTuple):
    """Worst cases of a task's text, from which buckets are known before a run. Unit: characters."""

    alphabet: frozenset[str]  # every character that prompts, gold replies and observations use
    prompt: int
    reply: int  # the longest gold reply of one turn
    turns: int = 1
    observation: int = 0


@runtime_checkable
class Task(Protocol):
    """Deterministic, picklable, ignorant of models. The rewards of a solved rollout add up to 1."""

    bounds: Bounds

    def problem(self, seed: int, split: str) -> Problem:
        """The problem number `seed` of the split "train" or "heldout", which share no problem."""

    def step(self, state: Any, reply: str) -> Step | Trial:
        """Judges one reply, or says how a sandbox is to. May block."""

    def gold(self, state: Any) -> str:
        """The next reply on the way to full reward."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back. By convention id 0 pads and id 1 ends a reply; neither is in an encoded text."""

    vocabulary: int  # how many ids there are
    emits: Any  # bool[vocabulary]: ids that a policy may choose

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; ConfigError names the first character that has none."""

    def decode(self, tokens: Any) -> str:
        """The text of token ids; special ones are left out."""


@runtime_checkable
class Tracker(Protocol):
    """A receiver of a run's numbers. Called on the learner's thread, once a learner step."""

    def begin(self, folder: Path) -> None:
        """The run begins. Its config.yaml is in its folder, and its record will be: metrics.jsonl and the like."""

    def log(self, row: dict[str, Any]) -> None:
        """One line of metrics; `row["step"]` is the learner step, 0 before the first."""

    def transcripts(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Some replies of an evaluation, before the line of metrics of the same step.

        Each has `problem`, `likeliest`, `prompt`, `replies`, `reward`, `status`, `detail` and `truncated`.
        """

    def note(self, text: str) -> None:
        """A line for whoever watches; no part of the record."""

    def finish(self, summary: dict[str, Any] | None, ledger: dict[str, Any] | None) -> None:
        """The last word of the run, also of one that failed or was interrupted.

        There is no ledger if it never started, and no summary if the ledger does not close.
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


class Diverged(ArithmeticError):
    """A metric of a learner step is not finite."""

    def __init__(self, step: int, metric: str, value: float):
        super().__init__(step, metric, value)

    def __str__(self) -> str:
        step, metric, value = self.args
        return f"learner step {step}: {metric} is {value}"
