"""A real kernel for tests, spoken to over the Jupyter protocol as JupyterLab does."""

from __future__ import annotations

import ast
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

SECONDS = 120


@dataclass
class Reply:
    """What a cell gave back: its value as text and HTML, what it printed, and its error."""

    text: str = ""
    html: str = ""
    printed: str = ""
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = field(default_factory=list)


class Kernel:
    """A kernel whose working folder is the project."""

    def __init__(self, manager: KernelManager):
        self.manager = manager
        self.client = self._connected()

    def _connected(self) -> Any:  # a blocking client; its requests are made by a decorator that hides their types
        client = self.manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=SECONDS)
        return client

    def try_(self, source: str) -> Reply:
        """Run a cell, which may fail."""
        reply = Reply()

        def hear(message: dict[str, Any]) -> None:
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_result":
                reply.text, reply.html = content["data"]["text/plain"], content["data"].get("text/html", "")
            elif kind == "stream":
                reply.printed += content["text"]
            elif kind == "error":
                reply.ename, reply.evalue, reply.traceback = content["ename"], content["evalue"], content["traceback"]

        self.client.execute_interactive(source, output_hook=hear, timeout=SECONDS)
        return reply

    def run(self, source: str) -> Reply:
        """Run a cell, which must not fail."""
        reply = self.try_(source)
        assert not reply.ename, f"{source}\n{reply.ename}: {reply.evalue}"
        return reply

    def tab(self, source: str) -> list[str]:
        """What Tab offers where `|` stands in the source, else at its end."""
        at = source.index("|") if "|" in source else len(source)
        answer = self.client.complete(source.replace("|", ""), at, reply=True, timeout=SECONDS)["content"]
        assert answer["status"] == "ok", answer
        return answer["matches"]

    def restart(self) -> None:
        """As the button in JupyterLab does: all variables are gone."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self.client = self._connected()


def ask(k: Kernel, expression: str) -> Any:
    """The value of an expression in the kernel, as a job asks: no name is bound, no cell is counted."""
    reply = k.client.execute_interactive(
        "",
        silent=True,
        store_history=False,
        user_expressions={"value": expression},
        timeout=SECONDS,
        output_hook=lambda message: None,
    )["content"]["user_expressions"]["value"]
    assert reply["status"] == "ok", reply
    return ast.literal_eval(reply["data"]["text/plain"])


@contextlib.contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """A kernel in `folder`; ends with the block."""
    with tempfile.TemporaryDirectory() as sockets:  # kernels that start at once race for TCP ports
        manager = KernelManager(transport="ipc", connection_file=f"{sockets}/kernel.json")
        manager.start_kernel(cwd=str(folder), env={**os.environ, "DEPLOY_EXT_PROJECT": str(folder)})
        try:
            opened = Kernel(manager)
            yield opened
            opened.client.stop_channels()
        finally:
            manager.shutdown_kernel(now=True)
