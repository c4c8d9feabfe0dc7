"""``validation.md`` from the stored results alone: whatever number it shows was computed by an experiment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MARKS = {"passed": "✅ holds", "failed": "❌ fails", "error": "❌ broke off", "skipped": "⏭️ skipped"}
INTRODUCTION = """\
# Does the theory hold?

Written by `featgeo validate` from the files under `results/`; no number on this page was typed. Each section gives the
claim, how it was put to the test, what came out, and the verdict. Checks that fail are shown as failing.
"""


def write_page(results: str | Path, path: str | Path) -> None:
    """Write the page from every ``*.json`` in a folder of results.

    Args:
        results: folder of the records that the runner wrote.
        path: of the page; figures are referred to as ``figures/…`` beside it.
    """
    records = [json.loads(file.read_text("utf-8")) for file in sorted(Path(results).glob("*.json"))]
    records.sort(key=lambda record: (record["position"], record["name"]))
    parts = [INTRODUCTION, _summary(records), *(_section(record) for record in records)]
    Path(path).write_text("\n".join(parts), "utf-8")


def _summary(records: list[dict[str, Any]]) -> str:
    rows = []
    for record in records:
        checks = record.get("checks", [])
        passed = sum(check["passed"] for check in checks)
        rows.append(
            [
                f"[{record['title']}](#{record['name']})",
                MARKS[record["status"]],
                f"{passed} of {len(checks)}" if checks else "–",
                f"{'quick' if record['key']['quick'] else 'full'}, seed {record['key']['seed']}",
                f"{record['seconds']:.0f} s",
            ]
        )
    return _table(["experiment", "outcome", "checks passed", "run", "time"], rows)


def _section(record: dict[str, Any]) -> str:
    parts = [f'<a id="{record["name"]}"></a>\n\n## {record["title"]}\n', f"**{MARKS[record['status']]}**\n"]
    if "reason" in record:
        parts.append(f"{record['reason']}\n")
    parts += [f"{line}\n" for line in record.get("skipped", [])]
    parts += [f"**Claim.** {record['claim'].strip()}\n", f"**Set-up.** {record['setup'].strip()}\n"]
    for table in record.get("tables", []):
        parts += [f"*{table['title']}*\n", _table(table["columns"], table["rows"])]
    for name, caption in record.get("figures", {}).items():
        parts.append(f"[![{name}](figures/{name}.png)](figures/{name}.svg)\n\n*{caption}*\n")
    if record.get("verdict"):
        parts.append(f"**Verdict.** {record['verdict'].strip()}\n")
    if record.get("checks"):
        rows = [
            [check["name"], check["value"], check["bound"], "✅" if check["passed"] else "❌ fails"]
            for check in record["checks"]
        ]
        parts.append(_table(["check", "value", "bound", "passed"], rows))
    key = record["key"]
    made = ", ".join(f"{name} {version}" for name, version in key["versions"].items())
    parts.append(f"<sub>Seed {key['seed']}, {made}; code {key['code']}; {record['seconds']:.0f} s.</sub>\n")
    return "\n".join(parts)


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    """Numbers to four significant digits; text with its bars escaped."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return str(value).replace("|", "\\|").replace("\n", " ")
