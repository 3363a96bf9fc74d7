"""All tables of a run as one page: ``python -m benchmarks.report FOLDER`` writes FOLDER/README.md of FOLDER/*.json."""

import json
import sys
from pathlib import Path
from typing import Any


def table_lines(table: dict[str, Any]) -> list[str]:
    """A table in Markdown; a row without a figure says why there is none."""
    against = f"times better than {table['baseline']}" if table["baseline"] else ""
    lines = [f"**{table['title']}**", "", f"| | {table['unit']} (min–max) | {against} | |", "|---|---|---|---|"]
    for row in table["rows"]:
        if row["median"] is None:
            lines.append(f"| {row['name']} | not measured | | {row['failed']} |")
            continue
        spread = f"{min(row['values']):.4g}–{max(row['values']):.4g}"
        times = f"{row['times_better']:.2f}" if row["times_better"] else ""
        lines.append(f"| {row['name']} | {row['median']:.4g} ({spread}) | {times} | {row['note']} |")
    return [*lines, ""]


def page(results: list[dict[str, Any]]) -> str:
    """The page of these results; each says its own command, machine, date and versions."""
    lines = ["# What the benchmarks found", "", "Written by `make bench`. Medians of all repeats."]
    lines += ["[docs/benchmarks.md](../../docs/benchmarks.md) tells what is measured.", ""]
    for result in results:
        machine, name = result["machine"], result["benchmark"]
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        lines += [
            f"## {name}",
            "",
            f"`{result['command']}`, {result['date']}, {machine['cpu']}, {machine['cores']} cores, ",
        ]
        lines += [f"{machine['system']}; {versions}", "", f"![{name}]({name}.png)", ""]
        for table in result["tables"]:
            lines += table_lines(table)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    text = page([json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))])
    (folder / "README.md").write_text(text)
