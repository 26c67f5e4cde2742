"""The task of code: pipelines, how they are told and answered, and hidden inputs that leave no way around."""

import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from rlbench.plugins import build
from rlbench.testing import TASK_CHECKS
from rlbench.types import ConfigError, Status
from tests.fakes import VERIFIER
from tests.security.machine import needs_sandbox

LEVELS, ANSWERS = (1, 2, 3), ("expression", "body")


def code(level=1, words=True, examples=0, answer="expression", tests=20):
    node = {"_target_": "rlbench.tasks.code.Code", "level": level, "words": words, "examples": examples}
    return build(node | {"answer": answer, "tests": tests}, "task")


def problems(task, count=200, split="train"):
    return [task.problem(seed, split) for seed in range(count)]


def statuses(task, states, completion):
    """Of the same completion to all, judged in the sandbox."""
    return [step.status for step in VERIFIER.play(task, states, completion)]


@needs_sandbox
@pytest.mark.parametrize("check", ["solution", "determinism", "splits", "bounds"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_contract_holds_at_every_level(level, answer, check):
    TASK_CHECKS[check](code(level, examples=2, answer=answer), VERIFIER)


@needs_sandbox
@pytest.mark.parametrize("check", ["splits", "bounds"])
@pytest.mark.parametrize("level", LEVELS)
def test_it_holds_without_words(level, check):
    TASK_CHECKS[check](code(level, words=False, examples=3), VERIFIER)


def test_no_function_is_in_both_splits_in_other_words():
    from rlbench.tasks.code import KINDS, Operation, split_of

    add, subtract = (next(kind for kind in KINDS if kind.words == words) for words in ("add #", "subtract #"))
    sides = {
        split_of((Operation(add, str(a)), Operation(add, str(11 - a)))) for a in range(2, 10)
    } | {split_of((Operation(subtract, str(a)), Operation(add, str(11 + a)))) for a in range(2, 10)}  # fmt: skip
    assert len(sides) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_no_function_is_in_both_splits_nearly(level):
    """Of thousands, every one of the first level's, no two of different splits agree on nine values of ten."""
    from rlbench.tasks import code as module

    draw, task, apart = random.Random(0), code(level), []
    pipelines = [*itertools.product(operations(module.ARITHMETIC), repeat=2)] if level == 1 else []
    pipelines += [task._pipeline(draw) for _ in range(2000)]
    for start in task.starts:
        sides: dict[str | None, list] = {"train": [], "heldout": [], None: []}
        for pipeline in [one for one in pipelines if one[0].kind.takes is start]:
            answers = [hash(repr(answer)) for answer in map(module.composed(pipeline), module.grid(start))]
            sides[module.split_of(pipeline)].append(answers)
        train, heldout = np.unique(sides["train"], axis=0), np.unique(sides["heldout"], axis=0)
        assert len(train) > 2 * len(heldout) > 40
        apart += [(train != one).sum(axis=1).min() for one in heldout]
    assert min(apart) > module.NEAR and module.NEAR / module.GRID > 0.09


def test_the_words_of_text_and_of_lists_are_told_apart():
    """ "reverse, sort" means two things."""
    of = {"text": str, "list": list}
    for problem in problems(code(3)):
        assert type(problem.state.tests[0].args[0]) is of.get(problem.prompt.partition(",")[0], int)


def test_examples_alone_tell_the_problem():
    task = code(words=False, examples=3)
    for problem in problems(task, 20):
        assert re.fullmatch(r"(-?\d+->(-?\d+|True|False)[;:]){3}", problem.prompt)


def test_levels_have_more_operations_on_more_types():
    seen = {level: problems(code(level, answer="body")) for level in LEVELS}
    for level, operations in zip(LEVELS, (2, 3, 4)):
        assert all(problem.state.solution.count("\n") == operations for problem in seen[level])
    types = {level: {type(p.state.tests[0].args[0]) for p in ps} for level, ps in seen.items()}
    assert types == {1: {int}, 2: {int, str}, 3: {int, str, list}}


@pytest.mark.parametrize("level", LEVELS)
def test_an_expression_and_a_body_mean_the_same(level):
    """Compared by plain Python: these are our own words, not a policy's."""
    for short, long in zip(problems(code(level)), problems(code(level, answer="body"))):
        assert short.prompt == long.prompt and short.state.tests == long.state.tests
        scope: dict = {}
        exec(code(level, answer="body").step(long.state, long.state.solution).program.source, scope)
        for (value,), expected in short.state.tests:
            answers = eval(short.state.solution, {"x": value}), scope["f"](value)
            assert answers == (expected, expected) and {type(a) for a in answers} == {type(expected)}


def test_an_expression_is_as_short_as_can_be():
    from rlbench.tasks.code import KINDS, Operation, expression

    named = {kind.words: kind for kind in KINDS if kind.takes is int}
    add, times = Operation(named["add #"], "3"), Operation(named["times #"], "4")
    negate, most = Operation(named["negate"]), Operation(named["at most #"], "5")
    assert expression((add, times)) == "(x+3)*4"
    assert expression((times, add)) == "x*4+3"
    assert expression((times, negate)) == "-(x*4)"
    assert expression((negate, most, add)) == "min(-x,5)+3"


def test_templates_name_x_once():
    """So that an expression grows by each operation, not by its depth."""
    import ast

    from rlbench.tasks.code import KINDS, Operation

    for kind in KINDS:
        tree = ast.parse(Operation(kind, "3" if "#" in kind.code else "a").code)
        assert sum(isinstance(node, ast.Name) and node.id == "x" for node in ast.walk(tree)) == 1
        assert ("#" in kind.words, "?" in kind.words) == ("#" in kind.code, "?" in kind.code)


class TestHiddenInputs:
    """Nothing but the right function passes."""

    @pytest.mark.parametrize("level", LEVELS)
    def test_they_are_not_the_shown_ones(self, level):
        for problem in problems(code(level, examples=3)):
            shown = problem.prompt.rpartition("; ")[2].rstrip(":").split(";")
            hidden = {repr(test.args[0]) for test in problem.state.tests}
            assert len(shown) == 3 and len(hidden) >= 20
            assert hidden.isdisjoint(example.partition("->")[0] for example in shown)

    def test_they_are_fresh_for_every_problem_of_one_pipeline(self):
        by_words: dict[str, list] = {}
        for problem in problems(code(), 3000):
            by_words.setdefault(problem.prompt, []).append(problem.state.tests)
        pairs = [tests[:2] for tests in by_words.values() if len(tests) > 1]
        assert len(pairs) > 100 and all(one != other for one, other in pairs)

    def test_of_all_functions_hardly_one_passes_that_is_wrong(self):
        """Every function of the first level is tried on every problem's tests, and told from the right one by more."""
        from rlbench.tasks import code as module

        inputs = [*range(-20, 60)]  # that tests are drawn from
        functions = map(module.composed, itertools.product(operations(module.ARITHMETIC), repeat=2))
        answers = np.array([[function(x) for x in inputs] for function in functions])
        passed_wrong = []
        for tests in (6, self.shipped_tests()):
            wrong = []
            for problem in problems(code(tests=tests), 300):
                right = np.array([eval(problem.state.solution, {"x": x}) for x in inputs])
                places = [inputs.index(test.args[0]) for test in problem.state.tests]
                passes = (answers[:, places] == right[places]).all(axis=1)
                assert passes.any()
                wrong.append((passes & (answers != right).any(axis=1)).sum())
            passed_wrong.append(np.sum(wrong) / (len(wrong) * len(answers)))
        few, shipped = passed_wrong
        assert shipped < 2e-5 and shipped < few / 3

    @staticmethod
    def shipped_tests() -> int:
        return yaml.safe_load((Path(__file__).parents[2] / "conf/task/code.yaml").read_text())["tests"]

    @needs_sandbox
    @pytest.mark.parametrize("answer", ANSWERS)
    def test_the_examples_by_heart_fail(self, answer):
        task, passed = code(examples=4, answer=answer), []
        for problem in problems(task, 100):
            table = problem.prompt.rpartition("; ")[2].rstrip(":").replace("->", ":").replace(";", ",")
            completion = f"{'return ' * (answer == 'body')}{{{table}}}.get(x)"
            passed += statuses(task, [problem.state], completion)
        assert set(passed) == {Status.WRONG}

    @pytest.mark.parametrize("level", LEVELS)
    def test_a_constant_fails(self, level):
        for problem in problems(code(level)):
            assert len({repr(test.expected) for test in problem.state.tests}) > 1

    @pytest.mark.parametrize("level", LEVELS)
    def test_what_is_easily_mistaken_for_it_fails(self, level):
        """By other values than the task chose from: a function that is wrong there should be wrong on a hidden one."""
        from rlbench.tasks import code as module

        draw, slipped, different = random.Random(0), 0, 0
        for problem in problems(code(level), 300):
            pipeline = pipeline_of(module, problem.prompt, problem.state)
            many = [value for _ in range(3) for value in module.values(pipeline[0].kind.takes, draw)]
            right = module.composed(pipeline)
            for wrong, must in module.mistakes(pipeline):
                differs = any(wrong(value) != right(value) for value in many)
                told = any(wrong(*args) != expected for args, expected in problem.state.tests)
                assert told or not must
                different += differs
                slipped += differs and not told
        assert different > 1000 and slipped < 0.02 * different


def operations(kinds):
    """Every operation of these kinds."""
    from rlbench.tasks.code import DIGITS, Operation

    return [Operation(kind, constant) for kind in kinds for constant in (DIGITS if "#" in kind.words else [""])]


def pipeline_of(module, prompt, state):
    """Reads a problem's words back."""
    value, pipeline = type(state.tests[0].args[0]), []
    for words in prompt.rstrip(":").removeprefix("text, ").removeprefix("list, ").split(", "):
        (operation,) = [
            operation
            for kind in module.KINDS
            for operation in [module.Operation(kind, c) for c in ("", *module.DIGITS, *module.LETTERS)]
            if operation.words == words
            and kind.takes is value
            and bool(operation.constant) == ("#" in kind.words or "?" in kind.words)
        ]
        pipeline.append(operation)
        value = operation.kind.gives
    return tuple(pipeline)


@needs_sandbox
@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("", Status.WRONG), ("x+", Status.ERROR), ("y", Status.ERROR), ("1/0", Status.ERROR),
        ("[0]*10**12", Status.MEMORY), ("exit()", Status.ERROR), ("open('/etc/passwd').read()", Status.ERROR),
        ("(lambda f: f(f))(lambda f: f(f))", Status.ERROR), ("x\nwhile 1: pass", Status.TIMEOUT),
    ],
)  # fmt: skip
def test_what_a_completion_does_decides_its_status(completion, status):
    task = code()
    states = [problem.state for problem in problems(task, 2)]
    assert statuses(task, states, completion) == [status, status]


def test_settings_that_tell_nothing_are_refused():
    with pytest.raises(ConfigError, match="examples=2: at least 3, where words are not shown"):
        code(words=False, examples=2)
    with pytest.raises(ConfigError, match="tests"):
        code(tests=41)
    with pytest.raises(ConfigError, match="level"):
        code(level=4)
