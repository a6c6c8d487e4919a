"""What people read: the log, a report as a few lines, tables."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from inventory_enqueue.report import Stage


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Sends the log to standard error."""
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("inventory_enqueue").setLevel(level)


def table(rows: Sequence[Sequence[str]], alignments: Sequence[Callable[[str, int], str]]) -> str:
    """Rows of cells in columns, each aligned by str.ljust or str.rjust."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(alignments, row, widths, strict=True)).rstrip()
        for row in rows
    )


def summary(report: dict[str, Any]) -> str:
    """The report of RunReport.to_json() as text."""
    lines = [f"{report['status'].replace('_', ' ')}" + (f"  run {report['run_id']}" if report["run_id"] else "")]
    if report["source"]:
        source = report["source"]
        lines.append(
            f"delivery  {source['manifest']} of {source['created']}, {source['files']} files, "
            f"{source['bytes'] / 1e6:,.1f} MB"
        )
    if report["baseline"]:
        lines.append(f"baseline  {report['baseline']['manifest']} of {report['baseline']['created']}")
    counts, sent = report["counts"], report["sent"]
    if "listed" in counts:
        lines.append(
            f"listed    {counts['listed']:,}: {counts['new']:,} new, {counts['changed']:,} changed, "
            f"{counts['unchanged']:,} unchanged, {counts['deleted']:,} deleted since"
        )
        rare = (
            "duplicates",
            "not_live",
            "excluded",
            "newly_admitted",
            "reappeared",
            "quarantined",
            "known",
            "deleted_gone",
        )
        noted = [f"{counts[name]:,} {name.replace('_', ' ')}" for name in rare if counts[name]]
        noted += [f"{number:,} not admitted ({name})" for name, number in counts["filtered"].items() if number]
        if noted:
            lines.append(f"          {', '.join(noted)}")
    if report["status"] == "dry_run":
        lines.append(f"would send  {counts['selected']:,} keys; nothing was sent, nothing was recorded")
        if "sample_message" in report:
            lines.append(f"sample    {report['sample_message']}")
    elif sent:
        lines.append(
            f"sent      {sent['keys']:,} keys in {sent['messages']:,} messages, {sent['requests']:,} requests; "
            f"{sent['failed']:,} failed"
        )
        if sent["failures_file"]:
            lines.append(f"failures  {sent['failures_file']}")
        if sent["late_file"]:
            lines.append(f"late      {sent['late']:,} keys that reappeared weren't sent: {sent['late_file']}")
    seconds = report["seconds"]
    stages = ", ".join(f"{stage} {seconds[stage]:.1f} s" for stage in Stage if stage in seconds)
    lines.append(
        f"took      {seconds['total']:.1f} s"
        + (f" ({stages})" if stages else "")
        + f", {report['peak_rss_bytes'] / 1e6:,.0f} MB"
    )
    return "\n".join(lines)
