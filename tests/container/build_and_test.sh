#!/usr/bin/env bash
# Build the image for real, on a Debian made by debootstrap, and run the tests and the test recipe in it.
#
#   tests/container/build_and_test.sh [FOLDER]     as root, with buildah and debootstrap; no engine has to run
#
# The Dockerfile is the one that is shipped, with BASE, FLASH_ATTN=0 and VLLM=0 as the only differences. Everything is made in a
# new folder below FOLDER (default /tmp, 20 GB), from a copy of this checkout, and removed again. The checks run as a
# user that the image does not know.
set -euo pipefail

suite=bookworm # Python 3.11
user=12345:12345
checkout=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${1:-/tmp}/migrl-image.XXXXXX")
chmod 755 "$work"

engine="buildah --root $work/storage --runroot $work/state --storage-driver overlay"
$engine info >/dev/null 2>&1 || engine=${engine/overlay/vfs}

clean_up() {
  $engine rm --all >/dev/null
  $engine rmi --all --force >/dev/null
  rm -rf "$work"
}
trap clean_up EXIT

step() {
  echo "== $1 ($((SECONDS)) s)"
}

in_image() {
  make --no-print-directory image-run ENGINE="$engine" TAG=migrl-test GPUS=none \
    RUN_FLAGS="--isolation chroot --user $user" CMD="$1"
}

step "base: $suite"
debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/base" >"$work/debootstrap.log" 2>&1 ||
  { tail -n 20 "$work/debootstrap.log" >&2 && exit 1; }
# A machine behind an inspecting proxy has certificates of its own: they belong to the base, not to the Dockerfile.
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$work/base/usr/local/share/ca-certificates/" \;
chroot "$work/base" update-ca-certificates >/dev/null 2>&1
certificates=/etc/ssl/certs/ca-certificates.crt
base=$($engine from scratch)
$engine add --quiet "$base" "$work/base" / >/dev/null
$engine config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  --env SSL_CERT_FILE=$certificates --env PIP_CERT=$certificates "$base"
$engine commit --quiet --rm "$base" localhost/migrl-base >/dev/null
rm -rf "$work/base"

step "source: the commit, with what is changed and not ignored"
git clone --quiet "$checkout" "$work/tree"
cd "$checkout"
git ls-files --cached --others --exclude-standard -z | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --create --null --files-from - | tar --extract --directory "$work/tree"
cd "$work/tree"
mkdir -p runs data
chmod -R a+rwX runs data results

step "make image"
make --no-print-directory image ENGINE="$engine" TAG=migrl-test BASE=localhost/migrl-base FLASH_ATTN=0 VLLM=0 \
  BUILD_FLAGS="--isolation chroot --pull-never --quiet"
$engine images

step "FLASH_ATTN=1 without nvcc is refused"
if make --no-print-directory image ENGINE="$engine" TAG=never BASE=localhost/migrl-base FLASH_ATTN=1 VLLM=0 \
  BUILD_FLAGS="--isolation chroot --pull-never --quiet" >"$work/refused.log" 2>&1; then
  echo "built without flash-attn, although it was asked for" >&2
  exit 1
fi
grep "needs nvcc" "$work/refused.log"

step "make setup finds nothing to do, and the source is read-only"
in_image 'make setup | grep "Nothing to be done" && ! touch src/migrl/x 2>/dev/null && id -u'

step "unit, golden and claims tests"
in_image 'python -m pytest -q tests --ignore=tests/smoke'

step "the whole pipeline on the test recipe, and what it would publish"
in_image 'migrl reproduce --recipe test && migrl publish --recipe test --to owner/name --allow-dirty'

step "the manifest names the image"
python3 - "$(git rev-parse HEAD)" results/test/manifest.json runs/.image-* <<'END'
import json, pathlib, sys
revision, manifest, note = sys.argv[1:]
facts = json.loads(pathlib.Path(manifest).read_text())
digest = pathlib.Path(note).read_text().strip()
image = facts["image"]
assert image["digest"] == digest, image
assert image["base"] == "localhost/migrl-base", image
assert facts["git_revision"] == image["revision"] == revision, (facts["git_revision"], image, revision)
print(json.dumps(image))
END

step "archive"
make --no-print-directory image-archive ENGINE="$engine" TAG=migrl-test ARCHIVE="$work/migrl-image.tar"
(cd "$work" && sha256sum --check --quiet migrl-image.tar.sha256)
ls -l "$work/migrl-image.tar"

step "done"
