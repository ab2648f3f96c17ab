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
