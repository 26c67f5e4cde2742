"""Booking site: a state machine. A site and a command make the next site; no text, chance or clock is in it.

    search -> results -> seats -> form -> payment -> confirmed

"back" leads to the results, and from there to the search. Stock sells out, prices change and sessions expire by
`sell`, `reprice` and `expire`, which whoever runs the site calls.
"""

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from rlbench.hashing import digest_of, drawn

CITIES, DAYS = "ABCDEF", 9
TIMES = "dne"  # dawn, noon, evening: the offers of a day
KINDS = "wma"  # window, middle, aisle
FREE = (0, 1, 1, 1, 1, 1, 2, 2)  # seats of a kind that an offer may have, each as likely
ROWS = 9  # no two of an offer's seats are in one
HIGHEST = 9  # price of an offer; the lowest is 1


class Stage(StrEnum):
    """Page that the site shows."""

    SEARCH = "search"
    RESULTS = "results"
    SEATS = "seats"
    FORM = "form"
    PAYMENT = "payment"
    CONFIRMED = "confirmed"
    LOGIN = "login"


class Notice(StrEnum):
    """Message on top of a page."""

    NONE = ""
    NOT_UNDERSTOOD = "not_understood"  # the page has no such command
    SOLD_OUT = "sold_out"  # the seat was free when the page was made
    PRICE = "price"  # it changed since the offer was chosen; nothing was paid


class Verb(StrEnum):
    """Kind of a command."""

    SEARCH = "search"
    TIME = "time"
    SEAT = "seat"
    NAME = "name"
    PAY = "pay"
    BACK = "back"
    RELOAD = "reload"
    LOGIN = "login"
    WAIT = "wait"


class Command(NamedTuple):
    """A command, with the fields that it fills in: "AB3" of a search, "n" of a time, "w2" of a seat, or a name."""

    verb: Verb
    value: str = ""


class Seat(NamedTuple):
    kind: str
    row: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.row}"


class Offer(NamedTuple):
    """A journey, and the seats that are free."""

    time: str
    price: int
    seats: tuple[Seat, ...]

    @property
    def first_seats(self) -> tuple[Seat, ...]:
        """The first free seat of each kind that has one: those that a page shows."""
        return tuple({seat.kind: seat for seat in reversed(self.seats)}[kind] for kind in KINDS if self.has(kind))

    def has(self, kind: str) -> bool:
        """True if a seat of the kind is free."""
        return any(seat.kind == kind for seat in self.seats)


class Booking(NamedTuple):
    """A ticket that was paid."""

    search: str
    time: str
    seat: Seat
    price: int
    name: str
    id: str  # the same for the same ticket, so that paying twice books once


class Change(NamedTuple):
    """A change of the stock: of an offer's price, or a seat that was sold."""

    search: str
    time: str
    price: int | None = None
    sold: str | None = None  # the seat's name


class Site(NamedTuple):
    """The site, as one visitor's session has it."""

    seed: int  # of its stock
    changes: tuple[Change, ...] = ()
    stage: Stage = Stage.SEARCH
    notice: Notice = Notice.NONE
    search: str = ""
    time: str = ""
    price: int = 0  # that the visitor was shown
    seat: Seat | None = None  # held for the visitor
    name: str = ""
    bookings: tuple[Booking, ...] = ()

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Offers of the search, as they are now."""
        offers = stock(self.seed, self.search)
        mine = [change for change in self.changes if change.search == self.search]
        return tuple(changed(offer, mine) for offer in offers) if mine else offers

    @property
    def offer(self) -> Offer:
        """The chosen one, as it is now."""
        return self.offers[TIMES.index(self.time)]


@lru_cache(maxsize=1 << 14)
def stock(seed: int, search: str) -> tuple[Offer, ...]:
    """Offers of a search before anything changes: the same for the same seed."""
    offers = []
    for time in TIMES:
        price, *values = drawn(f"stock {seed} {search} {time}", HIGHEST, *[len(FREE)] * len(KINDS), *range(ROWS, 1, -1))
        counts, places = values[: len(KINDS)], iter(values[len(KINDS) :])
        rows, seats = [*range(1, 1 + ROWS)], []
        for kind, count in zip(KINDS, counts, strict=True):
            seats += [Seat(kind, rows.pop(next(places))) for _ in range(FREE[count])]
        offers.append(Offer(time, 1 + price, tuple(seats)))
    return tuple(offers)


def changed(offer: Offer, changes: list[Change]) -> Offer:
    """The offer after changes of its day's stock."""
    for change in changes:
        if change.time == offer.time and change.price is not None:
            offer = offer._replace(price=change.price)
        elif change.time == offer.time:
            offer = offer._replace(seats=tuple(seat for seat in offer.seats if seat.name != change.sold))
    return offer


