"""The command `rlbench-booking-site`: the booking site over HTTP, for `task.url` and for people with a browser.

    rlbench-booking-site --port 8000
    rlbench task=booking task.url=http://127.0.0.1:8000

Pages are plain HTML. Each carries its visitor's session along, and its forms send it back, so the server keeps nothing.
"""

import argparse
from html import escape
from string import Template

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from .faults import Fault, Rates, Visit
from .pages import Page, Request, asked, page_of, sentences, shown, written
from .session import Session, answered, decoded, encoded
from .site import Command, Site, Stage, Verb, buttons

HTML = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tickets: $title</title>
<meta name="compact" content="$compact"><meta name="verbose" content="$verbose">
<meta name="session" content="$session"></head>
<body><h1>Tickets</h1><p id="request">$request</p><p id="page">$page</p>
$forms</body></html>
""")
FORM = Template(
    '<form method="post" action="/"><input type="hidden" name="session" value="$session">$controls</form>\n'
)
FIELD = '<input name="command" autofocus autocomplete="off"> <button>Send</button>'
KEPT = 60  # seconds that an idle connection is kept: longer than the client keeps it
EXAMPLE = Request("CD7", 5, "w", "KT")
NO_FAULTS = Rates(*[0.0] * len(Rates._fields))


def html(session: Session) -> str:
    """The page that a visitor sees."""
    page = page_of(session.visit)
    carried = escape(encoded(session))
    return HTML.substitute(
        title=page.stage or page.trouble,
        compact=escape(shown(page, "compact")),
        verbose=escape(shown(page, "verbose")),
        session=carried,
        request=escape(asked(session.request, "verbose").partition("\n")[0]),
        page=escape(sentences(page)),
        forms="".join(FORM.substitute(session=carried, controls=one) for one in controls(page, session)),
    )


def offered(page: Page, site: Site) -> list[Command]:
    """Commands that have a button: those of the page, or those that help."""
    if page.trouble:
        return [Command(Verb.WAIT if page.trouble == Fault.RATE_LIMIT else Verb.RELOAD)]
    return [*buttons(site)]


def controls(page: Page, session: Session) -> list[str]:
    """The contents of a page's forms: a field, where it is typed into, and buttons."""
    typed = [FIELD] if page.stage in (Stage.SEARCH, Stage.FORM) else []
    pressed = " ".join(map(button, offered(page, session.visit.site)))
    return [*typed, *filter(None, [pressed])]


def button(command: Command) -> str:
    value, label = written(command, "compact"), written(command, "verbose")
    return f'<button name="command" value="{value}">{label}</button>'


async def begin(http: HttpRequest) -> Response:
    """A session for whoever comes with a browser; `?seed=` is that of the stock."""
    seed = http.query_params.get("seed", "0")
    if not (seed.isascii() and seed.isdigit() and len(seed) < 20):
        return HTMLResponse("seed: a number", status_code=400)
    return HTMLResponse(html(Session(EXAMPLE, Visit(Site(int(seed)), int(seed)), NO_FAULTS, 0)))


async def act(http: HttpRequest) -> Response:
    """The page after a command."""
    form = await http.form()
    style = str(form.get("style", "compact"))
    try:
        session = decoded(str(form.get("session", "")))
        if style not in ("compact", "verbose"):
            raise ValueError("style")
    except ValueError:
        return HTMLResponse("no session of this site", status_code=400)
    after = answered(session, str(form.get("command", "")), "verbose" if style == "verbose" else "compact")
    return HTMLResponse(html(after), status_code=429 if after.visit.trouble == Fault.RATE_LIMIT else 200)


app = Starlette(routes=[Route("/", begin, methods=["GET"]), Route("/", act, methods=["POST"])])


def main() -> None:
    """The entry point."""
    arguments = argparse.ArgumentParser(prog="rlbench-booking-site", description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    arguments.add_argument("--port", type=int, default=8000, help="(%(default)s)")
    options = arguments.parse_args()
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", timeout_keep_alive=KEPT)


if __name__ == "__main__":
    main()
