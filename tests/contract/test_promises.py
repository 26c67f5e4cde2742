"""One line, which says where, is told of a plugin's function that takes or returns something else."""

import inspect
import os
import pickle
import re
from collections import namedtuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.contract.algorithm import check_algorithm, check_model, source_of
from rlbench.contract.task import answers_of, check_bounds, problem_of, solution_of, steps_of
from rlbench.learning.estimators import episode_reward, group_zscore
from rlbench.learning.objectives import token_mean
from rlbench.models.likelihood import token_logp
from rlbench.models.tokenizers import Characters, check_tokenizer
from rlbench.plugins import build
from rlbench.types import Algorithm, Loss, Model, PendingStep, PluginError, Problem, Status, Step, Task, Tokenizer
from tests.fakes import SHELF, VERIFIER, Copy, TwoTurns, algorithm_of, small_model

MODEL = small_model(hidden=16)


def init(key, policy, rollouts):
    return {"policy": policy}, {}


def score(trainable, frozen, rollouts, version):
    return {"advantage": group_zscore(rollouts, 1e-6)}


def loss(trainable, frozen, rollouts, scores):
    return token_mean(-scores["advantage"] * logp_of(trainable, rollouts), rollouts, {})


def logp_of(trainable, rollouts):
    return token_logp(MODEL, trainable["policy"], rollouts)


GOOD = Algorithm(init, score, loss, group_size=4)


def returning(name: str, change) -> Algorithm:
    """The good algorithm, but for what one of its functions returns."""
    old = getattr(GOOD, name)
    names = ", ".join(inspect.signature(old).parameters)
    return GOOD._replace(**{name: eval(f"lambda {names}: change(old({names}))", {"change": change, "old": old})})


init_gives, score_gives, loss_gives = (partial(returning, name) for name in ("init", "score", "loss"))


def of_score(**more):
    return lambda scores: scores | {name: change(scores["advantage"]) for name, change in more.items()}


def of_loss(**parts):
    return lambda loss: loss._replace(**{name: change(loss) for name, change in parts.items()})


def metric(value):
    return lambda loss: {"m": value(loss)}


def unfinished(trainable, frozen, rollouts, scores):
    total = jax.lax.while_loop(lambda x: x < 1, lambda x: x + 1, logp_of(trainable, rollouts).sum())
    return Loss(total, jnp.float32(1), {})


