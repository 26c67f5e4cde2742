"""Code: "add 3, times 4:" is answered with "(x+3)*4", which is run on hidden inputs.

A problem is a pipeline of small operations. It is told in words, by examples, or both; the answer is a function of
x, as an expression or as a body. Reward 1 if the function returns what it should on every hidden input, else 0.

The hidden inputs are drawn for every problem, none of them is among the examples, and together they tell the right
function from what it is easily mistaken for: other constants, operations left out or swapped, missing parentheses.

Functions are nearly the same where they agree on all but NEAR of the values of a grid. Of two that are, never is one
trained on and the other held out: a function's score counts the values at which a hash of its answer is odd, so that
theirs differ by NEAR at most, and between the scores of the two splits lies more than that. What lies between is in
neither.
"""

import ast
import functools
import itertools
import random
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from rlbench.hashing import digest_of
from rlbench.types import Bounds, Call, ConfigError, Count, Natural, PendingStep, Problem, Program

GRID = 32  # values on which functions are compared
NEAR = 3  # of them, on which functions may differ that are nearly the same
HELDOUT_SCORE = 13  # the highest score of a function that is held out: about one in seven
TRAIN_SCORE = HELDOUT_SCORE + NEAR + 1  # the lowest of one that is trained on: about half of them
SHOWN = 20  # characters of an example's input, and of its output, at the most
POOL = 80  # values that a problem's inputs are chosen from
FEWEST = 3  # examples that tell a function without words, most of the time
DIGITS, LETTERS = "23456789", "abcd"
ALWAYS = "0123456789abcdexX=(),;:->[]' ABCDE\nreturnTrueFalse"  # characters of prompts and completions at any level

Level = Literal[1, 2, 3]
Answer = Literal["expression", "body"]


class Kind(NamedTuple):
    """A template of operations: # stands for a digit, ? for a letter."""

    takes: type
    gives: type
    words: str
    code: str  # names x once


ARITHMETIC = (
    Kind(int, int, "add #", "x+#"),
    Kind(int, int, "subtract #", "x-#"),
    Kind(int, int, "times #", "x*#"),
    Kind(int, int, "divide by #", "x//#"),
    Kind(int, int, "modulo #", "x%#"),
    Kind(int, int, "# minus it", "#-x"),
    Kind(int, int, "negate", "-x"),
    Kind(int, int, "absolute", "abs(x)"),
    Kind(int, int, "square", "x**2"),
)
COMPARISONS = (
    Kind(int, int, "at least #", "max(x,#)"),
    Kind(int, int, "at most #", "min(x,#)"),
    Kind(int, bool, "over #", "x>#"),
    Kind(int, bool, "even", "x%2==0"),
)
TEXT = (
    Kind(str, str, "reverse", "x[::-1]"),
    Kind(str, str, "upper case", "x.upper()"),
    Kind(str, str, "first #", "x[:#]"),
    Kind(str, str, "repeat #", "x*#"),
    Kind(str, str, "append ?", "x+'?'"),
    Kind(str, str, "without ?", "x.replace('?','')"),
    Kind(str, str, "sort", "''.join(sorted(x))"),
    Kind(str, int, "length", "len(x)"),
    Kind(str, int, "count ?", "x.count('?')"),
    Kind(str, bool, "has ?", "'?' in x"),
)
LISTS = (
    Kind(list, list, "reverse", "x[::-1]"),
    Kind(list, list, "sort", "sorted(x)"),
    Kind(list, list, "first #", "x[:#]"),
    Kind(list, list, "each add #", "[i+# for i in x]"),
    Kind(list, list, "each times #", "[i*# for i in x]"),
    Kind(list, list, "those over #", "[i for i in x if i>#]"),
    Kind(list, int, "sum", "sum(x)"),
    Kind(list, int, "length", "len(x)"),
    Kind(list, int, "largest", "max(x)"),
    Kind(list, bool, "has #", "# in x"),
)
KINDS = (*ARITHMETIC, *COMPARISONS, *TEXT, *LISTS)

# What the operations of a pipeline are chosen from, and how many it has.
LEVELS: dict[int, tuple[tuple[Kind, ...], int]] = {
    1: (ARITHMETIC, 2),
    2: ((*ARITHMETIC, *COMPARISONS, *TEXT), 3),
    3: (KINDS, 4),
}


