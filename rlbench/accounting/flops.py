"""Executed floating-point operations of a jitted function, counted from its jaxpr.

A function is counted as it was traced: padding, recomputation and masked halves are in. Matrix
products and convolutions cost 2 m n k; elementwise arithmetic and reductions cost one operation an
element, as in XLA's own cost analysis. The length of a scan multiplies its body; a loop whose
length only the run knows is counted once, and the iterations are told afterwards.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ..types import Phase

Flops = Counter[tuple[str, str]]  # (phase, component): operations
SHARED = "shared"  # the component of what belongs to no one network
PHASES = frozenset(phase.value for phase in Phase)


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The same numbers in another arrangement: a parameter stays one.
ARRANGING = words(
    "reshape transpose convert_element_type squeeze broadcast_in_dim slice dynamic_slice split copy copy_p concatenate "
    "rev expand_dims reduce_precision sharding_constraint optimization_barrier reshard"
)
# One operation an element of the result; a transcendental function is one, too.
ELEMENTWISE = words(
    "add add_any sub mul div max min neg sign abs floor ceil round rem pow integer_pow square sqrt rsqrt cbrt exp exp2 "
    "expm1 log log1p tanh logistic sin cos tan erf erfc erf_inv clamp nextafter"
)
# One operation an element of the argument.
REDUCING = words(
    "reduce_sum reduce_max reduce_min reduce_prod reduce cumsum cumprod cummax cummin cumlogsumexp scatter-add "
    "scatter-mul scatter-min scatter-max"
)
# Moves and chooses numbers, and makes none.
FREE = words(
    "select_n gather scatter dynamic_update_slice pad iota stop_gradient device_put sort top_k argmax argmin real imag "
    "bitcast_convert_type empty full random_wrap random_unwrap random_bits random_seed random_fold_in random_split "
    "threefry2x32 pvary debug_callback debug_print"
)
PRODUCTS = words("dot_general conv_general_dilated ragged_dot_general")


class Work(NamedTuple):
    """Operations of one call of a program."""

    fixed: Flops
    loops: tuple[Flops, ...]  # of one more iteration of each loop whose length only the run knows
    uncounted: tuple[str, ...]  # what was not counted, or as a single iteration

    def times(self, number: int) -> "Work":
        """That of so many devices which each do this."""
        fixed, *loops = (
            Counter({cell: number * count for cell, count in part.items()}) for part in (self.fixed, *self.loops)
        )
        return self._replace(fixed=fixed, loops=tuple(loops))

    def add_to(self, flops: Flops, iterations: Sequence[int]) -> None:
        """Adds all operations of a call in which the loops took so many iterations."""
        for part, times in zip((self.fixed, *self.loops), (1, *iterations), strict=True):
            for cell, operations in part.items():
                flops[cell] += times * operations


class Origin(NamedTuple):
    """Origin of a value."""

    networks: frozenset[str] = frozenset()  # whose parameters it was computed from
    latest: frozenset[str] = frozenset()  # of them, those of the last matrix products on the way to it
    parameter: bool = False  # whether it is a parameter itself, but for its shape
    constant: bool = False  # whether the compiler knows it


DATA = Origin()
CONSTANT = Origin(constant=True)


def count(closed: ClosedJaxpr, networks: Sequence[str | None], phase: str, loops: int = 0) -> Work:
    """Counts a program by phase and by component.

    Phases are scopes (jax.named_scope) of their names; what is transposed within the forward phase of
    training is the backward one. A matrix product belongs to the network whose parameter it reads, any
    other operation to the one network that all its arguments were computed from, or else came through
    last (a gradient that several networks had a part in, on its way back through one), or to "shared".

    Args:
      networks: for each argument, the component that it is a parameter of, or None.
      phase: of what stands in no scope.
      loops: of unknown length, the first so many, whose iterations will be known after a call. Others are counted
        as one iteration, and told.
    """
    counting = Counting(phase)
    origins = [Origin(frozenset([name]), frozenset([name]), True) if name else DATA for name in networks]
    fixed = counting.walk(closed.jaxpr, origins, "", 1)
    known = [*counting.loops[:loops], *(Counter() for _ in range(loops - len(counting.loops)))]
    for other in counting.loops[loops:]:
        counting.uncounted.add("a loop of unknown length")
        fixed += other
    return Work(fixed, tuple(known), tuple(sorted(counting.uncounted)))


class Counting:
    """A walk through a jaxpr in the order of execution."""

    def __init__(self, phase: str):
        self.phase = phase
        self.uncounted: set[str] = set()
        self.loops: list[Flops] = []  # of one iteration of each loop of unknown length
        self.results: list[Origin] = []  # of the jaxpr that was walked last

    def walk(self, jaxpr: Jaxpr, origins: Sequence[Origin], path: str, times: int) -> Flops:
        """Cost of the jaxpr when it runs so many times; the origins of its results are left in `results`."""
        known: dict[Any, Origin] = dict.fromkeys(jaxpr.constvars, DATA)
        known.update(zip(jaxpr.invars, origins, strict=True))
        flops: Flops = Counter()

        def origin(variable: Any) -> Origin:
            return CONSTANT if isinstance(variable, Literal) else known[variable]

        for eqn in jaxpr.eqns:
            inputs = [origin(v) for v in eqn.invars]
            where = f"{path}/{eqn.source_info.name_stack}"
            inside = self.inside(eqn, inputs, where, times)
            if inside is not None:
                flops += inside
                results = self.results
            else:
                if operations := self.operations(eqn, inputs):
                    flops[phase_of(where, self.phase), component(eqn, inputs)] += operations * times
                results = [derived(eqn, inputs)] * len(eqn.outvars)
            known.update(zip(eqn.outvars, results, strict=True))
        self.results = [origin(v) for v in jaxpr.outvars]
        return flops

    def inside(self, eqn: Any, inputs: list[Origin], where: str, times: int) -> Flops | None:
        """Cost of the jaxprs within an equation; None if there are none to walk."""
        parameters = eqn.params
        match eqn.primitive.name:
            case "scan":
                body, length = parameters["jaxpr"].jaxpr, parameters["length"]
                return self.walk(body, self.settle(body, inputs, *carry_of(parameters)), where, times * length)
            case "while":
                before, fixed = parameters["cond_nconsts"], parameters["body_nconsts"]
                body, condition = parameters["body_jaxpr"].jaxpr, parameters["cond_jaxpr"].jaxpr
                arguments = self.settle(body, inputs[before:], fixed, len(inputs) - before - fixed)
                outside = len(self.loops)
                iteration = self.walk(condition, [*inputs[:before], *arguments[fixed:]], where, times)
                iteration += self.walk(body, arguments, where, times)
                if len(self.loops) > outside:
                    self.uncounted.add("a loop within a loop of unknown length")
                if iteration:
                    self.loops.append(iteration)
                return Counter()
            case "cond":
                # Only the run knows the branch: the costliest is counted.
                branches, origins = [], []
                for branch in parameters["branches"]:
                    branches.append(self.walk(branch.jaxpr, inputs[1:], where, times))
                    origins.append(self.results)
                self.results = [merged(several) for several in zip(*origins, strict=True)]
                return max(branches, key=Counter.total)
            case name if name in REDUCING or name in FREE:
                return None  # a jaxpr among its parameters combines two elements
            case "shard_map":
                # Its body is what one device does.
                mesh = parameters["mesh"]
                times *= math.prod(mesh.shape[axis] for axis in parameters.get("manual_axes", mesh.axis_names))
        bodies = list(jaxprs(parameters))
        if len(bodies) != 1 or len(bodies[0].invars) != len(inputs) or len(bodies[0].outvars) != len(eqn.outvars):
            return None
        return self.walk(bodies[0], inputs, where, times)  # jit, remat, custom derivatives

    def settle(self, body: Jaxpr, inputs: list[Origin], fixed: int, carried: int) -> list[Origin]:
        """The arguments of a loop's body, once what it carries between iterations no longer gains an origin."""
        arguments = list(inputs)
        while True:
            trial = Counting(self.phase)
            trial.walk(body, arguments, "", 1)
            state = arguments[fixed : fixed + carried]
            grown = [merged(pair) for pair in zip(state, trial.results[:carried], strict=True)]
            if grown == state:
                return arguments
            arguments[fixed : fixed + carried] = grown

    def operations(self, eqn: Any, inputs: Sequence[Origin]) -> int:
        """Floating-point operations of one equation. What can't be counted is told."""
        name = eqn.primitive.name
        if not eqn.outvars or (inputs and all(origin.constant for origin in inputs)):
            return 0  # the compiler works it out beforehand
        out = eqn.outvars[0].aval
        if not any(jax.numpy.issubdtype(getattr(v.aval, "dtype", np.int32), np.inexact) for v in eqn.outvars):
            return 0
        if name in PRODUCTS:
            return product(eqn)
        if name in ELEMENTWISE:
            return math.prod(out.shape)
        if name in REDUCING:
            return math.prod(eqn.invars[-1 if name.startswith("scatter") else 0].aval.shape)
        if name not in FREE and name not in ARRANGING:
            self.uncounted.add(name)
        return 0


