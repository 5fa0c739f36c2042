"""A model that someone serves, as an engine.

Everything is asked at once, with `concurrency` requests in flight, and nothing twice: what was answered lies in a log
outside the stage's folder. Of the decoding a server is told what its protocol knows (`ServerSettings.sent`). End tokens
and suppressed tokens are ids of the base model's tokenizer, which mean nothing to another model: these it has its own.
"""

from pathlib import Path
from typing import Any

from migrl.engines.engine import Task
from migrl.engines.server.ask import Rows, ask_server
from migrl.engines.server.ledger import add_up
from migrl.models.decoding import Completion, Decoding
from migrl.models.inputs import ModelInput
from migrl.recipe import ServerSettings

CHOICES = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
"""What a decoding chooses beside the limit."""


class ServerEngine:
    """`section` is where the recipe names the server, `replies` the log, `home` where the run is asked to stop."""

    config = None
    dtype = "not told"

    def __init__(self, settings: ServerSettings, section: str, task: Task, replies: Path, home: Path) -> None:
        self.settings, self.section, self.task, self.replies, self.home = settings, section, task, replies, home
        self.device = settings.base_url
        self.rows: Rows = []

    def answer(self, batch: list[ModelInput], decoding: Decoding) -> list[list[Completion]]:
        """
        Raises:
            UserError: as `ask_server`.
        """
        asked = ask_server(self.settings, self.section, batch, decoding, self.replies, self.home)
        self.rows = [row for some in asked for row in some]
        self.device = ", ".join(sorted({one["base_url"] for one in self._served_by})) or self.device
        return [[self._read(row["reply"]) for row in some] for some in asked]

    @property
    def _served_by(self) -> list[dict[str, Any]]:
        """Who replied, by each reply."""
        return [row["served_by"] for row in self.rows if "served_by" in row]

    def _read(self, reply: dict[str, Any]) -> Completion:
        """Where a server does not count its tokens, the base model's tokenizer does."""
        text, tokens = reply["completion"], reply["completion_tokens"]
        if tokens is None:
            tokens = len(self.task.processor.tokenizer(text).input_ids)
        return Completion(text, tokens, reply["truncated"], bool(reply.get("unanswered")))

    def add_up(self) -> dict[str, Any]:
        """The ledger of all that was answered, in earlier runs too."""
        return add_up(self.rows, self.settings)

    def describe(self) -> dict[str, Any]:
        """What evidence holds of the server: the names it gave, how pictures were sent, what it decides itself."""
        names = {
            key: sorted({one[key] for one in self._served_by if one[key]}) for key in ("model", "system_fingerprint")
        }
        frame = self.task.items[0].frame
        return {
            "model": self.settings.model,
            "models": names["model"],
            "fingerprints": names["system_fingerprint"],
            "pictures": "original" if frame == "original_px" else "resized",
            "untold": self.untold,
        }

    @property
    def untold(self) -> list[str]:
        """What other engines are told of the decoding and this one is not."""
        return [name for name in (*CHOICES, "end_tokens", "suppressed_tokens") if name not in self.settings.sent]

    def describe_decoding(self) -> dict[str, Any]:
        """All that decides a completion beside model, prompt and limit; None where the server decides."""
        described: dict[str, Any] = self.task.decoding.describe([], []) | dict.fromkeys(self.untold)
        return described if "temperature" in self.settings.sent else described | {"do_sample": None}
