"""The code and the machine behind a report, as a short table: what a link to the revision leads to."""

from collections.abc import Mapping
from typing import Any

from migrl.report.text import is_number

NOTHING = "not recorded"


def list_code_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of revision, lock, image, Python, GPUs, seeds and the time of all stages together.

    Args:
        facts: provenance as `describe_provenance` gives it; what it does not hold is said to be not recorded.
    """
    machine = facts.get("machine") or {}
    dirty = {True: "yes", False: "no"}.get(facts.get("dirty"), NOTHING)  # type: ignore[arg-type]
    return [
        ("git revision", facts.get("git_revision") or NOTHING),
        ("uncommitted changes", dirty),
        ("SHA-256 of requirements.lock", facts.get("lock_sha256") or NOTHING),
        ("container image", _tell_image(facts["image"]) if "image" in facts else NOTHING),
        ("Python", machine.get("python") or NOTHING),
        ("GPUs", _tell_gpus(machine)),
        ("seeds", _tell_seeds(facts.get("seeds") or {})),
        ("wall time of all stages", _tell_seconds(facts.get("seconds"))),
        ("GPU time of all stages", _tell_seconds(facts["gpu_seconds"] or 0) if "gpu_seconds" in facts else NOTHING),
    ]


def _tell_image(image: Any) -> str:
    if isinstance(image, Mapping):
        return ", ".join(f"{key} {value}" for key, value in image.items() if value is not None)
    return str(image) if image else "none"


def _tell_gpus(machine: Mapping[str, Any]) -> str:
    """Names with driver and CUDA, or why they are not known."""
    gpus = machine.get("gpus")
    if not gpus:
        return "none" if "gpus" in machine else NOTHING
    names = gpus.get("names") or []
    words = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    words += [f"{key} {gpus[key]}" for key in ("driver", "cuda", "error") if gpus.get(key)]
    return ", ".join(words)


def _tell_seeds(seeds: Mapping[str, Any]) -> str:
    """Sections by their seed, then the further training seeds."""
    sections: dict[Any, list[str]] = {}
    for name, seed in seeds.items():
        if name != "further":
            sections.setdefault(seed, []).append(name)
    words = [f"{seed} ({', '.join(names)})" for seed, names in sections.items()]
    words += [f"further training seeds {', '.join(map(str, seeds['further']))}"] if seeds.get("further") else []
    return "; ".join(words) or NOTHING


def _tell_seconds(seconds: Any) -> str:
    return f"{seconds:,.0f} s ({seconds / 3600:.2f} h)" if is_number(seconds) else NOTHING
