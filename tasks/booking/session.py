"""Session of a visitor as a text: what a page of the site carries along, so that the site itself keeps nothing.

A site that is killed and started again goes on where it was. The text is not signed: whoever can reach the site can
write one, and book what they like.
"""

from typing import NamedTuple

from pydantic import TypeAdapter

from .faults import Rates, Visit, Wish, send
from .pages import Request, Style, parsed


class Session(NamedTuple):
    """A request, how far its booking is, and the faults that it may meet."""

    request: Request
    visit: Visit
    faults: Rates
    max_faults: int


SESSION = TypeAdapter(Session)


def encoded(session: Session) -> str:
    """The session as JSON."""
    return SESSION.dump_json(session).decode()


def decoded(text: str) -> Session:
    """The session of a text.

    Raises:
      ValueError: it is none.
    """
    return SESSION.validate_json(text)


def wish_of(request: Request) -> Wish:
    """The wish of a request, which remains possible whatever the stock does."""
    return Wish(request.search, request.kind, request.limit)


def answered(session: Session, text: str, style: Style) -> Session:
    """The session after a text was sent, which may be a command."""
    command = parsed(text, style)
    visit = send(session.visit, command, session.faults, session.max_faults, wish_of(session.request))
    return session._replace(visit=visit)