def sell(site: Site, seat: str) -> Site:
    """Somebody else buys a seat of the offer that the visitor looks at."""
    return site._replace(changes=(*site.changes, Change(site.search, site.time, sold=seat)))


def reprice(site: Site, price: int) -> Site:
    """The price of the offer that the visitor has chosen changes."""
    return site._replace(changes=(*site.changes, Change(site.search, site.time, price=price)))


def expire(site: Site) -> Site:
    """The session ends: what was chosen is forgotten, what was booked is not."""
    return Site(site.seed, site.changes, Stage.LOGIN, bookings=site.bookings)


def act(site: Site, command: Command | None) -> Site:
    """The site after a command. One that the page does not have changes nothing, and the page says so.

    Args:
      command: None where it could not be parsed.
    """
    site = site._replace(notice=Notice.NONE)
    match site.stage, command:
        case _, Command(Verb.RELOAD):
            return site
        case Stage.LOGIN, Command(Verb.LOGIN):
            return site._replace(stage=Stage.SEARCH)
        case Stage.SEARCH, Command(Verb.SEARCH, search):
            return site._replace(stage=Stage.RESULTS, search=search)
        case Stage.RESULTS, Command(Verb.BACK):
            return site._replace(stage=Stage.SEARCH, search="")
        case Stage.RESULTS, Command(Verb.TIME, time):
            site = site._replace(time=time)
            return site._replace(stage=Stage.SEATS, price=site.offer.price)
        case ((Stage.SEATS | Stage.FORM | Stage.PAYMENT), Command(Verb.BACK)):
            return site._replace(stage=Stage.RESULTS, time="", price=0, seat=None, name="")
        case Stage.SEATS, Command(Verb.SEAT, name):
            free = [seat for seat in site.offer.first_seats if seat.name == name]
            if not free:
                return site._replace(notice=Notice.SOLD_OUT)
            return site._replace(stage=Stage.FORM, seat=free[0])
        case Stage.FORM, Command(Verb.NAME, name):
            return site._replace(stage=Stage.PAYMENT, name=name)
        case Stage.PAYMENT, Command(Verb.PAY):
            if site.price != site.offer.price:
                return site._replace(price=site.offer.price, notice=Notice.PRICE)
            return book(site)
        case Stage.CONFIRMED, Command(Verb.PAY):
            return book(site)
    return site._replace(notice=Notice.NOT_UNDERSTOOD)


def book(site: Site) -> Site:
    """Pays for what was chosen. A second payment for the same ticket finds it booked, and books nothing."""
    assert site.seat
    ticket = site.search, site.time, site.seat, site.price, site.name
    booking = Booking(*ticket, id=digest_of(f"{site.seed} {ticket}", size=4).hex())
    bookings = site.bookings if booking in site.bookings else (*site.bookings, booking)
    return site._replace(stage=Stage.CONFIRMED, bookings=bookings)


def buttons(site: Site) -> tuple[Command, ...]:
    """The commands that the page offers as buttons. Forms are typed into: the search has one for the next day."""
    back = (Command(Verb.BACK),)
    match site.stage:
        case Stage.RESULTS:
            return (*(Command(Verb.TIME, time) for time in TIMES), *back)
        case Stage.SEATS:
            return (*(Command(Verb.SEAT, seat.name) for seat in site.offer.first_seats), *back)
        case Stage.FORM:
            return back
        case Stage.PAYMENT:
            return (Command(Verb.PAY), *back)
        case Stage.LOGIN:
            return (Command(Verb.LOGIN),)
    return ()
