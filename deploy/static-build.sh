#!/usr/bin/env bash
# Builds the three programs of the agent's image, each as one file that runs in any container of this
# architecture, whatever its C library: ha-agent, haclt, ha-guard.
#
#   deploy/static-build.sh [DIRECTORY]     build, and put them there (default: target/image)
#   deploy/static-build.sh --dependencies  only build what they depend on
#
# The image's build stage calls it, and so does deploy/build-image.sh on a machine that has Rust but no
# image of it. CARGO names another cargo than the one in PATH.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}

die() { printf 'static-build: error: %s\n' "$*" >&2; exit 1; }

type -P "$cargo" >/dev/null || die "cannot build: there is no $cargo (Rust) in PATH"
host=$(rustc -vV | sed -n 's/^host: //p')
[[ $host == *-linux-gnu || $host == *-linux-musl ]] || die "cannot build for $host: only for Linux"

# A target is named, although it is our own: so these flags reach the programs, not the build scripts.
build() {
    env -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="-C target-feature=+crt-static" \
        "$cargo" build --locked --target "$host" "$@"
}
build --release -p ha-agent -p haclt
build --profile guard -p ha-guard
[[ ${1:-} != --dependencies ]] || exit 0

out=${1:-target/image}
mkdir -p "$out"
for program in release/ha-agent release/haclt guard/ha-guard; do
    # Beside its place and renamed: a running program keeps the file it was started from.
    install -m 0755 "$target/$host/$program" "$out/${program##*/}.new"
    mv "$out/${program##*/}.new" "$out/${program##*/}"
done
