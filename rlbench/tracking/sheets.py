"""A ledger for those who plot it: its numbers by name, and as tables of a row a fact."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

SHEETS = ("compute", "phases", "memory", "rollouts", "verification", "time", "price")


class Sheet(NamedTuple):
    """A table of numbers, in the units of docs/ledger.md."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def numbers(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The leaves of nested mappings by their path, as "prefix/name/name"; what is null or a list is left out."""
    return {name: leaf for name, leaf in leaves(tree, prefix) if isinstance(leaf, bool | int | float | str)}


def leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, branch in tree.items():
            yield from leaves(branch, f"{path}/{name}")
    else:
        yield path, tree


def memory(ledger: Mapping[str, Any]) -> dict[str, int]:
    """Bytes a device by component: of each network, with gradients and optimizer states, and of what they share."""
    taken = ledger["memory"]
    networks = {name: sum(parts.values()) for name, parts in taken["components"].items()}
    shared = {name: taken[name] for name in ("kv_cache", "rollout_buffers")}
    return networks | shared | {"temporaries": max(taken["temporaries"].values(), default=0)}


def sheets(ledger: Mapping[str, Any]) -> dict[str, Sheet]:
    """The ledger's tables by name, which is one of SHEETS."""
    taken, price = ledger["memory"], ledger["price"]
    executed, useful = ledger["compute"]["executed"], ledger["compute"]["useful"]
    sizes = "kv_cache", "rollout_buffers", "device_peak", "process_peak", "resident_peak"
    shared = {name: taken[name] for name in sizes}
    return {
        "compute": Sheet(
            ("phase", "component", "executed_flops"),
            [(phase, name, flops) for phase, parts in executed["cells"].items() for name, flops in parts.items()],
        ),
        "phases": Sheet(
            ("phase", "executed_flops", "useful_flops"),
            [(phase, flops, useful["by_phase"].get(phase, 0.0)) for phase, flops in executed["by_phase"].items()],
        ),
        "memory": Sheet(
            ("component", "part", "bytes"),
            [(name, part, size) for name, parts in taken["components"].items() for part, size in parts.items()]
            + [("temporaries", name, size) for name, size in taken["temporaries"].items()]
            + [("shared", name, size) for name, size in shared.items()],
        ),
        "rollouts": Sheet(
            ("fate", "rollouts", "tokens", "executed_flops"),
            [
                (fate, count, ledger["tokens"]["by_fate"][fate], executed["by_fate"][fate])
                for fate, count in ledger["rollouts"]["by_fate"].items()
            ],
        ),
        "verification": Sheet(("quantity", "value"), list(numbers(ledger["verification"], "verification").items())),
        "time": Sheet(
            ("whose", "state", "seconds"),
            [
                (whose, state, seconds)
                for whose in ("devices", "actor", "learner")
                for state, seconds in ledger["time"][whose].items()
            ],
        ),
        "price": Sheet(
            ("cost", "per_point", "per_solved"),
            [(cost, value, price["per_solved"][cost]) for cost, value in price["per_point"].items()],
        ),
    }