def carry_of(parameters: dict[str, Any]) -> tuple[int, int]:
    """Numbers of a scan's arguments: those before what it carries from iteration to iteration, and those it carries."""
    if "ft_in" in parameters:  # since JAX 0.11
        fixed, carried, _ = map(len, parameters["ft_in"].unpack())
        return fixed, carried
    return parameters["num_consts"], parameters["num_carry"]


def jaxprs(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among an equation's parameters."""
    for value in parameters.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def product(eqn: Any) -> int:
    """Operations of a matrix product or a convolution."""
    out, lhs, rhs = (math.prod(v.aval.shape) for v in (eqn.outvars[0], *eqn.invars[:2]))
    numbers = eqn.params.get("dimension_numbers")
    match eqn.primitive.name:
        case "dot_general":
            (contracted, _), _ = numbers
            return 2 * out * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            return 2 * out * rhs // kernel[numbers.rhs_spec[0]]  # every output reads input features / groups, and space
        case _:  # ragged: every row of lhs[m, k] meets one group's matrix of rhs[groups, k, n]
            return 2 * lhs * eqn.invars[1].aval.shape[-1]


def phase_of(path: str, otherwise: str) -> str:
    """The phase whose scope stands first in a path of scopes, such as jit(f)/transpose(jvp(train forward))/dot."""
    for part in path.split("/"):
        innermost = part.rstrip(")").rsplit("(", 1)[-1]
        if innermost == Phase.FORWARD:
            return Phase.BACKWARD if "transpose(" in path else Phase.FORWARD
        if innermost in PHASES:
            return innermost
    return otherwise


def component(eqn: Any, inputs: Sequence[Origin]) -> str:
    """The network that an operation belongs to; "shared" if that is none, or several."""
    parameters = [origin.networks for origin in inputs if origin.parameter]
    networks = [origin.networks for origin in inputs if origin.networks]
    latest = [origin.latest for origin in inputs if origin.networks]
    for sets in (parameters if eqn.primitive.name in PRODUCTS else [], networks, latest):
        common = frozenset.intersection(*sets) if sets else frozenset[str]()
        if len(common) == 1:
            return next(iter(common))
    return SHARED


def derived(eqn: Any, inputs: Sequence[Origin]) -> Origin:
    """Origin of an operation's result."""
    constant = all(origin.constant for origin in inputs) and not eqn.primitive.name.startswith("random")
    whole = merged([origin for origin in inputs if origin.networks])._replace(constant=constant)
    if eqn.primitive.name in PRODUCTS and (owner := component(eqn, inputs)) != SHARED:
        return Origin(whole.networks, frozenset([owner]))
    return whole._replace(parameter=whole.parameter and eqn.primitive.name in ARRANGING)


def merged(origins: Sequence[Origin]) -> Origin:
    """The common origin of all of these."""
    nothing = frozenset[str]()
    return Origin(
        nothing.union(*(origin.networks for origin in origins)),
        nothing.union(*(origin.latest for origin in origins)),
        bool(origins) and all(origin.parameter for origin in origins),
        bool(origins) and all(origin.constant for origin in origins),
    )


def network_of(function: Callable[..., Any], *networks: Any) -> str | None:
    """The name of the one network whose parameters a function returns, or computes its results from.

    None where that is several, or none.

    Args:
      networks: the function's arguments, dicts of networks.
    """
    closed = jax.make_jaxpr(function)(*networks)
    names = networks_of(networks, range(len(networks)))
    counting = Counting("")
    counting.walk(closed.jaxpr, [Origin(frozenset([name])) if name else DATA for name in names], "", 1)
    origins = frozenset[str]().union(*(origin.networks for origin in counting.results))
    return next(iter(origins)) if len(origins) == 1 else None


def networks_of(arguments: Sequence[Any], positions: Sequence[int]) -> list[str | None]:
    """For each leaf of the arguments, the name at the top of its tree, if that argument holds networks."""
    names: list[str | None] = []
    for position, argument in enumerate(arguments):
        if position in positions:
            for name, tree in sorted(argument.items()):
                names += [name] * len(jax.tree.leaves(tree))
        else:
            names += [None] * len(jax.tree.leaves(argument))
    return names
