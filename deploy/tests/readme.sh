#!/usr/bin/env bash
# Executes the commands of deploy/README.md, in their order, as somebody would type them.
#
#   deploy/tests/readme.sh [host | hosts | pair]    the one-host cluster (default), the three hosts, or a pair
#                                                   of containers that were there before
#
# Each block that is to run has a line above it: <!-- run: PLACE -->. The commands run in copies of this
# directory, with other names and ports than the ones that are shown, so that nothing of the caller's is
# touched; `ssh` and `scp` between the three "hosts" are stand-ins that go to the other copies.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
part=${1:-host}
major=${MAJOR:-17}
image=$(agent_image "$major")
need_image "$image" "deploy/build-image.sh $major"
proxy=$(proxy_image)
# Ports and addresses of this run alone.
ports=$((30000 + $$ % 270 * 10))
readonly ports
readme=$deploy/README.md

# Prints the blocks as NUL-separated records: the place, a newline, the commands.
blocks() {
    awk '/^<!-- run: / {place = $0; sub(/^<!-- run: /, "", place); sub(/ -->$/, "", place); next}
        /^```sh$/ && place {inside = 1; text = ""; next}
        /^```$/ && inside {printf "%s\n%s%c", place, text, 0; inside = 0; place = ""}
        inside {text = text $0 "\n"}' "$readme"
}
# Every block that a reader would type has to be among them.
[[ $(grep -c '^```sh$' "$readme") == "$(grep -c '^<!-- run: ' "$readme")" ]] || fail "a block of README.md has no place to run"

# Places are directories; what a place's shell must not share with another is in its environment.
mkdir "$scratch/bin"
for place in host n1 n2 n3 pair; do
    mkdir -p "$scratch/$place/haclt"
    cp -r "$deploy" "$scratch/$place/haclt/deploy"
    rm -rf "$scratch/$place/haclt/deploy/.env" "$scratch/$place/haclt/deploy/secrets"
    # The image is there; compiling it again is another test's business.
    printf '#!/bin/sh\ndocker tag "%s" "haclt/agent:%s"\n' "$image" "$run_id" >"$scratch/$place/haclt/deploy/build-image.sh"
done
docker tag "$image" "haclt/agent:$run_id"

