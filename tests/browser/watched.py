"""What the browser tests share: a page that is watched, and samples that try to break out of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page
from report_rows import make_row, write_images

from migrl.scoring.rows import EvaluationRow

SCRIPT = "<script>window.ran = 1; alert(1)</script>"
HOSTILE = {
    "script": f"</span></div></article>{SCRIPT}",
    "onerror": '"><img src="http://127.0.0.1:9/x.png" onerror="window.ran = 2"><svg onload="window.ran = 3">',
    "style": f"</style>{SCRIPT}<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "template": "{{ 7 * 7 }}{% raw %}${window.ran = 4}",
    "rtl": "<answer>\u202e\u2066)B(</answer> \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u200f",
    "long": f"<think>{'W' * 1_000_000}{SCRIPT}</think><answer>(A)</answer>",
}


@dataclass
class Watched:
    """A page, and what it must not do: complain, open a dialog, ask anything but itself and its own data."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert self.faults == []
        assert self.page.evaluate("window.ran") is None

    def shown(self) -> list[str]:
        """Uids of the samples that are visible."""
        return self.page.locator(".sample:not([hidden]) .uid").all_text_contents()

    def set(self, **filters: str) -> None:
        for name, value in filters.items():
            self.page.select_option(f"#filters [name={name}]", value)


def make_hostile(images: Path) -> list[EvaluationRow]:
    """A task whose name, questions and completions all try to break out."""
    rows = []
    for k, (name, text) in enumerate(HOSTILE.items()):
        changes = {"task": f"<b onclick='window.ran = 5'>&\"{SCRIPT}", "question": f"{name}: {text[:300]}"}
        rows += [
            make_row(f"bad:{name}:{k}", arm, hit=False, completion=text, **changes) for arm in ("base", "sft", "rl")
        ]
    write_images(rows, images)
    return rows


Opener = Callable[..., Watched]
