"""Wheels for a machine without a network, whose Python already has torch: everything of the lock that it lacks.

    python reproduce/offline/wheels.py --out wheels [--have list.txt] [--python 3.12]     # make wheels
    python reproduce/offline/wheels.py --check                                            # make setup-offline ends so

`list.txt` is what `pip list --format=freeze` prints on that machine; without it, it is taken to have GIVEN and what
only these need. Hashes are the lock's.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Set
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
GIVEN = frozenset(
    "torch torchvision transformers peft accelerate safetensors tokenizers huggingface-hub numpy scipy pillow pyarrow"
    " tensorboard ninja".split()
)
WANTED = ("migrl", "pytest", "pytest-timeout", "hypothesis")
FROM_SOURCE = ("deepspeed",)
"""Published as source alone. Its wheel has no compiled part: what it compiles, it compiles where it runs."""
PLATFORMS = [f"manylinux_2_{number}_x86_64" for number in (28, 27, 26, 24, 17, 12, 5)]
PLATFORMS += [f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")]


def main() -> None:
    """Entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "wheels", help="where to; older wheels there are removed")
    parser.add_argument("--have", type=Path, help="what the other machine has, as pip list --format=freeze prints it")
    parser.add_argument("--python", default="3.12", help="the other machine's version of Python")
    parser.add_argument("--check", action="store_true", help="only say what this environment lacks of the lock")
    options = parser.parse_args()
    if options.check:
        sys.exit(check_environment())
    have = read_names(options.have) if options.have else GIVEN
    blocks = read_lock(LOCK, options.python)
    collect_wheels([blocks[name] for name in sorted(find_needs(options.python, have) - {"migrl"})], options)


def read_names(path: Path) -> set[str]:
    """Names in a list of packages, one `name==version` or `name @ place` a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        sys.exit(f"error: {path}: cannot be read ({error.strerror}); make it with pip list --format=freeze")
    names = {canonicalize_name(re.split(r"[=@ ]", line.strip())[0]) for line in lines if line.strip()}
    if "torch" not in names:
        sys.exit(
            f"error: {path}: names no torch, so it is no list of such a machine; make it with pip list --format=freeze"
        )
    return names


def find_needs(python: str, have: Set[str]) -> set[str]:
    """All that WANTED needs on Linux with this version of Python, by what is installed here.

    What the machine has is left out, with what it needs in its turn.
    """
    environment = describe_target(python)
    found: set[str] = set()
    waiting = list(WANTED)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found or name in have:
            continue
        found.add(name)
        try:
            needs = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [need.name for need in map(Requirement, needs) if is_needed(need, environment)]
    return found


def describe_target(python: str) -> dict[str, str]:
    """The other machine in the words of markers."""
    return {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}


def is_needed(need: Requirement, environment: dict[str, str]) -> bool:
    """Whether a requirement holds there; extras are nobody's."""
    return need.marker is None or need.marker.evaluate(environment)


def read_lock(path: Path, python: str) -> dict[str, str]:
    """Each package's pin and hashes in a lock, by its name, for one version of Python.

    Without their markers, which pip reads as for the Python that it runs on.
    """
    blocks: dict[str, str] = {}
    name = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"[a-z0-9]", line):
            pin = Requirement(line.rstrip("\\ "))
            name = canonicalize_name(pin.name) if is_needed(pin, describe_target(python)) else None
            if name:
                blocks[name] = f"{pin.name}{pin.specifier} \\\n"
        elif name and line.lstrip().startswith("--hash"):
            blocks[name] += f"{line}\n"
    return blocks


def collect_wheels(blocks: list[str], options: argparse.Namespace) -> None:
    """Download, or build, a wheel for each block of the lock, and print their sizes."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob("*.whl"):
        path.unlink()  # two versions of one package stop the whole installation
    short = options.python.replace(".", "")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    where = ["--python-version", options.python, "--implementation", "cp", "--abi", f"cp{short}", "--abi", "abi3"]
    where += ["--abi", "none", *(word for platform in PLATFORMS for word in ("--platform", platform))]
    with TemporaryDirectory() as folder:
        for kind, command in (
            (False, [*pip, "download", "--only-binary=:all:", *where, "--dest", str(out)]),
            (True, [*pip, "wheel", "--wheel-dir", str(out)]),
        ):
            chosen = [block for block in blocks if block.startswith(FROM_SOURCE) == kind]
            lines = Path(folder, "requirements.txt")
            lines.write_text("".join(chosen), encoding="utf-8")
            if chosen and subprocess.run([*command, "--no-deps", "--require-hashes", "-r", str(lines)]).returncode:
                sys.exit("error: pip could not bring every wheel; its words are above")
    wheels = sorted(out.glob("*.whl"), key=lambda path: path.stat().st_size, reverse=True)
    for path in wheels:
        print(f"{path.stat().st_size / 2**20:8.2f} MiB  {path.name}")
    print(f"{sum(path.stat().st_size for path in wheels) / 2**20:8.2f} MiB  {len(wheels)} wheels in {out}")


def check_environment() -> int:
    """Print what this environment lacks, and what it has in another version than the lock; 1 if something is missing.

    What torch and the other GIVEN need is their own matter: a build of torch may hold it.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    locked = {name: block.partition("==")[2].split()[0] for name, block in read_lock(LOCK, python).items()}
    missing, others = [], []
    for name in sorted({*find_needs(python, GIVEN), *GIVEN}):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version != locked.get(name, version):
            others.append(f"{name} {version} (lock: {locked[name]})")
    if others:
        print(f"other versions than the lock's: {', '.join(others)}")
    if missing:
        print(f"missing: {', '.join(missing)}; make wheels HAVE=list.txt, with this machine's pip list --format=freeze")
    return 1 if missing else 0


if __name__ == "__main__":
    main()
