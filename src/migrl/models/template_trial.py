"""Render chat templates within bounds on time, memory and text: the process that chat_template.py starts.

The environment is that of transformers 5.17 (utils/chat_template_utils.py), whose import takes ten times as long as all
of this. Input and output are JSON: for each template a line with its file, then one with its fault, or without.
"""

import json
import resource
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 2 << 30
MAX_CHARACTERS = 100_000
BEGINS_THOUGHT = "ends its prompts in <think>, which a completion has to write itself"
"""Of the template of a model that always reasons: no completion would be read."""


class Generation(Extension):
    """The block `{% generation %}`, which marks what an assistant said and adds nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("pass_on"), [], [], body).set_lineno(line)

    def pass_on(self, caller: Macro) -> str:
        return caller()


def make_environment() -> ImmutableSandboxedEnvironment:
    """What a template can use, as transformers has it."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        x: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def limit(kind: int, most: int) -> None:
    """Bound a resource of this process, unless it is bounded lower already."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def find_fault(text: str, conversations: list[Any], tokens: dict[str, str], *, used: bool) -> str | None:
    """What is wrong with a template. One that is not used may refuse to be rendered, as any may a talk that goes on."""
    environment = make_environment()
    for number, messages in enumerate(conversations):
        values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, **tokens}
        try:
            made = environment.from_string(text).render(values)
        except MemoryError:
            return f"needs more than {MEMORY_BYTES >> 30} GB of memory"
        except Exception as error:  # a template may raise whatever Python does
            if used and number == 0:
                return f"cannot be rendered ({type(error).__name__}: {str(error)[:300]})"
        else:
            if len(made) > MAX_CHARACTERS:
                return f"makes {len(made):,} characters of a short question, and may make {MAX_CHARACTERS:,}"
            if used and made.rstrip().endswith("<think>"):
                return BEGINS_THOUGHT
    return None


def main() -> None:
    """Try every template; end at the first with a fault."""
    task = json.load(sys.stdin)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, task["seconds"])
    limit(resource.RLIMIT_AS, MEMORY_BYTES)
    for template in task["templates"]:
        print(json.dumps({"file": template["file"]}), flush=True)
        fault = find_fault(template["text"], task["conversations"], task["tokens"], used=template["used"])
        if fault is not None:
            print(json.dumps({"file": template["file"], "fault": fault}), flush=True)
            return


if __name__ == "__main__":
    main()
