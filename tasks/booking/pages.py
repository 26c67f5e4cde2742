"""Pages of the booking site, as data, and their texts: a compact form for tiny models, and a verbose one.

    compact                 verbose

    CD7<5wKT>               Book a ticket from C to D on day 7, for at most $5, a window seat, passenger KT. ...
    CD7n4d6e9>              CD7. Times: noon $4, dawn $6, evening $9. ...
    4:w2m-a7>               $4. Free seats: w2 (window), a7 (aisle). ...
    w2>                     Seat w2 (window). Passenger's name? ...
    $4KT>                   To pay: $4, for KT. ...

A compact page begins with "!" and a letter where something went wrong. A command is one of a compact or of a verbose
text, and nothing else: white space around it is not allowed either.
"""

import re
from typing import Literal, NamedTuple

from .faults import Fault, Visit
from .site import CITIES, DAYS, HIGHEST, KINDS, ROWS, TIMES, Booking, Command, Notice, Offer, Seat, Site, Stage, Verb

Style = Literal["compact", "verbose"]

FIRST_NAMES = "KLMNOPQRST"  # letters of passengers' names, two each
NAME = f"[{FIRST_NAMES}]{{2}}"
SEARCH = f"[{CITIES}]{{2}}[1-{DAYS}]"
SEAT = f"[{KINDS}][1-{ROWS}]"
TIME_WORDS = dict(zip(TIMES, ("dawn", "noon", "evening"), strict=True))
TIME_LETTERS = {word: letter for letter, word in TIME_WORDS.items()}
KIND_WORDS = dict(zip(KINDS, ("window", "middle", "aisle"), strict=True))


class Form(NamedTuple):
    """A command as a text: a pattern whose group is its value, and what it looks like with the value in its place."""

    pattern: str
    example: str


COMPACT = {
    Verb.SEARCH: Form(f"({SEARCH})", "{}"),
    Verb.TIME: Form(f"([{TIMES}])", "{}"),
    Verb.SEAT: Form(f"({SEAT})", "{}"),
    Verb.NAME: Form(f"({NAME})", "{}"),
    Verb.PAY: Form("p", "p"),
    Verb.BACK: Form("b", "b"),
    Verb.RELOAD: Form("r", "r"),
    Verb.LOGIN: Form("l", "l"),
    Verb.WAIT: Form("w", "w"),
}
VERBOSE = {
    Verb.SEARCH: Form(f"search ({SEARCH})", "search {}"),
    Verb.TIME: Form(f"choose ({'|'.join(TIME_WORDS.values())})", "choose {}"),
    Verb.SEAT: Form(f"seat ({SEAT})", "seat {}"),
    Verb.NAME: Form(f"name ({NAME})", "name {}"),
    **{verb: Form(verb, verb) for verb in (Verb.PAY, Verb.BACK, Verb.RELOAD, Verb.LOGIN, Verb.WAIT)},
}
FORMS: dict[Style, dict[Verb, Form]] = {"compact": COMPACT, "verbose": VERBOSE}
TROUBLES = (Fault.NETWORK, Fault.TIMEOUT, Fault.RATE_LIMIT)


class Request(NamedTuple):
    """A booking that somebody wants."""

    search: str
    limit: int
    kind: str
    name: str


class Page(NamedTuple):
    """All that a page shows."""

    stage: Stage | None  # None: the browser's page about trouble
    notice: Notice
    trouble: Fault | None
    wait: int
    search: str
    times: tuple[tuple[str, int, bool], ...]  # cheapest first, each with its price, and whether there is a free seat
    seats: tuple[Seat, ...]  # the first free one of each kind; or the chosen one
    price: int
    name: str
    booking: Booking | None


def page_of(visit: Visit) -> Page:
    """The page that a visitor sees."""
    site = visit.site
    if visit.trouble:
        return Page(None, Notice.NONE, visit.trouble, visit.wait, "", (), (), 0, "", None)
    return Page(
        site.stage,
        site.notice,
        None,
        0,
        site.search,
        tuple((offer.time, offer.price, bool(offer.seats)) for offer in offers_shown(site)),
        seats_shown(site),
        site.price,
        site.name,
        site.bookings[-1] if site.stage == Stage.CONFIRMED else None,
    )


def offers_shown(site: Site) -> tuple[Offer, ...]:
    """Offers of the results, cheapest first; of the same price, the earlier first."""
    return tuple(sorted(site.offers, key=lambda offer: offer.price)) if site.stage == Stage.RESULTS else ()


def seats_shown(site: Site) -> tuple[Seat, ...]:
    if site.stage == Stage.SEATS:
        return site.offer.first_seats
    return (site.seat,) if site.seat else ()


def asked(request: Request, style: Style) -> str:
    """The request, and the search page: the prompt."""
    if style == "compact":
        return f"{request.search}<{request.limit}{request.kind}{request.name}>"
    origin, destination, day = request.search
    wanted = f"Book a ticket from {origin} to {destination} on day {day}, for at most ${request.limit}, "
    wanted += f"a{'n' * (request.kind == 'a')} {KIND_WORDS[request.kind]} seat, passenger {request.name}.\n"
    return wanted + VERBOSE_PAGES[Stage.SEARCH] + "\n> "