# Addresses of "hosts", on an interface of our own.
readonly network=10.91.$(($$ % 200 + 20))
cat >"$scratch/bin/ssh" <<SH
#!/bin/sh
host=\$1; shift
cd "$scratch/n\${host##*.}" && exec "\$@"
SH
cat >"$scratch/bin/scp" <<SH
#!/bin/sh
for last; do :; done
host=\${last%%:*}
to="$scratch/n\${host##*.}/\${last#*:}"
set -- "\$@" "\$to"
# All but the last but one, which is the remote name.
for word; do [ "\$word" = "\$last" ] || set -- "\$@" "\$word"; shift; done
exec cp "\$@"
SH
chmod +x "$scratch"/bin/*

interface=""
at_end() {
    local place
    for place in host n1 n2 n3 pair; do
        # shellcheck disable=SC2016 # It is expanded there.
        [[ ! -e $scratch/$place/started ]] || in_place "$place" '
            for file in compose.yaml compose.node.yaml; do
                for profile in data witness; do
                    COMPOSE_PROFILES=$profile docker-compose -f $file down -v --remove-orphans -t 5
                done
            done' >/dev/null 2>&1 || true
    done
    # A tool's container that an agent could not remove any more holds the volumes of its database.
    docker ps --all --quiet --filter label=org.haclt.tool |
        xargs --no-run-if-empty docker inspect --format '{{.Id}} {{index .Config.Labels "org.haclt.data-dir"}}' |
        awk -v ours="$run_id" 'index($2, ours) {print $1}' | xargs --no-run-if-empty docker rm -f -v >/dev/null
    docker volume ls --quiet | grep "^$run_id" | xargs --no-run-if-empty docker volume rm >/dev/null
    rm -rf --one-file-system "/run/haclt/$run_id"*
    docker rmi "haclt/agent:$run_id" >/dev/null 2>&1
    [[ -z $interface ]] || ip link delete "$interface"
}

# Runs commands in a place, with the names, images and ports of this check.
in_place() {
    (
        cd "$scratch/$1/haclt/deploy" || exit
        export PATH=$scratch/bin:$PATH COMPOSE_PROJECT_NAME=$run_id
        [[ $1 == host ]] || export COMPOSE_PROJECT_NAME=$run_id-$1
        export HACLT_AGENT_IMAGE=haclt/agent:$run_id HACLT_POSTGRES_IMAGE=${HACLT_POSTGRES_IMAGE:-postgres:$major}
        export HACLT_PROXY_IMAGE=$proxy
        export HACLT_N1_POSTGRES_PORT=$((ports + 4)) HACLT_N2_POSTGRES_PORT=$((ports + 5))
        export HACLT_N1_GRPC_PORT=$((ports + 1)) HACLT_N2_GRPC_PORT=$((ports + 2)) HACLT_N3_GRPC_PORT=$((ports + 3))
        exec bash -euo pipefail -c "$2" </dev/null
    )
}

if [[ $part == hosts ]]; then
    ip link add "hc$$" type bridge
    interface=hc$$
    for n in 1 2 3; do ip address add "$network.$n/24" dev "$interface"; done
    ip link set "$interface" up
fi
# An ordinary pair, as its owner has it: containers shop-primary and shop-replica, their volumes and data.
make_pair() {
    local name=$run_id-shop data=/var/lib/postgresql/data
    docker network create --label "$label" "$name" >/dev/null
    for volume in primary replica; do docker volume create --label "$label" "${name}_$volume" >/dev/null; done
    run_server() {
        start --name "$name-$1" --network "$name" --restart unless-stopped --env POSTGRES_PASSWORD=of-the-shop \
            --volume "${name}_$1:$data" "postgres:$major" >/dev/null
        # The server of the very first start listens on no network.
        within 60 docker exec "$name-$1" pg_isready -q -h 127.0.0.1 || fail "$name-$1 does not start"
    }
    run_server primary
    docker exec --user postgres "$name-primary" sh -c "echo 'host replication all all scram-sha-256' >>$data/pg_hba.conf"
    docker exec --user postgres "$name-primary" psql -qXc 'create table orders as select generate_series(1, 1000) as id' \
        -c 'select pg_reload_conf()' >/dev/null
    docker run --rm --label "$label" --network "$name" --volume "${name}_replica:$data" --user postgres \
        --env PGPASSWORD=of-the-shop "postgres:$major" pg_basebackup -h "$name-primary" -D "$data" -R ||
        fail "could not clone the pair"
    run_server replica
}
[[ $part != pair ]] || make_pair
functions=""
count=0
while IFS= read -r -d '' block; do
    place=${block%%$'\n'*} commands=${block#*$'\n'}
    case $part:$place in host:host | hosts:n? | pair:pair) ;; *) continue ;; esac
    commands=${commands//haclt-n/$run_id-n}
    commands=${commands//haclt\/agent:pg17/haclt\/agent:$run_id}
    for n in 1 2 3; do commands=${commands//127.0.0.1:740$n/127.0.0.1:$((ports + n))}; done
    commands=${commands//10.77.0./$network.}
    commands=${commands//shop-/$run_id-shop-}
    commands=${commands//shop_/$run_id-shop_}
    sed -i "s/10\.77\.0\./$network./" "$scratch/$place/haclt/deploy/.env.example"
    : >"$scratch/$place/started"
    began=$SECONDS
    # Of the same shell, as a reader would have them.
    in_place "$place" "$functions$commands" >"$scratch/out" 2>&1 || {
        printf '%s\n' "$commands" >&2
        tail -n 40 "$scratch/out" >&2
        fail "commands of README.md failed, in place $place"
    }
    functions+=$(grep -E '^[a-z]+\(\) \{.*\}$' <<<"$commands" || true)$'\n'
    count=$((count + 1))
    ok "block $count, place $place, $((SECONDS - began)) s: $(head -n 1 <<<"$commands")"
done < <(blocks)
case $part in host | pair) expected=$(grep -c "^<!-- run: $part -->\$" "$readme") ;; *) expected=$(grep -c '^<!-- run: n. -->$' "$readme") ;; esac
((count == expected)) || fail "$count blocks of README.md were run, and not $expected"
# Given back, and as it was.
if [[ $part == pair ]]; then
    within 60 docker exec "$run_id-shop-replica" pg_isready -q -h 127.0.0.1 || fail "the old replica does not start again"
    for container in primary replica; do
        rows=$(docker exec --user postgres "$run_id-shop-$container" psql -XAtc 'select count(*) from orders')
        [[ $rows == 1000 ]] || fail "$container has $rows rows, and not 1000"
    done
    ok "the pair is as it was, with all its rows"
fi
