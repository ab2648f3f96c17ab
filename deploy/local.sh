#!/usr/bin/env bash
# The doors `make up`, `make down` and `make status`: a cluster on this machine, to look at and to break.
#
#   deploy/local.sh up | down [--purge] | status
#
# MODE=compose: containers, compose.yaml. MODE=process: processes below ./.haclt (cargo xtask up).
# Without MODE: what is there already; else containers if a Docker engine and Compose answer; else
# processes. HACLT_MAJOR is the major version of PostgreSQL in containers (17).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly PROJECT=${COMPOSE_PROJECT_NAME:-haclt} MAJOR=${HACLT_MAJOR:-17}
readonly HEALTHY_SECONDS=120 ANSWER_SECONDS=5
export COMPOSE_PROJECT_NAME=$PROJECT
export HACLT_POSTGRES_IMAGE=${HACLT_POSTGRES_IMAGE:-postgres:$MAJOR}
export HACLT_AGENT_IMAGE=${HACLT_AGENT_IMAGE:-haclt/agent:pg$MAJOR}
if ((MAJOR >= 18)); then export HACLT_IMAGE_VOLUME=${HACLT_IMAGE_VOLUME:-/var/lib/postgresql}; fi

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $1"; shift; for hint in "$@"; do say "hint: $hint"; done; exit 1; }

engine_answers() { timeout "$ANSWER_SECONDS" docker version >/dev/null 2>&1; }

# Compose v2 is a plugin of `docker`, 1.29 a program of its own.
compose_program() {
    if timeout "$ANSWER_SECONDS" docker compose version >/dev/null 2>&1; then
        echo docker compose
    elif type -P docker-compose >/dev/null; then
        echo docker-compose
    fi
}

# Containers of the project, whoever made them.
containers() { docker ps --all --quiet --filter "label=com.docker.compose.project=$PROJECT"; }
volumes() { docker volume ls --quiet --filter "label=com.docker.compose.project=$PROJECT"; }

choose() {
    case ${MODE:-} in
        process) echo process; return ;;
        compose)
            engine_answers || die "no Docker engine answers" "Start it, or use MODE=process."
            [[ -n $(compose_program) ]] ||
                die "Compose is not installed" "Debian: apt-get install docker-compose. Or use MODE=process."
            echo compose
            return ;;
        '') ;;
        *) die "MODE is '$MODE', which is neither compose nor process" ;;
    esac
    if [[ -e .haclt/cluster.json ]]; then
        echo process
    elif engine_answers && [[ -n $(compose_program) ]]; then
        echo compose
    else
        echo process
    fi
}

compose() {
    local program
    read -ra program <<<"$(compose_program)"
    "${program[@]}" --project-name "$PROJECT" --file deploy/compose.yaml "$@"
}

# Two checkouts must not take each other's containers for their own.
refuse_foreign() {
    local id dir
    for id in $(containers); do
        dir=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.project.working_dir"}}' "$id")
        [[ -z $dir || $dir == "$PWD/deploy" ]] ||
            die "Compose project '$PROJECT' is in use by $dir" \
                "Stop it there, or choose another name: COMPOSE_PROJECT_NAME=… (and other ports: deploy/.env.example)."
    done
}

# An image is of this checkout if it names its commit and nothing was changed since.
image_is_current() {
    local revision
    revision=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' \
        "$HACLT_AGENT_IMAGE" 2>/dev/null) || return 1
    [[ $revision == "$(git rev-parse --short HEAD 2>/dev/null)" && -z $(git status --porcelain 2>/dev/null) ]]
}

status() { compose exec -T "$1" haclt status "${@:2}"; }

await_healthy() {
    local began=$SECONDS shown='' now
    until status n1 --exit-code >/dev/null 2>&1; do
        ((SECONDS - began < HEALTHY_SECONDS)) ||
            die "not healthy within $HEALTHY_SECONDS s: $(status n1 --json 2>&1 | tail -n 1 | cut -c 1-300)" \
                "docker-compose -f deploy/compose.yaml logs n1 n2 n3"
        now=$(status n1 2>/dev/null | head -n 1) || now="waiting for the agents"
        [[ $now == "$shown" ]] || say "  $now"
        shown=$now
        sleep 0.5
    done
    say "healthy after $((SECONDS - began)) s"
}

show() {
    status n1
    cat <<END

Connect:    docker exec -it $PROJECT-n1 sh -c 'PGPASSWORD=\$(cat /etc/haclt/secrets/superuser) exec psql "host=n1-postgres,n2-postgres user=postgres target_session_attrs=read-write"'
            from this machine: host=127.0.0.1,127.0.0.1 port=${HACLT_N1_POSTGRES_PORT:-15432},${HACLT_N2_POSTGRES_PORT:-15433}
Try:        docker kill $PROJECT-n1-postgres      the other database takes over
            docker pause $PROJECT-n1-postgres     and later: docker unpause
            make status; docker exec $PROJECT-n3 haclt explain
            make down; make down PURGE=1 removes all data too
END
}

up() {
    refuse_foreign
    if image_is_current; then
        say "image $HACLT_AGENT_IMAGE is of this commit"
    else
        say "building $HACLT_AGENT_IMAGE"
        deploy/build-image.sh "$MAJOR"
    fi
    say "starting containers"
    compose up --detach
    await_healthy
    show
}

down() {
    [[ -n $(containers) || -n $(volumes) ]] || { say "nothing is running"; return; }
    refuse_foreign
    if [[ ${1:-} == --purge ]]; then
        compose down --volumes --remove-orphans
    else
        compose down --remove-orphans
    fi
}

[[ $# -ge 1 ]] || die "usage: $0 up | down [--purge] | status"
mode=$(choose)
case $mode:$1 in
    compose:up) up ;;
    compose:down) down "${2:-}" ;;
    compose:status)
        [[ -n $(containers) ]] || die "there is no local cluster" "make up"
        status n1 || status n3 ;;
    process:up | process:down | process:status)
        deploy/install-deps.sh
        cargo build --locked --package xtask
        exec cargo xtask "$@" ;;
    *) die "unknown command '$1'" "usage: $0 up | down [--purge] | status" ;;
esac
