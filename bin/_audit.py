"""What an audit came to: one line a package against which something is known, or of which nobody could be asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def verdict(report: str, log: str) -> tuple[int, list[str]]:
    """The exit code, and what to say. `report` is pip-audit's JSON, or empty where it came to none."""
    if not report.strip():
        said = [line.strip() for line in log.splitlines() if line.strip()]
        return 3, ["nothing was looked at: " + (said[-1][:300] if said else "pip-audit said nothing")]
    packages = json.loads(report)["dependencies"]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    known = [each for each in packages if each.get("vulns")]
    lines = [
        f"{each['name']} {each['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for each in known
        for found in each["vulns"]
    ]
    looked = len(packages) - len(skipped)
    if skipped:
        lines.append(f"nobody could be asked about {len(skipped)} of {len(packages)}: {', '.join(skipped)}")
    if looked:
        lines.append(f"something is known against {len(known)} of {looked} packages that were looked up")
    return (1 if known else 3 if skipped or not packages else 0), lines


if __name__ == "__main__":
    report, log = (Path(name) for name in sys.argv[1:3])
    code, lines = verdict(report.read_text() if report.exists() else "", log.read_text())
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.exit(code)
