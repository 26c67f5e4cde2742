"""Faults between a visitor and the booking site, and in its stock: which of them strikes is drawn from seed and turn.

A visit is a site and its visitor's browser. A fault strikes a command that is on its way to the site:

| fault | what happens | what helps |
|---|---|---|
| misclick | another button is pressed than the one chosen, never the one that pays | go back, choose again |
| garbled | the command arrives as none; the site says so, and the turn is spent | the command again |
| network | the command never arrives | reload, or the command again |
| timeout | the site acts, but its page never comes | reload |
| rate_limit | HTTP 429: the command is refused, and so are others until the visitor has waited so many turns | wait |
| stale | the seat has just been sold, though the page showed it as free | another seat, or another time |
| price | the price rises before the payment; nothing is paid | pay, or go back where it is too high |
| double | the payment is submitted twice | nothing: the site books once |
| expired | the session ends while the form is filled in; what was chosen is lost | log in, begin again |
"""

from enum import StrEnum
from typing import NamedTuple

from rlbench.hashing import drawn
from rlbench.types import Fraction

from .site import DAYS, HIGHEST, Command, Notice, Site, Stage, Verb, act, buttons, expire, reprice, sell

LONGEST_WAIT = 2  # turns, after HTTP 429
GRAIN = 1 << 32  # of a rate
RANK = {stage: rank for rank, stage in enumerate(Stage) if stage != Stage.LOGIN} | {Stage.LOGIN: -1}


class Fault(StrEnum):
    """Kind of a fault."""

    MISCLICK = "misclick"
    GARBLED = "garbled"
    NETWORK = "network"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    STALE = "stale"
    PRICE = "price"
    DOUBLE = "double"
    EXPIRED = "expired"


class Rates(NamedTuple):
    """Probability of each fault at a turn at which it can strike; together at most 1."""

    misclick: Fraction
    garbled: Fraction
    network: Fraction
    timeout: Fraction
    rate_limit: Fraction
    stale: Fraction
    price: Fraction
    double: Fraction
    expired: Fraction


class Wish(NamedTuple):
    """A seat of a kind on a day, for so much at most: faults leave it possible."""

    search: str
    kind: str
    limit: int


class Met(NamedTuple):
    """A fault that struck, and whether the visitor has come further than it left them, with nothing wrong chosen."""

    fault: Fault
    rank: int  # of the page at which it struck, or to which it led
    recovered: bool = False


class Visit(NamedTuple):
    """A site and its visitor's browser."""

    site: Site
    seed: int  # of the faults
    turn: int = 0
    trouble: Fault | None = None  # whose page the browser shows instead of the site's: network, timeout, rate_limit
    wait: int = 0  # turns, after HTTP 429
    met: tuple[Met, ...] = ()


def send(visit: Visit, command: Command | None, rates: Rates, most: int, wish: Wish) -> Visit:
    """The visit after a command: the site's answer, or a fault's.

    Args:
      command: None where it could not be parsed.
      most: faults of a visit.
      wish: what remains possible whatever the stock does.
    """
    before = visit.site
    if visit.trouble == Fault.RATE_LIMIT:
        wait = visit.wait - (command == Command(Verb.WAIT))
        return visit._replace(turn=visit.turn + 1, wait=wait, trouble=Fault.RATE_LIMIT if wait else None)
    fault, chance = fault_at(visit.seed, visit.turn, rates)
    struck = strike(before, command, fault, chance, wish) if fault and may_strike(visit, most) else None
    site = act(before, command) if struck is None else struck
    rank = RANK[site.stage]
    fine, over = allows(wish, site), site.stage == Stage.CONFIRMED
    met = tuple(one._replace(recovered=one.recovered or (fine and (over or rank > one.rank))) for one in visit.met)
    if struck is None or fault is None:
        return visit._replace(site=site, turn=visit.turn + 1, trouble=None, met=met)
    mine = Met(fault, max(rank, RANK[before.stage]))
    hides = fault in (Fault.NETWORK, Fault.TIMEOUT, Fault.RATE_LIMIT)
    return visit._replace(
        site=site,
        turn=visit.turn + 1,
        trouble=fault if hides else None,
        wait=1 + chance % LONGEST_WAIT if fault == Fault.RATE_LIMIT else 0,
        met=(*met, mine),
    )


def allows(wish: Wish, site: Site) -> bool:
    """True if the day, the price and the seat that were chosen are not against the wish; it knows of no name."""
    return site.search == wish.search and site.price <= wish.limit and (not site.seat or site.seat.kind == wish.kind)


def may_strike(visit: Visit, most: int) -> bool:
    """True if a fault can strike now: no other is being dealt with, and there may be more."""
    return len(visit.met) < most and not visit.trouble and visit.site.stage not in (Stage.LOGIN, Stage.CONFIRMED)


def fault_at(seed: int, turn: int, rates: Rates) -> tuple[Fault | None, int]:
    """The fault of a turn, if it can strike then, and a number that says how."""
    if not any(rates):
        return None, 0
    place, chance = drawn(f"fault {seed} {turn}", GRAIN, GRAIN)
    for fault, rate in zip(Fault, rates, strict=True):
        place -= int(rate * GRAIN)
        if place < 0:
            return fault, chance
    return None, chance


def strike(site: Site, command: Command | None, fault: Fault, chance: int, wish: Wish) -> Site | None:
    """The site after a command that a fault struck; None where it can't strike."""
    match fault, site.stage, command:
        case ((Fault.NETWORK | Fault.RATE_LIMIT), _, _):
            return site
        case Fault.TIMEOUT, _, _:
            return act(site, command)
        case _, _, None:
            return None
        case Fault.GARBLED, _, _:
            return act(site, None)
        case Fault.MISCLICK, Stage.SEARCH, Command(Verb.SEARCH, search):
            return act(site, Command(Verb.SEARCH, search[:-1] + str(int(search[-1]) % DAYS + 1)))
        case Fault.MISCLICK, _, _ if act(site, command).notice == Notice.NONE:
            others = [button for button in buttons(site) if button != command and button.verb != Verb.PAY]
            return act(site, others[chance % len(others)]) if others else None
        case Fault.STALE, Stage.SEATS, Command(Verb.SEAT, name) if act(site, command).stage == Stage.FORM:
            sold = sell(site, name)
            return act(sold, command) if possible(sold, wish) else None
        case Fault.PRICE, Stage.PAYMENT, Command(Verb.PAY) if site.price < HIGHEST:
            risen = reprice(site, min(site.price + 1 + chance % 3, HIGHEST))
            return act(risen, command) if possible(risen, wish) else None
        case Fault.DOUBLE, Stage.PAYMENT, Command(Verb.PAY):
            return act(act(site, command), command)
        case Fault.EXPIRED, Stage.FORM, Command(Verb.NAME):
            return expire(site)
    return None


def possible(site: Site, wish: Wish) -> bool:
    """True if there still is what is wished for."""
    return any(offer.price <= wish.limit and offer.has(wish.kind) for offer in site._replace(search=wish.search).offers)
