"""How a cluster is reached: its endpoint and token, the path of an object, and the server's words in an error."""

import json
import os
import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.credentials import TOKEN, TOKEN_FILE, Token, checked_token
from sources.errors import ClusterError

_WORDS = 8000
"""Characters of a server's message that are shown: the end of a pod's log is among them."""

_UNPRINTABLE = re.compile(r"[^\t\n -~\u00a0-\u2027\u2030-\u2065\u2070-\ud7ff\ue000-\U0010ffff]")
"""Control characters, which a terminal obeys, and marks that change the direction of what follows."""


@dataclass(frozen=True)
class Access:
    """How to reach a cluster: its endpoint (``http://host:port``) and a token, which no message ever shows.

    The token, or the file that holds it: somebody may replace it while this runs, and other processes read it too.
    """

    endpoint: str
    token: str = ""
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 20.0
    token_file: str = ""
    option: str = "endpoint"
    """What the user set to name the endpoint, for messages."""

    def __repr__(self) -> str:
        return f"Access({self.endpoint})"

    def credentials(self) -> Token:
        """The token, to be asked for whenever it is sent."""
        return Token(self.token, self.token_file)

    @classmethod
    def from_environment(cls, endpoint: str, option: str = "endpoint", otherwise: str = "") -> "Access":
        """Endpoint, or AIS_ENDPOINT where it is empty; token from AIS_AUTHN_TOKEN, or else from AIS_AUTHN_TOKEN_FILE.

        ``option`` names the endpoint, and ``otherwise`` is what else the user may do about a missing one.
        Raises ClusterError without an endpoint, and for a token that HTTP cannot carry.
        """
        endpoint = endpoint or os.environ.get("AIS_ENDPOINT", "")
        if not endpoint:
            raise ClusterError(
                f"{option} is not set: give the cluster's proxy, {option}=http://HOST:PORT, "
                f"{'' if otherwise else 'or '}set AIS_ENDPOINT{otherwise}."
            )
        form = f"{option}={endpoint} is not a URL of the form http://HOST:PORT."
        try:
            parts = urlsplit(endpoint)
            port = parts.port
        except ValueError:
            raise ClusterError(form) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ClusterError(form)
        if "@" in parts.netloc:
            raise ClusterError(
                f"{option} names a user for {parts.hostname}, and everything in it is recorded: leave that out. "
                f"AIStore takes tokens, by {TOKEN} or {TOKEN_FILE}."
            )
        token, token_file = os.environ.get(TOKEN, ""), os.environ.get(TOKEN_FILE, "")
        return cls(endpoint.rstrip("/"), checked_token(token), token_file=token_file, option=option)


def object_path(bucket: str, name: str, **query: str) -> str:
    """Path and query of a GET of an object; ``bucket`` as ``ais://name``. Raises ConfigError for another address."""
    uri = parse_bucket(bucket)
    return f"/v1/objects/{uri.name}/{quote(name)}?{urlencode(uri.query | query)}"


def server_message(body: bytes) -> str:
    """The server's own words, bounded and printable: AIS answers JSON with a message."""
    try:
        said = json.loads(body)["message"]
        text = said if isinstance(said, str) else json.dumps(said)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        text = body[:200].decode("utf-8", "replace")
    return printable(text)


def printable(text: str) -> str:
    """``text``, bounded, with blanks for what a terminal would obey."""
    return _UNPRINTABLE.sub(" ", text if len(text) <= _WORDS else f"{text[: _WORDS // 2]} … {text[-_WORDS // 2 :]}")