class Operation(NamedTuple):
    """A kind with its constant."""

    kind: Kind
    constant: str = ""

    def fill(self, template: str) -> str:
        return re.sub("[#?]", self.constant, template)

    @property
    def words(self) -> str:
        return self.fill(self.kind.words)

    @property
    def code(self) -> str:
        return self.fill(self.kind.code)

    def neighbours(self) -> list["Operation"]:
        """The same with the number before or after, or with another letter."""
        if self.constant.isdigit():
            return [self._replace(constant=str(int(self.constant) + by)) for by in (-1, 1)]
        return [self._replace(constant=other) for other in LETTERS if self.constant and other != self.constant]


Pipeline = tuple[Operation, ...]
Function = Callable[[Any], Any]


class State(NamedTuple):
    """The tests that judge a completion."""

    solution: str
    tests: tuple[Call, ...]


class Code:
    """Pipelines of operations on integers, text and lists, answered in Python.

    What a function does says which split it is in: none that is held out is trained on in other words, or nearly.

    Args:
      level: 1 is two operations of arithmetic; 2, three, with comparisons and text; 3, four, on lists too.
      words: whether the problem is told in words.
      examples: how many inputs are shown with their outputs.
      answer: whether a completion is an expression, or the body of a function.
      tests: hidden inputs, at the least.
    """

    def __init__(self, *, level: Level, words: bool, examples: Natural, answer: Answer, tests: Count):
        if not words and examples < FEWEST:
            raise ConfigError("examples", examples, f"at least {FEWEST}, where words are not shown")
        if examples + tests > POOL // 2:
            raise ConfigError("tests", tests, f"with examples at most {POOL // 2}")
        self.kinds, self.length = LEVELS[level]
        self.starts = list(dict.fromkeys(kind.takes for kind in self.kinds))
        self.words, self.examples, self.answer, self.tests = words, examples, answer, tests
        longest = max(len(kind.words) for kind in self.kinds)
        code = max(len(kind.code) for kind in self.kinds)
        each = len("x=\n") + code if answer == "body" else len("()") + code - len("x")
        self.bounds = Bounds(
            alphabet=frozenset("".join((ALWAYS, *(kind.words + kind.code for kind in self.kinds)))) - {"#", "?"},
            prompt=words * (len("list, ") + self.length * (longest + len(", ")))
            + examples * (2 * SHOWN + len("->;"))
            + len(":"),
            completion=self.length * each + len("return x" if answer == "body" else "x"),
        )

    def problem(self, seed: int, split: str) -> Problem:
        draw = random.Random(f"{split} {seed}")
        while True:
            pipeline = self._pipeline(draw)
            if split_of(pipeline) != split:
                continue
            shown, hidden = self._calls(pipeline, draw)
            if not hidden:
                continue
            examples = ";".join(f"{call.args[0]!r}->{call.expected!r}" for call in shown)
            prompt = "; ".join(filter(None, (words(pipeline) if self.words else "", examples)))
            solution = expression(pipeline) if self.answer == "expression" else body(pipeline)
            return Problem(f"{prompt}:", State(solution, tuple(hidden)), key=fingerprint(pipeline))

    def step(self, state: State, completion: str) -> PendingStep:
        source = f"def f(x):\n return {completion}"
        if self.answer == "body":
            source = f"def f(x):\n{textwrap.indent(completion, ' ')}"
        return PendingStep.last(Program(source, "f", state.tests), state)

    def solution(self, state: State) -> str:
        return state.solution

    def _pipeline(self, draw: random.Random) -> Pipeline:
        """Operations that fit each other. One that answers yes or no is the last."""
        pipeline: list[Operation] = []
        value: type = draw.choice(self.starts)
        while len(pipeline) < self.length:
            last = len(pipeline) == self.length - 1
            kind = draw.choice([k for k in self.kinds if k.takes is value and (last or k.gives is not bool)])
            constants = DIGITS if "#" in kind.words else LETTERS if "?" in kind.words else ("",)
            pipeline.append(Operation(kind, draw.choice(constants)))
            value = kind.gives
        return tuple(pipeline)

    def _calls(self, pipeline: Pipeline, draw: random.Random) -> tuple[list[Call], list[Call]]:
        """Calls to show, and calls to test by; none where an operation, or the input, makes no difference."""
        function = composed(pipeline)
        pool = [Call((value,), function(value)) for value in values(pipeline[0].kind.takes, draw)]
        if any(call.expected is None or len(repr(call.expected)) > SHOWN for call in pool):
            return [], []
        shown, rest = pool[: self.examples], pool[self.examples :]
        hidden = rest[: self.tests]
        for wrong, must in mistakes(pipeline):
            telling = next((call for call in (*hidden, *rest) if wrong(*call.args) != call.expected), None)
            if telling and telling not in hidden:
                hidden.append(telling)
            if must and not telling:
                return [], []
        return (shown, hidden) if len({repr(call.expected) for call in hidden}) > 1 else ([], [])


