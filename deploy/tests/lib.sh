# shellcheck shell=bash
# What the checks in this directory share. Each is a program of its own, needs a Docker engine and the
# images that it names, prints one line per sentence that it proved, and leaves nothing behind:
# everything it makes carries a label of its own, and only that is removed.
set -euo pipefail

deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export deploy
readonly run_id=haclt-check-$$
readonly label=io.haclt.check=$run_id
scratch=$(mktemp -d "${TMPDIR:-/tmp}/$run_id.XXXXXX")
readonly scratch

ok() { printf 'ok: %s\n' "$*"; }
fail() { printf 'failed: %s\n' "$*" >&2; exit 1; }

# For what a script wants done at its end besides.
at_end() { :; }

clean_up() {
    local status=$? left
    trap - EXIT
    at_end || true
    left=$(docker ps --all --quiet --filter "label=$label")
    # shellcheck disable=SC2086 # Several words on purpose, here and below.
    [[ -z $left ]] || docker rm --force --volumes $left >/dev/null || status=1
    left=$(docker volume ls --quiet --filter "label=$label")
    # shellcheck disable=SC2086
    [[ -z $left ]] || docker volume rm $left >/dev/null || status=1
    left=$(docker network ls --quiet --filter "label=$label")
    # shellcheck disable=SC2086
    [[ -z $left ]] || docker network rm $left >/dev/null || status=1
    rm -rf --one-file-system "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

need_image() {
    docker image inspect "$1" >/dev/null 2>&1 || fail "there is no image $1: run $2"
}

# Prints the image of the agent that is checked: HACLT_CHECK_IMAGE, or what build-image.sh makes.
agent_image() { printf '%s\n' "${HACLT_CHECK_IMAGE:-haclt/agent:pg$1}"; }

# Prints the Debian that things are built on: the official image if it is here or can be pulled, else a
# base of the stand-ins.
debian_image() {
    local image
    for image in debian:bookworm-slim haclt/stand-in-debian:bookworm haclt/stand-in-debian:trixie; do
        ! docker image inspect "$image" >/dev/null 2>&1 || { printf '%s\n' "$image"; return; }
    done
    image=debian:bookworm-slim
    timeout 120 docker pull -q "$image" >/dev/null 2>&1 || fail "there is no image of Debian: run deploy/base-images.sh"
    printf '%s\n' "$image"
}

# Builds the proxy before the Docker socket unless it is there, and prints its image: one for each content
# of its directory.
proxy_image() {
    local image
    image=haclt/docker-proxy:check-$(cat "$deploy"/docker-socket-proxy/* | sha256sum | cut -c 1-12)
    docker image inspect "$image" >/dev/null 2>&1 ||
        docker build --network host --build-arg "BASE_IMAGE=$(debian_image)" --tag "$image" \
            "$deploy/docker-socket-proxy" >"$scratch/build" 2>&1 ||
        fail "could not build $image: $(tail -n 1 "$scratch/build")"
    printf '%s\n' "$image"
}

# Waits until a command succeeds, at most so many seconds.
within() {
    local seconds=$1 until
    shift
    until=$((SECONDS + seconds))
    until "$@" >"$scratch/within" 2>&1; do
        ((SECONDS < until)) || {
            tail -n 5 "$scratch/within" >&2
            return 1
        }
        sleep 0.2
    done
}

# Starts a container of this check; prints its id.
start() { docker run --detach --label "$label" "$@"; }
