"""Booking: a ticket is booked on a web site that fails like a real one, page by page.

The prompt is a request, "CD7<5wKT>": from C to D on day 7, for 5 at most, a window seat, for passenger KT. Each
completion is a command to the page before it. Reward 1 if exactly one ticket is booked in the end and it is what was
requested (route, day, price, kind of seat, name), else 0.

With `shaping` s, s / 4 of the reward is paid when each of the four pages from the results to the payment is first
reached with nothing on it that the request does not allow, and the rest of it at the end. It is not potential-based:
a policy may prefer it to the booking.
"""

import itertools
import time
from typing import Annotated, NamedTuple

from pydantic import Field

from rlbench.hashing import drawn, number_of
from rlbench.types import Bounds, ConfigError, Count, Natural, Problem, Status, Step

from .faults import LONGEST_WAIT, RANK, Fault, Rates, Visit, allows
from .latency import Latency
from .pages import FIRST_NAMES, Request, Style, asked, longest, page_of, shown, written
from .session import Session, answered, wish_of
from .site import CITIES, DAYS, HIGHEST, KINDS, Command, Offer, Site, Stage, Verb

HELDOUT = 5  # one request in so many is held out
SHORTEST = 5  # turns of a booking in which nothing goes wrong
RETURN = 2  # turns to see that a time has no such seat, and to go back
FAULT_TURNS = 5  # that a fault costs at most: a session that expires in the form, or a price that rises above the limit
PAID = (Stage.RESULTS, Stage.SEATS, Stage.FORM, Stage.PAYMENT)  # stages that shaping pays for

assert FAULT_TURNS >= 1 + LONGEST_WAIT


class State(NamedTuple):
    """A request, and how far its booking is."""

    request: Request
    visit: Visit
    tried: tuple[str, ...] = ()  # times that were seen to have no seat of the kind
    reached: int = 0  # of PAID


class Booking:
    """A ticket, booked in several turns; a hash of the request says which split it is in.

    Args:
      pages: their form: compact for tiny models, verbose for pretrained ones.
      faults: the probability of each, at a turn at which it can strike.
      max_faults: of an episode; 0: none.
      turns: at most; None: as many as the reference solution needs at worst.
      shaping: the part of the reward that is paid on the way to the booking.
      latency: seconds that a step takes.
      url: of the site, where it is played over HTTP (rlbench-booking-site); None: in this process.
    """

    def __init__(
        self,
        *,
        pages: Style,
        faults: Rates,
        max_faults: Natural,
        turns: Count | None,
        shaping: Annotated[float, Field(ge=0, lt=1)],
        latency: Latency,
        url: str | None,
    ):
        if sum(faults) > 1 + 1e-9:
            raise ConfigError("faults", f"{sum(faults):g} together", "at most 1 together")
        # One time at most is dearer or has no such seat without faults, both others with them.
        needed = SHORTEST + RETURN + (max_faults > 0) * RETURN + FAULT_TURNS * max_faults
        if turns is not None and turns < needed:
            raise ConfigError("turns", turns, f"at least {needed}, for max_faults={max_faults}")
        self.style, self.faults, self.max_faults, self.shaping = pages, faults, max_faults, shaping
        self.latency, self.url, self.blocking = latency, url, url is not None or latency.seconds > 0
        prompt, completion, page = map(len, longest(pages))
        letters = frozenset(map(chr, range(32, 127))) | {"\n"}
        self.bounds = Bounds(letters, prompt, completion, turns or needed, page)

    def open(self) -> None:
        if self.url is not None:
            from .client import Client  # what nobody needs who plays in this process

            self.client = Client(self.url)

    def close(self) -> None:
        if self.url is not None:
            self.client.close()
            del self.client

    def problem(self, seed: int, split: str) -> Problem:
        for attempt in itertools.count():
            text = f"{split} {seed} {attempt}"
            start, end, day, limit, kind, one, two = drawn(
                text, len(CITIES), len(CITIES) - 1, DAYS, HIGHEST, len(KINDS), len(FIRST_NAMES), len(FIRST_NAMES)
            )
            route = CITIES[start] + (CITIES[:start] + CITIES[start + 1 :])[end]
            request = Request(f"{route}{1 + day}", 1 + limit, KINDS[kind], FIRST_NAMES[one] + FIRST_NAMES[two])
            state = State(request, Visit(Site(number_of(text)), number_of(text)))
            prompt = asked(request, self.style)
            if is_heldout(request) == (split == "heldout") and is_fair(state):
                offers = state.visit.site._replace(search=request.search).offers
                return Problem(prompt, state, key=(request, offers))
        raise AssertionError  # one attempt or another is of the split

    def step(self, state: State, completion: str) -> Step:
        if self.latency.seconds:
            time.sleep(self.latency.of(state.visit.seed, state.visit.turn))
        session = Session(state.request, state.visit, self.faults, self.max_faults)
        try:
            visit, page = self._answer(session, completion)
        except ConnectionError as error:
            return Step(state, None, 0.0, Status.INFRASTRUCTURE, detail=f"{self.url}: {error}")
        state = seen(state._replace(visit=visit))
        over = visit.site.stage == Stage.CONFIRMED and not visit.trouble
        if not over and visit.turn < self.bounds.turns:
            gained = gain(state)
            state = state._replace(reached=state.reached + gained)
            return Step(state, page, gained * self.shaping / len(PAID), Status.OPEN)
        if is_met(state):
            rest = 1 - state.reached * self.shaping / len(PAID)
            return Step(state, None, rest, Status.PASSED, solved=True, labels=labels(visit))
        return Step(state, None, 0.0, Status.WRONG, detail=reason(state), solved=False, labels=labels(visit))

    def _answer(self, session: Session, completion: str) -> tuple[Visit, str]:
        """The visit after a completion, and its page.

        Raises:
          ConnectionError: the site cannot be reached.
        """
        if self.url is not None:
            after, page = self.client.send(session, completion, self.style)
            return after.visit, page
        after = answered(session, completion, self.style)
        return after.visit, shown(page_of(after.visit), self.style)

    def solution(self, state: State) -> str:
        return written(next_command(state), self.style)


