"""Who a client is and whom it trusts: AuthN's token, the cluster's certificate, and a sentence where they do not fit.

The names in the environment are those of the AIStore SDK and of its command line: AIS_AUTHN_TOKEN or
AIS_AUTHN_TOKEN_FILE, AIS_CLIENT_CA, AIS_CRT, AIS_CRT_KEY, AIS_SKIP_VERIFY_CRT.
"""

import json
import os
import re
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

from sources.errors import ClusterError

TOKEN, TOKEN_FILE = "AIS_AUTHN_TOKEN", "AIS_AUTHN_TOKEN_FILE"

_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
"""A JSON Web Token: its first part is the base64 of ``{"…``."""

_HTTP_TO_HTTPS = "Client sent an HTTP request to an HTTPS server"
"""The words of Go's server, with status 400."""

_UNTRUSTED = {18, 19, 20, 21}
_EXPIRED, _TOO_EARLY = 10, 9
_OTHER_NAME = {62, 64}
"""OpenSSL's X509_V_ERR_*: issuers unknown or self-signed; dates; the name or address of the host does not match."""

_CLIENT_CERTIFICATE = re.compile(
    r"CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_(EXPIRED|UNKNOWN)|HANDSHAKE_FAIL"
)
"""Alerts by which a server refuses its client's certificate, or the lack of one."""


_WRITING_S, _PAUSE_S = 1.0, 0.01
"""How long a token's file may be without a token while somebody writes it, and how often it is looked at."""


class Token:
    """The bearer token: ``value``, or what ``file`` holds now. It is in no message: ``hide`` takes it out of texts."""

    def __init__(self, value: str, file: str) -> None:
        self._value = value
        self._file = "" if value else file
        self._stamp: tuple[int, ...] = ()

    def current(self) -> str:
        """The token, "" if there is none; the file is read again when it has changed.

        While a file is written anew it may hold no token for a moment: then the former one counts. Raises ClusterError
        for a file that cannot be read or holds no token, and has held none before.
        """
        if self._file and (problem := self._read()) and not self._value:
            raise ClusterError(problem)
        return self._value

    def renewed(self, former: str) -> bool:
        """Whether the token is another one than ``former``, which was refused; waits for a file in the making."""
        end = time.monotonic() + _WRITING_S
        while self._file and self._read() and time.monotonic() < end:
            time.sleep(_PAUSE_S)
        return self._value != former

    def _read(self) -> str:
        """Take over what the file holds now; answers "", or a sentence on why it holds no token."""
        try:
            status = Path(self._file).stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._value, self._stamp = _parse(Path(self._file).read_text()), stamp
        except OSError as error:
            return f"{TOKEN_FILE}={self._file} cannot be read: {error.strerror}. ais auth login -f FILE writes one."
        except ValueError:
            return (
                f'{TOKEN_FILE}={self._file} holds no token: it must be {{"token": "…"}}, as ais auth login -f FILE '
                "writes it, or the token alone."
            )
        return ""

    def hide(self, text: str) -> str:
        """``text`` without the token, and without whatever looks like one: AIStore 5.0 repeats one that has expired."""
        if self._value:
            text = text.replace(self._value, "TOKEN")
        return _JWT.sub("TOKEN", text)

    def refused(self, status: int, message: str) -> str:
        """Why a cluster answers 401 or 403, and what to do; the end of a sentence whose subject is the cluster."""
        said = self.hide(message).rstrip(" .")
        where = f"{TOKEN_FILE}={self._file}" if self._file else TOKEN
        if status == 403:
            return (
                f"does not let this token do that (status 403{f': {said}' if said else ''}). Reading a bucket takes "
                f"GET, HEAD and LIST, writing to it PUT and DELETE too: ask an administrator, or change {where}."
            )
        if not self._value and not self._file:
            return (
                f"refuses the token that is not there (status 401): it wants one. Set {TOKEN} to a token, or "
                f"{TOKEN_FILE} to the file that ais auth login -f FILE writes."
            )
        if "expired" in said:
            return f"refuses the token of {where}: it has expired. Get a new one with ais auth login -f FILE."
        return f"refuses the token of {where} (status 401{f': {said}' if said else ''}). Get one with ais auth login."


def checked_token(token: str) -> str:
    """``token``, of the environment. Raises ClusterError for one that holds what HTTP cannot carry."""
    if token and not re.fullmatch(r"[!-~]+", token):
        what = "a line end" if re.search(r"[\r\n]", token) else "a character that no token has, as a blank"
        raise ClusterError(
            f"{TOKEN} holds {what}: set it to the token alone, without quotes, blanks or line ends, or set "
            f"{TOKEN_FILE} to the file that ais auth login -f FILE writes."
        )
    return token


