"""All jobs of this folder, one after the other, and one page about them: ``chapter8/README.md``.

make chapter8        # about ten minutes on 2 cores
"""

import importlib
import os
import time
from pathlib import Path

from common import OUT, Finding

JOBS = sorted(file.stem for file in Path(__file__).parent.glob("[a-j]_*.py"))


def main() -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    findings: dict[str, tuple[Finding, float]] = {}
    for name in JOBS:
        started = time.monotonic()
        findings[name] = (importlib.import_module(name).main(), time.monotonic() - started)
    lines = ["# Deep Learning, chapter 8, reproduced", ""]
    as_stated = sum(finding.reached for finding, _ in findings.values())
    lines.append(f"{as_stated} of {len(findings)} jobs reached what the chapter states.")
    for name, (finding, seconds) in findings.items():
        lines += [
            "",
            f"## ({name[0]}) {finding.claim}",
            "",
            f"Section {finding.section}. {'As stated' if finding.reached else '**Not as stated**'}: {finding.found}.",
            f"[{name}.py](../jobs/chapter8/{name}.py), {seconds:.0f} s.",
            "",
            f"![{finding.found}]({name}.png)",
        ]
    (OUT / "README.md").write_text("\n".join(lines) + "\n")
    print(f"{as_stated} of {len(findings)} as the chapter states: see {OUT / 'README.md'}")


if __name__ == "__main__":
    main()
