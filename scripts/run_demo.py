"""Run templates/quickstart.ipynb in a real kernel, in the fresh project folder demo/, and sum up what happened."""

import contextlib
import os
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "demo"
os.environ["DEPLOY_EXT_PROJECT"] = str(DEMO)
for key in ("MLFLOW_TRACKING_URI", "DEPLOY_EXT_TRACKING_URI"):  # the demo never writes into a team's registry
    os.environ.pop(key, None)

from deploy_ext import verbs  # noqa: E402 - after the environment that it reads
from deploy_ext.core import DeployError  # noqa: E402
from deploy_ext.report import fill, to_html  # noqa: E402


def stop_all() -> None:
    """Take down what runs in the demo's project."""
    for endpoint in verbs.status():
        with contextlib.suppress(DeployError):
            verbs.down(endpoint.name)


def fresh() -> None:
    """An empty project; what an interrupted demo left running is stopped first."""
    if DEMO.exists():
        stop_all()
        shutil.rmtree(DEMO)
    DEMO.mkdir()
    (DEMO / "deploy.toml").write_text("# the project of scripts/demo; made anew by each run\n")


def main() -> int:
    began, notebook, page = time.monotonic(), DEMO / "quickstart.ipynb", DEMO / "quickstart.html"
    fresh()
    try:
        fill(Path(str(files("deploy_ext.templates"))) / "quickstart.ipynb", {}, notebook)
        to_html(notebook, page, code=True)
        story = verbs.history("flights", verify=True)
        card = verbs.report("flights", html=DEMO / "flights.html")
    except DeployError as e:
        sys.stderr.write(f"the demo failed: {e}\n")
        return e.exit_code
    finally:
        stop_all()
    told = [f"  {e.what:<9} {e.to or '':<2} {e.reason}".rstrip() for e in story]
    done = [f"The demo took {time.monotonic() - began:.0f} s. What happened, as the ledger tells it:", *told]
    where = [f"executed notebook: {notebook}", f"as HTML:           {page}", f"model card:        {card.html}"]
    sys.stdout.write("\n".join([*done, story.notes, "", *where, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
