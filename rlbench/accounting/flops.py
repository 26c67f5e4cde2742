"""Executed floating-point operations of a jitted function, counted from its jaxpr.

A function is counted as it was traced: padding, recomputation and masked halves are in. Matrix
products and convolutions cost 2 m n k; elementwise arithmetic and reductions cost one operation an
element, as in XLA's own cost analysis. The length of a scan multiplies its body; a loop whose
length only the run knows is counted a trip, and the trips are told afterwards.
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


class Work(NamedTuple):
    """Operations of one call of a program."""

    fixed: Flops
    trip: Flops  # of one more trip of the loop whose length only the run knows
    untold: tuple[str, ...]  # what was not counted, or as a single trip: nested loops, opaque kernels

    def add_to(self, flops: Flops, trips: int) -> None:
        """Adds all operations of a call in which the loop took so many trips."""
        for cell, operations in self.fixed.items():
            flops[cell] += operations
        for cell, operations in self.trip.items():
            flops[cell] += trips * operations


class Origin(NamedTuple):
    """Where a value comes from."""

    networks: frozenset[str] = frozenset()  # whose parameters it was computed from
    latest: frozenset[str] = frozenset()  # of them, those of the last matrix products on the way to it
    parameter: bool = False  # whether it is a parameter itself, but for its shape


DATA = Origin()
SHARED = "shared"

# The same numbers in another arrangement: a parameter stays one.
ARRANGING = frozenset(
    {
        "reshape",
        "transpose",
        "convert_element_type",
        "squeeze",
        "broadcast_in_dim",
        "slice",
        "dynamic_slice",
        "split",
        "copy",
        "concatenate",
        "rev",
        "expand_dims",
        "reduce_precision",
        "sharding_constraint",
        "optimization_barrier",
    }
)
# One operation an element of the result; a transcendental function is one, too.
ELEMENTWISE = frozenset(
    {
        "add",
        "add_any",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "neg",
        "sign",
        "abs",
        "floor",
        "ceil",
        "round",
        "rem",
        "pow",
        "integer_pow",
        "square",
        "sqrt",
        "rsqrt",
        "cbrt",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "tanh",
        "logistic",
        "sin",
        "cos",
        "tan",
        "erf",
        "erfc",
        "erf_inv",
        "clamp",
        "nextafter",
    }
)
# One operation an element of the argument.
REDUCING = frozenset(
    {
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "reduce_prod",
        "cumsum",
        "cumprod",
        "cummax",
        "cummin",
        "cumlogsumexp",
    }
)
# Kernels that a jaxpr does not show the inside of.
OPAQUE = frozenset(
    {
        "pallas_call",
        "ffi_call",
        "custom_call",
        "tpu_custom_call",
        "pure_callback",
        "io_callback",
    }
)


def count(closed: ClosedJaxpr, networks: Sequence[str | None], phase: str) -> Work:
    """Counts a program by phase and by component.

    Phases are scopes (jax.named_scope) of their names; what is transposed within the forward phase of
    training is the backward one. A matrix product belongs to the network whose parameter it reads, any
    other operation to the one network that all its arguments were computed from, or else came through
    last (a gradient that several networks had a part in, on its way back through one), or to "shared".

    Args:
      networks: for each argument, the component that it is a parameter of, or None.
      phase: of what stands in no scope.
    """
    counting = Counting(phase)
    origins = [Origin(frozenset([name]), frozenset([name]), True) if name else DATA for name in networks]
    counting.walk(closed.jaxpr, origins, "", 1, looping=False)
    return Work(counting.fixed, counting.trip, tuple(sorted(counting.untold)))


class Counting:
    """A walk through a jaxpr in the order of execution."""

    def __init__(self, phase: str):
        self.phase = phase
        self.fixed: Flops = Counter()
        self.trip: Flops = Counter()
        self.untold: set[str] = set()
        self.loops = 0

    def walk(self, jaxpr: Jaxpr, origins: Sequence[Origin], path: str, times: int, looping: bool) -> list[Origin]:
        """Adds what the jaxpr costs when it runs so many times. Returns the origins of its results."""
        known: dict[Any, Origin] = dict.fromkeys(jaxpr.constvars, DATA)
        known.update(zip(jaxpr.invars, origins, strict=True))

        def origin(variable: Any) -> Origin:
            return DATA if isinstance(variable, Literal) else known[variable]

        for eqn in jaxpr.eqns:
            inputs = [origin(v) for v in eqn.invars]
            where = f"{path}/{eqn.source_info.name_stack}"
            inner = self.inside(eqn, inputs, where, times, looping)
            if inner is None:
                flops = operations(eqn)
                if flops:
                    cell = phase_of(where, self.phase), component(eqn, inputs)
                    (self.trip if looping else self.fixed)[cell] += flops * times
                elif eqn.primitive.name in OPAQUE or "dot_product_attention" in eqn.primitive.name:
                    self.untold.add(eqn.primitive.name)
                inner = [derived(eqn, inputs)] * len(eqn.outvars)
            known.update(zip(eqn.outvars, inner, strict=True))
        return [origin(v) for v in jaxpr.outvars]

    def inside(self, eqn: Any, inputs: list[Origin], where: str, times: int, looping: bool) -> list[Origin] | None:
        """Counts the jaxprs within an equation; None if there are none."""
        parameters = eqn.params
        match eqn.primitive.name:
            case "scan":
                fixed, carried = parameters["num_consts"], parameters["num_carry"]
                body, length = parameters["jaxpr"].jaxpr, parameters["length"]
                inputs = self.settle(body, inputs, fixed, carried)
                return self.walk(body, inputs, where, times * length, looping)
            case "while":
                before, fixed = parameters["cond_nconsts"], parameters["body_nconsts"]
                body, condition = parameters["body_jaxpr"].jaxpr, parameters["cond_jaxpr"].jaxpr
                arguments = self.settle(body, inputs[before:], fixed, len(inputs) - before - fixed)
                already = self.trip.total()
                outcome = self.walk(body, arguments, where, times, looping=True)
                self.walk(condition, [*inputs[:before], *arguments[fixed:]], where, times, looping=True)
                if self.trip.total() > already:
                    self.loops += 1
                    if looping or self.loops > 1:
                        self.untold.add("a second loop of unknown length")
                return outcome
            case "cond":
                # Only the run knows the branch: the costliest is counted.
                branches = [branch.jaxpr for branch in parameters["branches"]]
                trials = [Counting(self.phase) for _ in branches]
                results = [
                    trial.walk(branch, inputs[1:], where, times, looping)
                    for trial, branch in zip(trials, branches, strict=True)
                ]
                costliest = max(trials, key=lambda trial: trial.fixed.total() + trial.trip.total())
                self.fixed += costliest.fixed
                self.trip += costliest.trip
                self.untold |= costliest.untold
                return [merged(several) for several in zip(*results, strict=True)]
        bodies = list(jaxprs(parameters))
        if not bodies or eqn.primitive.name in OPAQUE or len(bodies[0].invars) > len(inputs):
            return None
        # jit, remat, custom derivatives, shard_map: one body; what precedes its arguments is not passed on.
        body = bodies[0]
        return self.walk(body, inputs[len(inputs) - len(body.invars) :], where, times, looping)

    def settle(self, body: Jaxpr, inputs: list[Origin], fixed: int, carried: int) -> list[Origin]:
        """The arguments of a loop's body, once what it carries from trip to trip no longer gains an origin."""
        arguments = list(inputs)
        while True:
            results = Counting(self.phase).walk(body, arguments, "", 1, looping=False)
            state = arguments[fixed : fixed + carried]
            grown = [merged(pair) for pair in zip(state, results[:carried], strict=True)]
            if grown == state:
                return arguments
            arguments[fixed : fixed + carried] = grown