def shown(page: Page, style: Style) -> str:
    """A page as a text."""
    return compact(page) if style == "compact" else verbose(page)


MARKS = {Notice.NONE: "", Notice.NOT_UNDERSTOOD: "!x", Notice.SOLD_OUT: "!s", Notice.PRICE: "!p"}


def compact(page: Page) -> str:
    match page.stage:
        case None:
            text = {Fault.NETWORK: "!n", Fault.TIMEOUT: "!t", Fault.RATE_LIMIT: f"!{page.wait}"}[page.trouble]
        case Stage.LOGIN:
            text = "!l"
        case Stage.SEARCH:
            text = "?"
        case Stage.RESULTS:
            text = page.search + "".join(f"{time}{price if free else '-'}" for time, price, free in page.times)
        case Stage.SEATS:
            rows = {seat.kind: seat.row for seat in page.seats}
            text = f"{page.price}:" + "".join(f"{kind}{rows.get(kind, '-')}" for kind in KINDS)
        case Stage.FORM:
            text = page.seats[0].name
        case Stage.PAYMENT:
            text = f"${page.price}{page.name}"
        case Stage.CONFIRMED:
            text = "ok"
    return f"{MARKS[page.notice]}{text}>"


VERBOSE_PAGES = {
    Stage.SEARCH: 'Where to, and when? Say "search" and the two cities and the day, as in "search AB3".',
    Stage.RESULTS: '{search}. Times: {times}. Say "choose" and one of them, or "back" to the search.',
    Stage.SEATS: '${price}. Free seats: {seats}. Say "seat" and its name, or "back" to the times.',
    Stage.FORM: 'Seat {seats}. Passenger\'s name? Say "name" and the name, or "back" to the times.',
    Stage.PAYMENT: 'To pay: ${price}, for {name}. Say "pay", or "back" to the times.',
    Stage.CONFIRMED: "Booked, number {id}.",
    Stage.LOGIN: 'Your session has expired. Say "login".',
}
VERBOSE_NOTICES = {
    Notice.NONE: "",
    Notice.NOT_UNDERSTOOD: "Not understood. ",
    Notice.SOLD_OUT: "That seat is sold out. ",
    Notice.PRICE: "The price has changed, nothing was paid. ",
}
VERBOSE_TROUBLES = {
    Fault.NETWORK: 'The network failed. Say "reload".',
    Fault.TIMEOUT: 'The site did not answer in time. Say "reload".',
    Fault.RATE_LIMIT: '429: too many requests. Say "wait", {wait} times.',
}


def verbose(page: Page) -> str:
    return sentences(page) + "\n> "


def sentences(page: Page) -> str:
    """A page as people read it."""
    if page.stage is None:
        assert page.trouble
        return VERBOSE_TROUBLES[page.trouble].format(wait=page.wait)
    times = [f"{TIME_WORDS[time]} {f'${price}' if free else 'sold out'}" for time, price, free in page.times]
    seats = [f"{seat.name} ({KIND_WORDS[seat.kind]})" for seat in page.seats]
    text = VERBOSE_PAGES[page.stage].format(
        search=page.search,
        times=", ".join(times),
        price=page.price,
        seats=", ".join(seats) or "none",
        name=page.name,
        id=page.booking.id if page.booking else "",
    )
    return VERBOSE_NOTICES[page.notice] + text


def parsed(text: str, style: Style) -> Command | None:
    """The command of a text; None where it is none."""
    for verb, form in FORMS[style].items():
        if found := re.fullmatch(form.pattern, text):
            value = "".join(found.groups())
            if style == "verbose" and verb == Verb.TIME:
                value = TIME_LETTERS[value]
            return Command(verb, value)
    return None


def written(command: Command, style: Style) -> str:
    """The text of a command."""
    value = TIME_WORDS[command.value] if style == "verbose" and command.verb == Verb.TIME else command.value
    return FORMS[style][command.verb].example.format(value)


def longest(style: Style) -> tuple[str, str, str]:
    """Texts as long as a prompt, a command and a page can be."""
    blank = Page(None, Notice.NONE, None, 0, "AB1", (), (), HIGHEST, "KK", None)
    seats = tuple(Seat(kind, ROWS) for kind in KINDS)
    times = tuple((time, HIGHEST, False) for time in TIMES)
    full = blank._replace(times=times, seats=seats, booking=Booking("", "", seats[0], 0, "", "0" * 8))
    pages = [blank._replace(trouble=trouble, wait=1) for trouble in TROUBLES]
    pages += [full._replace(stage=stage, notice=notice) for stage in Stage for notice in Notice]
    values = {Verb.SEARCH: "AB1", Verb.TIME: "e", Verb.SEAT: "m1", Verb.NAME: "KK"}
    commands = [written(Command(verb, values.get(verb, "")), style) for verb in Verb]
    requests = [asked(Request("AB1", HIGHEST, kind, "KK"), style) for kind in KINDS]
    texts = [shown(page, style) for page in pages]
    return max(requests, key=len), max(commands, key=len), max(texts, key=len)
