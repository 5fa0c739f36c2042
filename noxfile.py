"""What CI runs. `nox` runs all sessions on each Python that is present; `nox -s unit-3.12 -- -k iou` one of them.

People use the Makefile. Every session installs the hashed lock, with uv where there is one.
"""

import nox

PYTHONS = ["3.11", "3.12"]
VOCABULARY = "boxes answers prompts records errors stats scores claims recipe evidence pipeline".split()

nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False


def install_lock(session: nox.Session) -> None:
    """Exactly the versions of requirements.lock, then this project on top."""
    session.install("--require-hashes", "-r", "requirements.lock")
    session.install("--no-deps", "--no-build-isolation", "-e", ".")


@nox.session(python=PYTHONS)
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    install_lock(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=PYTHONS)
def types(session: nox.Session) -> None:
    """Mypy, strict, on the modules that everything else stands on."""
    install_lock(session)
    session.run("mypy", "--strict", *(f"src/migrl/{name}.py" for name in VOCABULARY))


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """Unit, golden and claims tests: seconds, no GPU."""
    install_lock(session)
    session.run("pytest", "tests", "--ignore=tests/smoke", "--ignore=tests/gpu", *session.posargs)


@nox.session(python=PYTHONS)
def smoke(session: nox.Session) -> None:
    """The pipeline for real on the test recipe: minutes, no GPU."""
    install_lock(session)
    session.run("pytest", "tests/smoke", *session.posargs)


@nox.session(python=PYTHONS)
def claims(session: nox.Session) -> None:
    """The committed evidence: recomputed from its samples, and its verdicts tested."""
    install_lock(session)
    session.run("migrl", "verify", "results/tiny")
    session.run("pytest", "tests/claims", *session.posargs)