@pytest.mark.parametrize(
    ("algorithm", "line"),
    [
        (init_gives(lambda two: two[0]), "init: expected two dicts of networks by name, .*; came a dict of policy"),
        (init_gives(lambda two: None), "init: expected two dicts .*; came None"),
        (init_gives(lambda two: (*two, {})), "init: expected two dicts .*; came a tuple of 3"),
        (init_gives(lambda two: (two[0], None)), "init: expected frozen to be a dict .*; came None"),
        (init_gives(lambda two: ([two[0]], {})), "init: expected trainable to be a dict .*; came a list of 1"),
        (init_gives(lambda two: (two[0] | {3: two[0]}, {})), "trainable to be a dict .*; came a dict of policy, 3"),
        (init_gives(lambda two: (two[0] | {"n": "a"}, {})), "an array at trainable/n; came 'a', a str"),
        (init_gives(lambda two: (two[0] | {"n": 1}, {})), "floating point at trainable/n, .*; came 1, an int"),
        (init_gives(lambda two: ({"actor": two[0]}, {})), 'a trainable network called "policy", or an acting'),
        (GOOD._replace(init=lambda policy: None), r"init: expected .*\(key, policy, rollouts\); came \(policy\)"),
        (score_gives(lambda s: None), "score: expected a dict of arrays by name; came None"),
        (score_gives(lambda s: s["advantage"]), r"score: expected a dict of .*; came f32\[B, T\]"),
        (score_gives(lambda s: (s,)), "score: expected a dict of arrays by name; came a tuple of 1"),
        (score_gives(of_score(advantage=lambda a: a[:, 0])), r'"advantage" f32\[B, T\]; came f32\[B\]'),
        (score_gives(of_score(advantage=lambda a: a[0])), r'"advantage" f32\[B, T\]; came f32\[T\]'),
        (score_gives(of_score(advantage=lambda a: a > 0)), r'"advantage" f32\[B, T\]; came bool\[B, T\]'),
        (score_gives(of_score(m=lambda a: a[0])), r'"m" \[B\] or \[B, T\], a row a rollout; came f32\[T\]'),
        (score_gives(of_score(m=lambda a: a.mean())), r'"m" \[B\] or .*; came f32\[\]'),
        (score_gives(of_score(m=lambda a: 0.5)), r'"m" \[B\] or .*; came 0.5, a float'),
        (GOOD._replace(score=lambda t, f, r: {}), r"score: expected a function of \(t.*version\); came \(t, f, r\)"),
        (loss_gives(lambda x: None), r"loss: expected a Loss\(total, weight, metrics\); came None"),
        (loss_gives(lambda x: x.total), r"loss: expected a Loss\(.*; came f32\[\]"),
        (loss_gives(tuple), r"loss: expected a Loss\(.*; came a tuple of 3"),
        (loss_gives(of_loss(total=lambda x: x.total + jnp.ones(3))), r"loss: expected total f32\[\]; came f32\[3\]"),
        (loss_gives(of_loss(total=lambda x: jnp.int32(1))), r"loss: expected total f32\[\]; came i32\[\]"),
        (loss_gives(of_loss(weight=lambda x: None)), r"loss: expected weight f32\[\]; came None"),
        (loss_gives(of_loss(metrics=lambda x: None)), "loss: expected metrics to be a dict of pairs .*; came None"),
        (loss_gives(of_loss(metrics=metric(lambda x: 0.5))), 'metric "m" to be a pair of .*; came 0.5, a float'),
        (loss_gives(of_loss(metrics=metric(lambda x: x.total))), r'metric "m" to be a pair .*; came f32\[\]'),
        (
            GOOD._replace(loss=lambda t, f, r, s: loss(t, f, r, s)._replace(metrics={"m": (r.logp, r.mask)})),
            r'metric "m" to be a pair .*; came \(f32\[B, T\], bool\[B, T\]\)',
        ),
        (GOOD._replace(loss=unfinished), "loss: ValueError: Reverse-mode differentiation does not work"),
        (GOOD._replace(acting=lambda t, f: t), r"acting: expected parameters like the policy's: .*; came None"),
        (GOOD._replace(keep=episode_reward), r"keep: expected bool\[B\]; came f32\[B\]"),
        (GOOD._replace(keep=lambda r: r.mask), r"keep: expected bool\[B\]; came bool\[B, T\]"),
        (GOOD._replace(loss=None), r"maker: expected loss to be a function of \(trainable, .*; came None"),
        (GOOD._replace(group_size=0), "maker: expected a group_size of at least 1; came 0, an int"),
        (GOOD._replace(group_size=None), "maker: expected a group_size of at least 1; came None"),
    ],
)  # fmt: skip
def test_a_function_that_returns_something_else_is_named(algorithm, line):
    with pytest.raises((PluginError, ValueError)) as raised:
        check_algorithm(algorithm, MODEL)
    said = str(raised.value) if raised.type is PluginError else f"loss: {raised.type.__name__}: {raised.value}"
    assert re.search(line, said), said


@pytest.mark.parametrize("name", SHELF)
def test_the_shelf_takes_and_returns_what_it_has_to(name):
    check_algorithm(algorithm_of(name, MODEL), MODEL)


def test_a_group_of_one_is_no_other_shape():
    with pytest.raises(PluginError, match=r"came f32\[T\]"):
        check_algorithm(score_gives(of_score(m=lambda a: a[0]))._replace(group_size=1), MODEL)


def test_an_error_is_told_with_its_line_and_pickles():
    def forgetful(trainable, frozen, rollouts, version):
        return {"advantage": rollouts.rewards}

    algorithm = GOOD._replace(score=forgetful)
    with pytest.raises(PluginError) as raised, source_of(algorithm, None).blamed("maker"):
        check_algorithm(algorithm, MODEL)
    line = f"{os.path.relpath(__file__)}:{forgetful.__code__.co_firstlineno + 1}"
    said = f"{line} forgetful: AttributeError: 'Rollouts' object has no attribute 'rewards'"
    assert str(raised.value) == str(pickle.loads(pickle.dumps(raised.value))) == said


