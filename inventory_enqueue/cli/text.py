"""A report as a few lines for people."""

from typing import Any


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
        rare = ("duplicates", "not_live", "excluded", "newly_admitted", "reappeared", "quarantined")
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
    seconds = report["seconds"]
    stages = ", ".join(f"{name} {seconds[name]:.1f} s" for name in ("index", "diff", "enqueue") if name in seconds)
    lines.append(
        f"took      {seconds['total']:.1f} s"
        + (f" ({stages})" if stages else "")
        + f", {report['peak_rss_bytes'] / 1e6:,.0f} MB"
    )
    return "\n".join(lines)
