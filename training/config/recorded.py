"""What may be recorded: every option lies in config.yaml and each checkpoint, or in a job's script, for others."""

import os
import re
from typing import Any

from aistore_data.client.credentials import TOKEN, TOKEN_FILE, Token
from sources.errors import ClusterError, ConfigError
from sources.text import visible
from training.config.options import values_of

_SHORTEST = 8
"""Characters of a token that is looked for: a shorter one may be part of any word."""

_LEAVE_IT_OUT = "and every option is recorded, in config.yaml and the checkpoints or in a job's script: leave it out"
_KEEP_IT_IN_A_FILE = "and every line is recorded in the job's script: keep it in a file that you alone can read"

_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
_IN_URL = re.compile(r"\w://[^/\s:@]*:[^/\s@]+@")
_BEARER = re.compile(r"\bbearer\s+\S|--?(?:token|password)\s+[^\s-]", re.IGNORECASE)
_ASSIGNED = re.compile(r"(?<![\w$])(\w+)=(?!=)(?=(.{0,3}))", re.DOTALL)
_SECRET = re.compile(r"(?:.*_)?(?:TOKEN|PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY)(?:_.*)?(?<!_FILE|_PATH)(?<!_DIR)")


def check_texts(config: Any) -> None:
    """Raise ConfigError for an option with a control character, and for one that holds a secret.

    A sentence about a secret does not repeat it.
    """
    try:
        token = Token(os.environ.get(TOKEN, ""), os.environ.get(TOKEN_FILE, "")).current()
    except ClusterError:  # who uses the token says what is wrong with its file
        token = ""
    texts = (
        (item, text)
        for item, value in values_of(config)
        for text in (value if isinstance(value, list) else [value])
        if isinstance(text, str)
    )
    for item, text in texts:
        name = item.name
        if (len(token) >= _SHORTEST and token in text) or _JWT.search(text):
            raise ConfigError(
                f"{name} holds a token, {_LEAVE_IT_OUT}, and name a file that you alone can read, {TOKEN_FILE}=PATH."
            )
        if _IN_URL.search(text):
            raise ConfigError(f"{name} holds a URL with a password, {_LEAVE_IT_OUT}.")
        if item.is_command:
            _check_command(name, text)
        if visible(text, keep="\n\t" if item.is_command else "\t") != text:  # last, since the sentence shows the text
            raise ConfigError(
                f"{name}={visible(text, keep='')} holds a line end or another character that cannot be shown, which no "
                "option takes: rename what it stands for, or reach it by a symbolic link with another name."
            )


def _check_command(name: str, line: str) -> None:
    for variable, value in _ASSIGNED.findall(line):
        read = variable != TOKEN and value.lstrip("\"'")[:1] in ("$", "`")  # it is elsewhere, and not recorded
        if _SECRET.fullmatch(variable.upper()) and not read:
            raise ConfigError(
                f"{name} sets {variable}, {_KEEP_IT_IN_A_FILE}, and let the line name that file, as "
                f"export {TOKEN_FILE}=PATH does for AIStore's token."
            )
    if _BEARER.search(line):
        raise ConfigError(f"{name} holds a token or a password, {_KEEP_IT_IN_A_FILE}.")