def test_a_model_has_outputs_for_every_token_it_may_emit():
    check_model(MODEL)
    with pytest.raises(PluginError, match=r"apply: expected \[B, T, 6\]; came f32\[B, T, 7\]"):
        check_model(MODEL._replace(apply=MODEL.resized(7).apply, init=MODEL.resized(7).init))


class Strange(Copy):
    """Returns what it is told to."""

    def __init__(self, problem=None, solution=None, **bounds):
        self._problem, self._solution, self.bounds = problem, solution, Copy.bounds._replace(**bounds)

    def problem(self, seed, split):
        return self._problem

    def solution(self, state):
        return self._solution


def line_of(method: str) -> str:
    return f"{os.path.relpath(__file__)}:{inspect.getsourcelines(getattr(Strange, method))[1]} {method}"


@pytest.mark.parametrize(
    ("problem", "fault"),
    [
        (None, r"a Problem\(prompt, state\); came None"),
        (("a=", "a"), r"a Problem\(prompt, state\); came a tuple of 2"),
        (Problem(3, "a"), "a prompt of train 5 to be a text; came 3, an int"),
        (Problem("aaaa=", "a"), "a prompt of train 5 of 1 to 4 characters, by its bounds; came 5: 'aaaa='"),
        (Problem("", "a"), "a prompt of train 5 of 1 to 4 .*; came 0: ''"),
        (Problem("d=", "a"), "a prompt of train 5 in the alphabet of its bounds; came 'd' in 'd='"),
    ],
)
def test_a_problem_that_is_none_or_out_of_bounds(problem, fault):
    with pytest.raises(PluginError, match=f"^{re.escape(line_of('problem'))}: expected {fault}$"):
        problem_of(Strange(problem), 5, "train")


@pytest.mark.parametrize("solution", [None, 3, "", "aa", "d"])
def test_a_reference_solution_that_is_no_text_or_out_of_bounds(solution):
    with pytest.raises(PluginError, match=f"^{re.escape(line_of('solution'))}: expected a completion .*; came "):
        solution_of(Strange(solution=solution), "a")


def test_a_problem_or_a_reference_solution_that_raises_is_told_with_its_line():
    class Unlucky(Copy):
        def solution(self, state):
            return state.nope

        def problem(self, seed, split):
            return super().problem(seed)

    line = Unlucky.solution.__code__.co_firstlineno
    with pytest.raises(
        PluginError, match=rf":{line + 1} solution: AttributeError: 'str' object has no attribute 'nope'"
    ):
        solution_of(Unlucky(), "a")
    with pytest.raises(PluginError, match=rf":{line + 4} problem: TypeError: .* missing 1 required"):
        problem_of(Unlucky(), 0, "train")


RIGHT = Step("a", None, 1.0, Status.PASSED)
Other = namedtuple("Other", "state observation reward status")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (None, "a Step or a PendingStep; came None"),
        (1.0, "a Step or a PendingStep; came 1.0, a float"),
        (tuple(RIGHT), "a Step or a PendingStep; came a tuple of 8"),
        (Other("a", None, 1.0, "passed"), "a Step or a PendingStep; came an Other"),
        (PendingStep.last("def f(): ...", "a"), "a PendingStep of a Program; came 'def f.*, a str"),
        (RIGHT._replace(reward="1.0"), "reward to be a number; came '1.0', a str"),
        (RIGHT._replace(reward=None), "reward to be a number; came None"),
        (RIGHT._replace(reward=np.ones(1)), r"reward to be a number; came f64\[1\]"),
        (RIGHT._replace(cpu_seconds=None), "cpu_seconds to be a number; came None"),
        (RIGHT._replace(status="right"), "status to be a Status; came 'right', a str"),
        (RIGHT._replace(detail=None), "detail to be a text; came None"),
        (RIGHT._replace(labels=["a"]), "labels to be a tuple of texts of a-z, 0-9 and _; came a list of 1"),
        (RIGHT._replace(labels=("A b",)), "labels to be a tuple of texts .*; came a tuple of 1"),
        (RIGHT._replace(status=Status.OPEN), "an observation of an open step to be a text; came None"),
        (Step("a", "abcd", 0.0, Status.OPEN), "an observation .* of 1 to 3 characters, by its bounds; came 4: 'abcd'"),
        (Step("a", "", 0.0, Status.OPEN), "an observation .* of 1 to 3 characters, .*; came 0: ''"),
        (Step("a", "d", 0.0, Status.OPEN), "an observation .* in the alphabet of its bounds; came 'd' in 'd'"),
    ],
)
def test_an_answer_that_is_none_or_out_of_bounds(answer, fault):
    class Odd(TwoTurns):
        def step(self, state, completion):
            return answer

    place = f"{os.path.relpath(__file__)}:{Odd.step.__code__.co_firstlineno} step"
    with pytest.raises(PluginError, match=f"^{re.escape(place)}: expected {fault}$"):
        VERIFIER.judge(Odd(), [("a", "a")])


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.bool_(True)])
@pytest.mark.parametrize("status", ["passed", Status.PASSED])
def test_an_answer_as_one_would_write_it_is_taken(reward, status):
    steps = [RIGHT._replace(reward=reward, status=status)]
    assert steps_of(Copy(), answers_of(Copy(), steps)) == steps