def values(kind: type, draw: random.Random) -> Iterator[Any]:
    """Different values of a type, in random order."""
    if kind is int:
        yield from draw.sample(range(-20, POOL - 20), POOL)
        return
    seen = set()
    while len(seen) < POOL:
        value: Any = [draw.randint(-5, 15) for _ in range(draw.randint(1, 4))]
        if kind is str:
            value = "".join(draw.choices(LETTERS + "e", k=draw.randint(1, 6)))
        if repr(value) not in seen:
            seen.add(repr(value))
            yield value


def mistakes(pipeline: Pipeline) -> Iterator[tuple[Function, bool]]:
    """Functions that it is easily mistaken for, and whether they have to differ: where operations are left out."""
    for first, last in itertools.combinations_with_replacement(range(len(pipeline)), 2):
        if pipeline[first].kind.takes is pipeline[last].kind.gives:
            yield composed(pipeline[:first] + pipeline[last + 1 :]), True
    for place, operation in enumerate(pipeline):
        for other in operation.neighbours():
            yield composed((*pipeline[:place], other, *pipeline[place + 1 :])), False
        if place:
            yield composed((*pipeline[: place - 1], operation, pipeline[place - 1], *pipeline[place + 1 :])), False
    if all(operation.kind.takes is int for operation in pipeline):
        right = expression(pipeline)
        flat = functools.reduce(lambda x, operation: re.sub(r"\bx\b", x, operation.code), pipeline, "x")
        for slip in {flat, right.replace("//", "/")} - {right}:
            yield answering(eval(f"lambda x: {slip}")), False


@functools.cache
def function_of(code: str) -> Function:
    """An operation's code, which is ours, as a function."""
    return eval(f"lambda x: {code}")


def answering(function: Function) -> Function:
    """The function, but None is what it makes of what has no answer, as the largest of nothing."""

    def answer(value: Any) -> Any:
        try:
            return function(value)
        except Exception:
            return None

    return answer


def composed(pipeline: Pipeline) -> Function:
    functions = [function_of(operation.code) for operation in pipeline]
    return answering(lambda value: functools.reduce(lambda x, function: function(x), functions, value))


def expression(pipeline: Pipeline) -> str:
    """The pipeline as one expression, with no more parentheses and spaces than it needs."""
    whole: ast.expr = ast.Name("x")
    for operation in pipeline:
        whole = Put(whole).visit(ast.parse(operation.code, mode="eval").body)
    return re.sub(r" ?([-+*/%<>=,]+) ?", r"\1", ast.unparse(whole))


class Put(ast.NodeTransformer):
    """Puts an expression where x is."""

    def __init__(self, inner: ast.expr):
        self.inner = inner

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.inner if node.id == "x" else node


def body(pipeline: Pipeline) -> str:
    """The pipeline as lines of a function."""
    return "\n".join([*(f"x={operation.code}" for operation in pipeline), "return x"])


def words(pipeline: Pipeline) -> str:
    """The prompt. Text and lists, to which one word may mean two things, are told apart."""
    start = {int: [], str: ["text"], list: ["list"]}[pipeline[0].kind.takes]
    return ", ".join([*start, *(operation.words for operation in pipeline)])


def split_of(pipeline: Pipeline) -> str | None:
    """Split that a pipeline is in, from its answers on the grid alone; None where it is too near to either."""
    score = sum(is_odd(f"{start_of(pipeline)} {place} {answer!r}") for place, answer in enumerate(outcomes(pipeline)))
    return "heldout" if score <= HELDOUT_SCORE else "train" if score >= TRAIN_SCORE else None


def is_odd(text: str) -> bool:
    """A coin that always falls the same way for a text."""
    return digest_of(text, size=1)[0] % 2 == 1


def fingerprint(pipeline: Pipeline) -> bytes:
    """A hash of what a pipeline makes of the grid: the same for one function in any words."""
    return digest_of(f"{start_of(pipeline)} {outcomes(pipeline)}")


def start_of(pipeline: Pipeline) -> str:
    """Name of the type that a pipeline takes."""
    return pipeline[0].kind.takes.__name__


def outcomes(pipeline: Pipeline) -> list[Any]:
    """Answers of a pipeline on the grid."""
    return [*map(composed(pipeline), grid(pipeline[0].kind.takes))]


@functools.cache
def grid(kind: type) -> list[Any]:
    """The same values for all pipelines."""
    return [*values(kind, random.Random(0))][:GRID]