def _parse(text: str) -> str:
    """The token in the text of a file; raises ValueError."""
    text = text.strip()
    try:
        token = json.loads(text)["token"] if text.startswith("{") else text
    except KeyError:
        token = ""
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise ValueError("no token")
    return token


def tls_context() -> ssl.SSLContext:
    """Return a TLS context like that of the SDK's sessions. Raises ClusterError for files that are missing or wrong."""
    from aistore.sdk.session_manager import resolve_ssl_config  # here, as plain http needs no SDK

    verify, pair = resolve_ssl_config()
    crt, key = os.environ.get("AIS_CRT"), os.environ.get("AIS_CRT_KEY")
    if bool(crt) != bool(key):
        given, missing = ("AIS_CRT", "AIS_CRT_KEY") if crt else ("AIS_CRT_KEY", "AIS_CRT")
        raise ClusterError(f"{given} is set, but {missing} is not: a client certificate needs both.")
    try:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    except OSError as error:  # ssl.SSLError too
        raise ClusterError(f"AIS_CLIENT_CA={verify} is not a PEM file of certificates: {_reason(error)}.") from None
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if pair:
        try:
            context.load_cert_chain(*pair)
        except OSError as error:
            raise ClusterError(
                f"AIS_CRT={pair[0]} and AIS_CRT_KEY={pair[1]} are not a certificate and its key in PEM: "
                f"{_reason(error)}."
            ) from None
    return context


def tls_problem(error: Exception, endpoint: str, option: str) -> str | None:
    """What TLS stumbled over on the way to ``endpoint``, and which setting mends it; None if it was not TLS.

    ``option`` is what names the endpoint.
    """
    if _HTTP_TO_HTTPS in str(error):
        return f"{endpoint} speaks https: write {option}=https://{urlsplit(endpoint).netloc}."
    cause = _cause(error)
    if cause is None or not endpoint.startswith("https:"):
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{endpoint} cannot be trusted: {_verification(cause, endpoint, option)}"
    if not isinstance(cause, ssl.SSLError) or isinstance(cause, ssl.SSLEOFError):
        given = os.environ.get("AIS_CRT")
        action = (
            f"refuses a client certificate: check AIS_CRT={given}"
            if given
            else "wants a client certificate: set AIS_CRT"
        )
        return (
            f"{endpoint} broke the connection off, as a server does that {action} and AIS_CRT_KEY, if the cluster runs."
        )
    reason = cause.reason or str(cause)
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return f"{endpoint} does not speak https: write {option}=http://{urlsplit(endpoint).netloc}."
    if _CLIENT_CERTIFICATE.search(reason):
        if os.environ.get("AIS_CRT"):
            return (
                f"{endpoint} refuses the client certificate of AIS_CRT={os.environ['AIS_CRT']} ({reason}): set AIS_CRT "
                "and AIS_CRT_KEY to one that is signed by an authority that the cluster knows, and valid now."
            )
        return (
            f"{endpoint} wants a client certificate ({reason}): set AIS_CRT and AIS_CRT_KEY to its file and its key's."
        )
    return f"TLS with {endpoint} fails: {reason}. Check {option}, AIS_CLIENT_CA, AIS_CRT and AIS_CRT_KEY."


def _verification(cause: ssl.SSLCertVerificationError, endpoint: str, option: str) -> str:
    code, host = cause.verify_code, urlsplit(endpoint).hostname
    ca = os.environ.get("AIS_CLIENT_CA")
    if code in _UNTRUSTED and ca:
        return (
            f"its certificate is not signed by AIS_CLIENT_CA={ca}. Set it to the file of the cluster's own authority."
        )
    if code in _UNTRUSTED:
        return (
            "its certificate is signed by an authority that this machine does not know. Set AIS_CLIENT_CA to the file "
            "of that authority's certificate."
        )
    if code in (_EXPIRED, _TOO_EARLY):
        when = "has expired" if code == _EXPIRED else "is not valid yet"
        return f"a certificate {when}. The cluster or AIS_CLIENT_CA needs a new one, or this machine's clock is wrong."
    if code in _OTHER_NAME:
        return f"its certificate is not for {host}. Use a name that is in it: {option} or AIS_ENDPOINT."
    return f"{cause.verify_message}. Check AIS_CLIENT_CA and the cluster's certificate."


def _cause(error: object) -> ssl.SSLError | ConnectionError | None:
    """The error of Python's ssl or of the connection, however deep requests has wrapped it."""
    if isinstance(error, ssl.SSLError | ConnectionResetError | BrokenPipeError):
        return error
    if not isinstance(error, BaseException):
        return None
    inner = (*reversed(error.args), getattr(error, "reason", None), error.__cause__)
    return next((cause for cause in map(_cause, inner) if cause), None)


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