def jaxprs(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among an equation's parameters."""
    for value in parameters.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def operations(eqn: Any) -> int:
    """Floating-point operations of one equation."""
    name = eqn.primitive.name
    out = eqn.outvars[0].aval
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2 * math.prod(out.shape) * math.prod(lhs[axis] for axis in contracted)
    if name == "conv_general_dilated":
        numbers, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
        taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])  # input features / groups, and space
        return 2 * math.prod(out.shape) * taps
    if not jax.numpy.issubdtype(getattr(out, "dtype", np.int32), np.floating):
        return 0
    if name in ELEMENTWISE:
        return math.prod(out.shape)
    return math.prod(eqn.invars[0].aval.shape) if name in REDUCING else 0


def phase_of(path: str, otherwise: str) -> str:
    """The phase whose scope stands first in a path of scopes, such as jit(f)/transpose(jvp(train forward))/dot."""
    for part in path.split("/"):
        innermost = part.rstrip(")").rsplit("(", 1)[-1]
        if innermost == Phase.FORWARD:
            return Phase.BACKWARD if "transpose(" in path else Phase.FORWARD
        if innermost in SCOPES:
            return innermost
    return otherwise


SCOPES = frozenset(phase.value for phase in Phase)


def component(eqn: Any, inputs: list[Origin]) -> str:
    """The network that an operation belongs to; "shared" if that is none, or several."""
    product = eqn.primitive.name == "dot_general"
    parameters = [origin.networks for origin in inputs if origin.parameter and product]
    networks = parameters or [origin.networks for origin in inputs if origin.networks]
    latest = [origin.latest for origin in inputs if origin.networks]
    for sets in (networks, latest) if product else (networks,):
        for joined in (frozenset.intersection, frozenset.union):
            names = joined(*sets) if sets else frozenset[str]()
            if len(names) == 1:
                return next(iter(names))
    return SHARED


def derived(eqn: Any, inputs: list[Origin]) -> Origin:
    """Where the result of an operation comes from."""
    whole = merged([origin for origin in inputs if origin.networks])
    if eqn.primitive.name == "dot_general" and (owner := component(eqn, inputs)) != SHARED:
        return Origin(whole.networks, frozenset([owner]))
    return whole._replace(parameter=whole.parameter and eqn.primitive.name in ARRANGING)


def merged(origins: Sequence[Origin]) -> Origin:
    """What comes from all of these."""
    nothing = frozenset[str]()
    return Origin(
        nothing.union(*(origin.networks for origin in origins)),
        nothing.union(*(origin.latest for origin in origins)),
        bool(origins) and all(origin.parameter for origin in origins),
    )


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


def trace(function: Callable[..., Any], *arguments: Any, networks: Sequence[int] = (0,), phase: str) -> Work:
    """Counts a function on arguments, or on jax.ShapeDtypeStructs of them."""
    return count(jax.make_jaxpr(function)(*arguments), networks_of(arguments, networks), phase)
