"""Put the story into README.md as scripts/demo really ran it: the cells of its notebook and what they showed."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BAR = re.compile(r"[^\r\n]* \d+/\d+ \|[█▏▎▍▌▋▊▉ ]+\|[^\r\n]*")  # as core.progress draws it
BEGIN, END = "<!-- the story, written by scripts/readme.py from an executed demo -->", "<!-- end of the story -->"


def shown(cell: dict) -> str:
    """The plain text that a cell showed, without progress bars."""
    texts = [out["data"]["text/plain"] for out in cell["outputs"] if "text/plain" in out.get("data", {})]
    texts += [out["text"] for out in cell["outputs"] if out.get("name") == "stdout"]
    plain = [BAR.sub("", "".join(text)).strip("\r\n ") for text in texts]
    return "\n".join(text for text in plain if text)


def story(notebook: dict) -> str:
    """Every cell that says a sentence to deploy_ext, with its answer."""
    parts, heading = [], ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (found := re.match(r"## (.+)", source)):
            heading = f"**{found[1]}**\n\n"
        elif cell["cell_type"] == "code" and "%deploy" in source:
            answer = shown(cell)
            told = f"```text\n{answer}\n```\n" if answer else ""
            parts.append(f"{heading}```\n{source.strip()}\n```\n{told}")
            heading = ""
    return "\n".join(parts)


def main() -> int:
    executed = ROOT / "demo" / "quickstart.ipynb"
    if not executed.exists():
        sys.stderr.write("there is no demo/quickstart.ipynb. Run: scripts/demo\n")
        return 2
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    told = story(json.loads(executed.read_text())).replace(str(ROOT), "~/deploy_ext")
    readme.write_text(f"{before}{BEGIN}\n{told}\n{END}{rest.split(END)[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
