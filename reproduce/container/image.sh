#!/usr/bin/env bash
# Build, run or keep the image with docker, podman or buildah. The Makefile calls it; reproduce/container/README.md explains.
#
#   image.sh build              the image TAG from the Dockerfile
#   image.sh run COMMAND        a shell command in it, with GPUs, and with runs/, results/ and data/ of this folder
#   image.sh archive FILE       the image as an OCI archive, and its sha256 beside it
#
# The Makefile passes: ENGINE (with global options, if any), TAG, BASE, FLASH_ATTN, VLLM, GPUS, BUILD_FLAGS, RUN_FLAGS.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
  echo "image: $*" >&2
  exit 1
}

# The first engine that answers: a docker client alone, without an engine behind it, is not one.
find_engine() {
  local engine
  for engine in docker podman buildah; do
    if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
      echo "$engine"
      return
    fi
  done
  fail "no docker, podman or buildah answers on this machine; install one, or name it: make image ENGINE=podman"
}

# sha256 of the image's config, which names every layer: the same in every engine, and kept by an archive.
# (Docker with containerd's store gives the digest of the image's index instead.)
print_digest() {
  local id
  case $kind in
    buildah) id=$("${engine[@]}" inspect --type image --format '{{.FromImageID}}' "$TAG") ;;
    *) id=$("${engine[@]}" image inspect --format '{{.Id}}' "$TAG") ;;
  esac || fail "$TAG: no such image in $kind; run: make image"
  echo "sha256:${id#sha256:}"
}

build() {
  local revision="" dirty=null flags=()
  # Of this folder: a repository around an unpacked archive says nothing about it.
  if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$(pwd -P)" ] && revision=$(git rev-parse --verify --quiet HEAD)
  then
    dirty=false
    [ -z "$(git status --porcelain -- src reproduce Dockerfile 'requirements*.lock')" ] || dirty=true
  else
    echo "image: git tells no revision of this folder, so no manifest will name one, and publish will refuse it:" \
      "build in a checkout of your own (git status has to work)" >&2
  fi
  [ -z "$BASE" ] || flags+=(--build-arg "BASE=$BASE")
  [ -z "$FLASH_ATTN" ] || flags+=(--build-arg "FLASH_ATTN=$FLASH_ATTN")
  [ -z "$VLLM" ] || flags+=(--build-arg "VLLM=$VLLM")
  [ "$kind" != buildah ] || flags+=(--layers)
  # BUILD_FLAGS is a list of words.
  # shellcheck disable=SC2086
  "${engine[@]}" build --tag "$TAG" --build-arg "REVISION=$revision" --build-arg "DIRTY=$dirty" "${flags[@]}" \
    $BUILD_FLAGS --file Dockerfile .
  echo "image: $TAG is $(print_digest)"
}

run() {
  local digest note gpu folder flags=()
  digest=$(print_digest)
  mkdir -p runs results data
  note=$PWD/runs/.image-${digest#sha256:}
  echo "$digest" >"$note"
  flags+=(--user "$(id -u):$(id -g)" --volume "$note:/etc/migrl/image-digest:ro")
  for folder in runs results data; do flags+=(--volume "$PWD/$folder:/app/$folder"); done
  if [ "$kind" = buildah ]; then
    [ "$GPUS" = none ] || fail "buildah hands no GPU on; run with docker or podman, or say GPUS=none"
    container=$("${engine[@]}" from --pull-never "$TAG")
    trap '"${engine[@]}" rm "$container" >/dev/null' EXIT # the shell's end: $container is no local
    # shellcheck disable=SC2086
    "${engine[@]}" run "${flags[@]}" $RUN_FLAGS "$container" -- bash -c "$1"
    return
  fi
  # The host's shared memory for NCCL and data loaders; ten minutes to write a checkpoint when the container is
  # stopped; an init process that buries orphans; mounted folders as they are on hosts with SELinux.
  flags+=(--rm --init --ipc=host --stop-timeout 600 --security-opt label=disable)
  if [ -t 0 ] && [ -t 1 ]; then flags+=(--interactive --tty); fi
  if [ "$kind" = podman ] && [ "$(id -u)" != 0 ]; then
    flags+=(--userns=keep-id)
  else
    flags+=(--ulimit memlock=-1 --ulimit stack=67108864) # locked memory for RDMA; only root may raise limits
  fi
  case $kind-$GPUS in
    *-none) ;;
    docker-all) flags+=(--gpus all) ;;
    docker-*) flags+=(--gpus "\"device=$GPUS\"") ;;
    *) for gpu in ${GPUS//,/ }; do flags+=(--device "nvidia.com/gpu=$gpu"); done ;;
  esac
  # bash becomes the command, and SIGTERM reaches it; Debian's sh stays in front, dies, and takes the container along.
  # shellcheck disable=SC2086
  exec "${engine[@]}" run "${flags[@]}" $RUN_FLAGS "$TAG" bash -c "$1"
}

archive() {
  local digest
  digest=$(print_digest)
  mkdir -p "$(dirname "$1")"
  rm -f "$1"
  case $kind in
    docker) "${engine[@]}" save --output "$1" "$TAG" ;;
    podman) "${engine[@]}" save --format oci-archive --output "$1" "$TAG" ;;
    buildah) "${engine[@]}" push "$TAG" "oci-archive:$1:$TAG" ;;
  esac
  # Docker before 25 writes a format of its own.
  tar -tf "$1" oci-layout >/dev/null || fail "$1: not an OCI archive; Docker writes them from version 25 on"
  (cd "$(dirname "$1")" && sha256sum "$(basename "$1")") | tee "$1.sha256"
  echo "image: $1 holds $TAG, $digest"
}

[ -n "${ENGINE:-}" ] || ENGINE=$(find_engine)
read -ra engine <<<"$ENGINE"
kind=$(basename "${engine[0]}")
case $kind in docker | podman | buildah) ;; *) fail "ENGINE=$ENGINE: not docker, podman or buildah" ;; esac
case ${1:-} in
  build) build ;;
  run) run "$2" ;;
  archive) archive "$2" ;;
  *) fail "say build, run COMMAND or archive FILE" ;;
esac
