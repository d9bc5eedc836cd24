"""All jobs of this folder, one after the other, and one page about them: ``chapter8/index.html``.

make chapter8        # about five minutes on 2 cores
"""

import html
import importlib
import os
import time
from pathlib import Path

from common import OUT, Finding

JOBS = sorted(file.stem for file in Path(__file__).parent.glob("[a-j]_*.py"))
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
h2 { font-size: 1.15em; margin: 2.5em 0 0.3em } img { max-width: 100% } .not { color: #b2182b } .as { color: #1b7837 }
footer { color: #777; margin-top: 3em }
"""


def section(name: str, finding: Finding, seconds: float) -> str:
    """One job's part of the page."""
    verdict = '<b class="as">As stated</b>' if finding.reached else '<b class="not">Not as stated</b>'
    found = html.escape(finding.found)
    return f"""
<h2 id="{name[0]}">({name[0]}) {html.escape(finding.claim)}</h2>
<p>Section {html.escape(finding.section)}. {verdict}: {found}.</p>
<img src="{name}.png" alt="{found}">
<p><code>python jobs/chapter8/{name}.py</code>, {seconds:.0f} s</p>"""


def page(findings: dict[str, tuple[Finding, float]]) -> str:
    """The whole page."""
    reached = sum(finding.reached for finding, _ in findings.values())
    others = ", ".join(f"({name[0]})" for name, (finding, _) in findings.items() if not finding.reached)
    summary = f"{reached} of {len(findings)} jobs reached what the chapter states" + (
        f"; not {others}" if others else ""
    )
    sections = "".join(section(name, *found) for name, found in findings.items())
    title = "Deep Learning, chapter 8, reproduced"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
<p>{summary}. MNIST, one run each, five for (e) and (i); ± is one standard error.</p>{sections}
<footer>In MLflow: <code>MLFLOW_TRACKING_URI=sqlite:///chapter8/mlflow.db streamtrain ui</code></footer>
</html>
"""


def main() -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    findings: dict[str, tuple[Finding, float]] = {}
    for name in JOBS:
        started = time.monotonic()
        findings[name] = (importlib.import_module(name).main(), time.monotonic() - started)
    (OUT / "index.html").write_text(page(findings))
    reached = sum(finding.reached for finding, _ in findings.values())
    print(f"{reached} of {len(findings)} as the chapter states: see {OUT / 'index.html'}")


if __name__ == "__main__":
    main()