@pytest.mark.parametrize(
    ("bounds", "fault"),
    [
        ({"prompt": 0}, "bounds.prompt of at least 1; came 0, an int"),
        ({"completion": 1.0}, "bounds.completion of at least 1; came 1.0, a float"),
        ({"turns": 2}, "bounds.observation of at least 1 for 2 turns; came 0, an int"),
        ({"alphabet": None}, "bounds.alphabet to be a set of characters; came None"),
        ({"alphabet": frozenset({"ab"})}, "bounds.alphabet to be a set of characters; came a frozenset"),
        ({"alphabet": frozenset()}, "bounds.alphabet to be a set of characters; came a frozenset"),
    ],
)
def test_bounds_from_which_no_shape_is_known(bounds, fault):
    with pytest.raises(PluginError, match=f" Strange: expected {fault}"):
        check_bounds(Strange(**bounds))


class Letters(Characters):
    """A tokenizer of three letters, changed."""

    def __init__(self, **changes):
        super().__init__(alphabet="abc")
        vars(self).update(changes)


class Doubling(Letters):
    def encode(self, text):
        return [2 + 0 * i for i in range(2 * len(text))]


class Deaf(Letters):
    def decode(self, tokens):
        return ""


@pytest.mark.parametrize(
    ("tokenizer", "fault"),
    [
        (Letters(emits=np.arange(5) > 1), "Letters: expected emits.1. to be True: id 1 ends a completion; came False"),
        (Letters(emits=np.arange(4) > 0), r"Letters: expected emits bool\[5\], .*; came bool\[4\]"),
        (Letters(vocabulary=4, emits=np.arange(4) > 0), "encode: expected ids from 2 to 3; came 2 to 4"),
        (Doubling(), "encode: expected at most one token a character; came 6 for 3"),
        (Deaf(), "decode: expected 'abc' again; came ''"),
    ],
)
def test_a_tokenizer_that_could_not_be_used(tokenizer, fault):
    with pytest.raises(PluginError, match=fault):
        check_tokenizer(tokenizer, frozenset("abc"))


def nothing(*given):
    return None


def misplaced(*, size: int):
    return size


def unlucky():
    return 1 / 0


@pytest.mark.parametrize(
    ("node", "given", "kind", "fault"),
    [
        ("nothing", (), Algorithm, "nothing: expected to return an Algorithm; came None"),
        ("Copy", (), Model, "Copy: expected to return a Model; came a Copy"),
        (
            "Letters",
            (),
            Task,
            "Letters: expected to return a Task; came a Letters without bounds, problem, step",
        ),
        ("Copy", (), Tokenizer, "to return a Tokenizer; came a Copy without decode, emits, encode, vocabulary"),
        ("misplaced", (1,), object, r"misplaced: expected 1 argument by position, .*; came \(\*, size: int\)"),
        ("unlucky", (), object, r":\d+ unlucky: ZeroDivisionError: division by zero"),
    ],
)
def test_a_maker_that_takes_or_returns_something_else(node, given, kind, fault):
    with pytest.raises(PluginError, match=fault):
        build({"_target_": f"{__name__}.{node}"}, "algo", *given, kind=kind)
