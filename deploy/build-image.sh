#!/usr/bin/env bash
# Builds the agent's image for one major version of PostgreSQL.
#
#   deploy/build-image.sh [MAJOR]          default: 17; the image is haclt/agent:pgMAJOR, or
#                                          HACLT_AGENT_IMAGE
#
# The programs are compiled in an image of Rust if there is one or it can be pulled. Otherwise they are
# compiled by this machine's own Rust (deploy/static-build.sh); they are static, so the image is the
# same. HACLT_BUILD=image or HACLT_BUILD=here chooses.
# HACLT_PREBUILT=NAME takes the programs that are in target/NAME already.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly RUST_IMAGE=${HACLT_RUST_IMAGE:-rust:1.95.0-bookworm}
say() { printf 'build-image: %s\n' "$*" >&2; }
die() { say "error: $1"; shift; for hint in "$@"; do say "hint: $hint"; done; exit 1; }

major=${1:-17}
[[ $major =~ ^[0-9]+$ ]] || die "'$major' is not a major version of PostgreSQL" "usage: $0 [MAJOR]"
base=${HACLT_POSTGRES_IMAGE:-postgres:$major}
image=${HACLT_AGENT_IMAGE:-haclt/agent:pg$major}
prebuilt=${HACLT_PREBUILT:-}
docker version >/dev/null 2>&1 ||
    die "cannot reach the Docker engine" "Start it, or let this user use it, then try again."
docker image inspect "$base" >/dev/null 2>&1 || deploy/base-images.sh "$major"

has_rust_image() {
    docker image inspect "$RUST_IMAGE" >/dev/null 2>&1 ||
        timeout --kill-after 5 "${HACLT_PULL_SECONDS:-300}" docker pull --quiet "$RUST_IMAGE" >/dev/null 2>&1
}

[[ -z $prebuilt ]] || HACLT_BUILD=here
case ${HACLT_BUILD:-} in
    image | here) where=$HACLT_BUILD ;;
    '') if has_rust_image; then where=image; else where=here; fi ;;
    *) die "HACLT_BUILD is '$HACLT_BUILD', which is neither image nor here" ;;
esac
arguments=(--build-arg "POSTGRES_IMAGE=$base")
if [[ $where == image ]]; then
    arguments+=(--build-arg "RUST_IMAGE=$RUST_IMAGE")
else
    if [[ -z $prebuilt ]]; then
        say "$RUST_IMAGE is not to be had: building with this machine's Rust"
        prebuilt=image
        deploy/static-build.sh target/image
    fi
    # Any image with a shell will do: nothing is compiled in it.
    arguments+=(--build-arg "RUST_IMAGE=$base" --build-arg "PREBUILT=$prebuilt")
fi
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain 2>/dev/null) ]] || revision+=-changed
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# Stages in which something was compiled make the next build quick; others only take room.
stages=kept
[[ -z $prebuilt ]] || stages=$$-$(date +%s%N)
docker build --file deploy/Dockerfile --tag "$image" "${arguments[@]}" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "STAGES=$stages" \
    --network host . >&2
if [[ $stages != kept ]]; then
    docker images --quiet --filter "label=org.haclt.stages=$stages" | xargs --no-run-if-empty docker rmi >/dev/null || true
fi
say "$image is ready"