def is_heldout(request: Request) -> bool:
    """True if a request is held out, by its content alone."""
    return number_of(repr(tuple(request))) % HELDOUT == 0


def is_fair(state: State) -> bool:
    """True if a request can be met, by the second cheapest offer at the latest, and not by every offer."""
    # Where every offer suits, or every seat, there is nothing to choose.
    request = state.request
    offers = state.visit.site._replace(search=request.search).offers
    first = sorted(offers, key=lambda offer: offer.price)[:2]
    return any(suits(offer, request) for offer in first) and not all(suits(offer, request) for offer in offers)


def suits(offer: Offer, request: Request) -> bool:
    """True if an offer has a seat of the kind and is not too dear."""
    return offer.price <= request.limit and offer.has(request.kind)


def next_command(state: State) -> Command:
    """The reference solution. It goes by what the pages have shown, and recovers from every fault."""
    request, visit = state.request, state.visit
    site = visit.site
    if visit.trouble:
        return Command(Verb.WAIT if visit.trouble == Fault.RATE_LIMIT else Verb.RELOAD)
    back = Command(Verb.BACK)
    match site.stage:
        case Stage.LOGIN:
            return Command(Verb.LOGIN)
        case Stage.SEARCH:
            return Command(Verb.SEARCH, request.search)
        case Stage.CONFIRMED:
            return Command(Verb.RELOAD)
        case _ if site.search != request.search:
            return back
        case Stage.RESULTS:
            fine = [
                offer
                for offer in site.offers
                if offer.price <= request.limit and offer.seats and offer.time not in state.tried
            ]
            return Command(Verb.TIME, min(fine, key=lambda offer: offer.price).time) if fine else back
        case Stage.SEATS if site.price <= request.limit:
            seats = [seat for seat in site.offer.first_seats if seat.kind == request.kind]
            return Command(Verb.SEAT, seats[0].name) if seats else back
        case Stage.FORM if site.seat and site.seat.kind == request.kind:
            return Command(Verb.NAME, request.name)
        case Stage.PAYMENT if site.price <= request.limit and site.name == request.name:
            return Command(Verb.PAY)
    return back


def seen(state: State) -> State:
    """The state, once the visitor has looked at the page."""
    site = state.visit.site
    if state.visit.trouble or site.stage != Stage.SEATS or site.search != state.request.search:
        return state
    if site.time in state.tried or site.offer.has(state.request.kind):
        return state
    return state._replace(tried=(*state.tried, site.time))


def gain(state: State) -> int:
    """Stages that are reached for the first time, with nothing chosen that the request does not allow."""
    request, site = state.request, state.visit.site
    if site.stage not in PAID or not allows(wish_of(request), site):
        return 0
    fine = site.stage != Stage.PAYMENT or site.name == request.name
    return max(RANK[site.stage] - state.reached, 0) if fine else 0


def is_met(state: State) -> bool:
    """True if one ticket is booked, the one that was requested."""
    request, bookings = state.request, state.visit.site.bookings
    return len(bookings) == 1 and all(
        (
            bookings[0].search == request.search,
            bookings[0].price <= request.limit,
            bookings[0].seat.kind == request.kind,
            bookings[0].name == request.name,
        )
    )


def labels(visit: Visit) -> tuple[str, ...]:
    """The faults that a visit met, and those of them that it recovered from: from a double payment nobody has to."""
    met = {str(one.fault) for one in visit.met}
    left = {one.fault for one in visit.met if not one.recovered} | {Fault.DOUBLE}
    recovered = {f"{fault}_recovered" for fault in met - left}
    return (*sorted(met | recovered),) or ("no_fault",)


def reason(state: State) -> str:
    """The reason for which nothing is paid, for people."""
    request, site = state.request, state.visit.site
    if not site.bookings:
        return f"nothing is booked after {state.visit.turn} turns"
    booking = site.bookings[-1]
    wrong = {
        "route or day": booking.search != request.search,
        "price": booking.price > request.limit,
        "seat": booking.seat.kind != request.kind,
        "name": booking.name != request.name,
    }
    return "booked, with another " + ", ".join(name for name, differs in wrong.items() if differs)
