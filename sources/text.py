"""Text for people: names from outside are shown without doing anything to the terminal, and commands can be pasted."""

import shlex
import unicodedata

_JOINERS = "\u200c\u200d"
"""Characters without width that join letters or emoji: ordinary names may have them."""

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of control and format characters, surrogates, and separators of lines and paragraphs."""


def visible(text: str, keep: str = "\n\t") -> str:
    """``text`` with control characters, ANSI escapes among them, as ``\\x1b`` and the like.

    ``keep``: control characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(character if character in keep else _escape(character) for character in text)


def _escape(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def shell_word(text: str) -> str:
    """``text`` as one word of a POSIX shell; with control characters in it, as bash's ``$'…'``."""
    if visible(text, keep="") == text:
        return shlex.quote(text)
    escaped = "".join(f"\\{character}" if character in "\\'" else _bash_escape(character) for character in text)
    return f"$'{escaped}'"


def _bash_escape(character: str) -> str:
    if _escape(character) == character:
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def format_duration(seconds: float) -> str:
    """Write a duration as 45s, 3m10s, 2h05m or 3d04h."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours == 0:
        return f"{minutes}m{seconds % 60:02d}s"
    return f"{hours}h{minutes % 60:02d}m" if days == 0 else f"{days}d{hours % 24:02d}h"
