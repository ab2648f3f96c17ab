#!/usr/bin/env bash
# Whether the compose files are valid for docker-compose 1.29 and for Compose v2, as far as these are
# here. HACLT_COMPOSE names more programs to try, separated by spaces.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

composers=()
! type -P docker-compose >/dev/null || composers+=(docker-compose)
! docker compose version >/dev/null 2>&1 || composers+=("docker compose")
for extra in ${HACLT_COMPOSE:-}; do composers+=("$extra"); done
((${#composers[@]})) || fail "there is no docker-compose and no docker compose"

# Nothing of the caller's may decide.
unset COMPOSE_PROJECT_NAME COMPOSE_PROFILES COMPOSE_FILE "${!HACLT_N@}" HACLT_CLUSTER HACLT_ADDRESS
: >"$scratch/none.env"
for composer in "${composers[@]}"; do
    # shellcheck disable=SC2086 # `docker compose` is two words.
    config() { $composer --env-file "$1" "${@:2}" config >"$scratch/config" 2>"$scratch/errors"; }
    version=$($composer version --short 2>/dev/null || true)

    config "$scratch/none.env" -f "$deploy/compose.yaml" || fail "$composer: compose.yaml: $(<"$scratch/errors")"
    [[ ! -s $scratch/errors ]] || fail "$composer: compose.yaml: $(<"$scratch/errors")"
    # Version 2 names a project after its directory; the container's name and the agent's must agree.
    name=$(sed -n 's/^ *container_name: \(.*-n1-postgres\)$/\1/p' "$scratch/config")
    grep -q "HA_POSTGRES_CONTAINER: $name\$" "$scratch/config" || fail "$composer: the agent is told of another container than $name"
    # Rule 102 needs more than a policy: no database without the guard as its first process.
    [[ $(grep -c 'ha-guard$' "$scratch/config") -ge 2 ]] || fail "$composer: a database without a guard"
    ok "compose.yaml, alone, is good for $composer $version"

    config "$scratch/none.env" -f "$deploy/compose.yaml" -f "$deploy/compose.proxy.yaml" || fail "$composer: compose.proxy.yaml: $(<"$scratch/errors")"
    # The proxy alone has the engine's socket.
    [[ $(grep -cE '^ *source: /var/run/docker.sock$|^ *- /var/run/docker.sock:' "$scratch/config") == 1 ]] ||
        fail "$composer: with the proxy, an agent still has the engine's socket"
    ok "with compose.proxy.yaml only the proxy has the engine's socket, says $composer"

    for profile in data witness; do
        sed "s/^COMPOSE_PROFILES=.*/COMPOSE_PROFILES=$profile/" "$deploy/.env.example" >"$scratch/env"
        config "$scratch/env" -f "$deploy/compose.node.yaml" || fail "$composer: compose.node.yaml, $profile: $(<"$scratch/errors")"
        ok "compose.node.yaml with .env.example as a $profile node is good for $composer"
    done
    config "$scratch/none.env" -f "$deploy/compose.node.yaml" && fail "$composer: a missing setting was not noticed"
    grep -q 'is not set in .env' "$scratch/errors" || fail "$composer: wrong words: $(<"$scratch/errors")"
    ok "a setting that is missing is named by $composer"
done
