"""A ledger as three small tables: compute, memory, rollouts."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


def ledger_tables(ledger: Mapping[str, Any]) -> list[Table]:
    """The tables of one run, for a terminal."""
    return [compute_table(ledger), memory_table(ledger["memory"]), rollouts_table(ledger)]


def compute_table(ledger: Mapping[str, Any]) -> Table:
    """Phases by components, in operations executed; then what was useful, and how fast."""
    compute, time = ledger["compute"], ledger["time"]
    executed, useful = compute["executed"], compute["useful"]
    components = list(executed["by_component"])
    table = small(f"compute, FLOPs executed ({time['wall']:.1f} s, idle {time['idle_fraction']:.0%})")
    headed(table, "phase", *components, "all", "useful")
    for phase, total in executed["by_phase"].items():
        cells = (quantity(executed["cells"][phase].get(name, 0.0)) for name in components)
        add(table, phase, *cells, quantity(total), quantity(useful["by_phase"].get(phase, 0.0)))
    table.add_section()
    sums = (quantity(executed["by_component"][name]) for name in components)
    add(table, "all", *sums, quantity(executed["total"]), quantity(useful["total"]))
    shares = compute["utilisation"]
    blanks = [""] * len(components)
    add(table, "HFU and MFU", *blanks, f"{shares['hfu']:.1%}", f"{shares['mfu']:.1%}")
    return table


def memory_table(memory: Mapping[str, Any]) -> Table:
    """Bytes of each network, of what they share, and the price of every network beside the policy."""
    table = small("memory, bytes a device")
    headed(table, "", "parameters", "optimizer", "gradients", "all")
    for name, parts in memory["components"].items():
        own = (parts.get(part, 0) for part in ("parameters", "optimizer_state", "gradients"))
        add(table, name, *(quantity(size) for size in own), quantity(sum(parts.values())))
    table.add_section()
    temporaries = max(memory["temporaries"].values(), default=0)
    for name, size in (
        ("key-value cache", memory["kv_cache"]),
        ("rollouts and scores", memory["rollout_buffers"]),
        ("largest temporaries", temporaries),
        ("peak, device", memory["device_peak"]),
        ("peak, device, all runs of the process", memory["process_peak"]),
        ("peak, resident set", memory["resident_peak"]),
    ):
        add(table, name, "", "", "", quantity(size))
    table.add_section()
    for name, price in memory["price"].items():
        add(table, f"all without {name}", "", "", "", quantity(price["without"]))
    return table


def rollouts_table(ledger: Mapping[str, Any]) -> Table:
    """Table of the rollouts' fates and of the operations paid for them; then the cost of judging them."""
    rollouts, executed = ledger["rollouts"], ledger["compute"]["executed"]
    table = small(f"rollouts of {rollouts['problems']:,} problems")
    headed(table, "fate", "rollouts", "tokens", "FLOPs")
    for fate, count in rollouts["by_fate"].items():
        add(table, fate, f"{count:,}", f"{ledger['tokens']['by_fate'][fate]:,}", quantity(executed["by_fate"][fate]))
    add(table, "padding", "", "", quantity(executed["padding"]))
    add(table, "overhead", "", "", quantity(executed["overhead"]))
    if executed["left_out"]:
        add(table, "left out, since it teaches nothing", "", "", quantity(executed["left_out"]))
    if saved := ledger["tokens"]["prefill_saved"]:
        add(table, "not read again in later turns", "", f"{saved:,}", "")
    table.add_section()
    judged = ledger["verification"]
    add(
        table,
        "judged by the verifier",
        f"{judged['calls']:,}",
        f"in {judged['wall_seconds']:.2f} s",
        f"{judged['cpu_seconds']:.2f} CPU s",
    )
    if (lost := ledger["lost_to_crash"])["crashes"]:
        seconds, flops = f"in {lost['seconds']:.0f} s", quantity(lost["flops"])
        add(table, f"lost to {lost['crashes']} crashes, beside these", f"{lost['rollouts']:,}", seconds, flops)
    return table


def small(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")


def headed(table: Table, first: str, *rest: str) -> None:
    table.add_column(Text(first), no_wrap=True)
    for name in rest:
        table.add_column(Text(name), justify="right", no_wrap=True)


def add(table: Table, *cells: str) -> None:
    """A row of texts as they are; names may look like rich's markup."""
    table.add_row(*map(Text, cells))


def quantity(value: float) -> str:
    """Three significant digits and a letter: 1.23 G."""
    if not value:
        return "-"
    for letter, unit in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"
