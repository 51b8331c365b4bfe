"""When a run tells people something: at its end, unless they ended it, and at its first loss that is no number."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.places import DataRoot, data_root
from engine.contract.rundir import RunDir
from engine.contract.settings import read_settings
from engine.launch.webhook import Message, send

NOT_A_NUMBER = "Not a number"
"""How the event of such a loss begins; see `engine.train.record`."""


def url_file(root: DataRoot) -> Path:
    """Return where a studio writes the address it can be opened at."""
    return root.path / "locks" / "studio.url"


def tell_end(run: RunDir, end: str, problem: str) -> None:
    """Send a message about how a run ended, if people want it; what goes wrong is a line in the log."""
    root = data_root()
    settings = read_settings(root)
    wanted = {"finished": settings.notify_finished, "failed": settings.notify_failed}.get(end, False)
    if not settings.webhook_url or not wanted:
        return
    name = _name(run)
    text = f"{name} has finished." if end == "finished" else f"{name} has failed. {problem}".strip()
    message = Message(event=end, run=run.id, name=name, text=text, cause=problem, link=_link(run, root))
    _report(send(settings.webhook_url, message))


class NanWatch:
    """Looks at a run's events for a loss that is not a number and tells the first one, without holding anybody up.

    Args:
        run: A run that is being trained.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._offset = run.events()[1]
        self._told = False

    def look(self) -> None:
        """Read what was appended since the last look."""
        if self._told:
            return
        events, self._offset = self.run.events(self._offset)
        found = next((e for e in events if str(e.get("text", "")).startswith(NOT_A_NUMBER)), None)
        if found is None:
            return
        self._told = True
        root = data_root()
        settings = read_settings(root)
        if not settings.webhook_url or not settings.notify_failed:
            return
        name, cause = _name(self.run), str(found["text"])
        told = Message(
            event="not_a_number", run=self.run.id, name=name, text=f"{name}: {cause}", cause=cause,
            link=_link(self.run, root),
        )  # fmt: skip
        threading.Thread(target=lambda: _report(send(settings.webhook_url, told)), name="webhook", daemon=True).start()


def _name(run: RunDir) -> str:
    try:
        return run.recipe().display_name
    except UserError:  # its folder is gone
        return run.id


def _link(run: RunDir, root: DataRoot) -> str:
    try:
        return f"{url_file(root).read_text(encoding='utf-8').strip()}/run?id={run.id}"
    except OSError:
        return ""


def _report(why: str) -> None:
    if why:
        print(f"The webhook was not told: {why}", file=sys.stderr, flush=True)
