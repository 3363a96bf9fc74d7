"""The table of docs/faults.md, from what the tests print: ``pytest tests/faults --all -s | python -m tests.faults.table``."""

import re
import sys

_DETAILS = re.compile(r" (on|at) (http://)?127\.0\.0\.1:\d+|: samples are made here until it works again")


def main() -> int:
    """Reads the output of the tests, prints Markdown."""
    print("| fault | what the console says | longest wait of a step | samples made here instead | tried again | lost |")
    print("|---|---|---|---|---|---|")
    for line in sys.stdin:
        if match := re.match(r"[.sF]*FAULT (.*)", line):
            name, seen, stall, fallbacks, retries = match[1].split(" | ")
            said = list(dict.fromkeys(part.strip() for part in _DETAILS.sub("", seen).split(";")))
            print(f"| {name} | {'; '.join(said) or '–'} | {stall} | {fallbacks} | {retries} | nothing |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
