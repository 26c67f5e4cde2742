"""Client of the booking site over HTTP, with a pool of connections that all threads share."""

from html.parser import HTMLParser

import httpx

from .pages import Style
from .session import Session, decoded, encoded

SECONDS = 30.0  # to wait for the site
KEPT = 20.0  # seconds that an idle connection is kept: shorter than the site keeps it
CONNECTIONS = 64  # that are kept


class Down(ConnectionError):
    """The site cannot be reached, or answers with something else than its pages; says why."""


class Fields(HTMLParser):
    """Reads a page's two texts, and the session that it carries along."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "meta" and values.get("name"):
            self.values[str(values["name"])] = values.get("content") or ""


class Client:
    """A visitor of a site.

    Args:
      url: of the site.
    """

    def __init__(self, url: str):
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEPT)
        self._http = httpx.Client(base_url=url, timeout=SECONDS, limits=limits, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def send(self, session: Session, text: str, style: Style) -> tuple[Session, str]:
        """The session and the page after a text was sent.

        Raises:
          Down: there is no such site now.
        """
        try:
            response = self._http.post("/", data={"session": encoded(session), "command": text, "style": style})
        except httpx.HTTPError as error:
            raise Down(f"{type(error).__name__}: {error}") from error
        if response.status_code not in (200, 429):
            raise Down(f"HTTP {response.status_code}")
        fields = Fields()
        fields.feed(response.text)
        try:
            return decoded(fields.values["session"]), fields.values[style]
        except (KeyError, ValueError) as error:
            raise Down("a page of another site") from error
