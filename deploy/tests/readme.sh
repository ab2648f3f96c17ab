#!/usr/bin/env bash
# Executes the commands of deploy/README.md, in their order, as somebody would type them.
#
#   deploy/tests/readme.sh [host | hosts]    the one-host cluster (default), or the three hosts
#
# Each block that is to run has a line above it: <!-- run: PLACE -->. The commands run in copies of this
# directory, with other names and ports than the ones that are shown, so that nothing of the caller's is
# touched; `ssh` and `scp` between the three "hosts" are stand-ins that go to the other copies.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
part=${1:-host}
major=${MAJOR:-17}
need_image "haclt/agent:pg$major" "deploy/build-image.sh $major"
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
for place in host n1 n2 n3; do
    mkdir -p "$scratch/$place/haclt"
    cp -r "$deploy" "$scratch/$place/haclt/deploy"
    rm -rf "$scratch/$place/haclt/deploy/.env" "$scratch/$place/haclt/deploy/secrets"
    # The image is there; compiling it again is another test's business.
    printf '#!/bin/sh\ndocker tag haclt/agent:pg%s "haclt/agent:%s"\n' "$major" "$run_id" >"$scratch/$place/haclt/deploy/build-image.sh"
done
docker tag "haclt/agent:pg$major" "haclt/agent:$run_id"

# Addresses of "hosts", on an interface of our own.
readonly network=10.91.77
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
    for place in host n1 n2 n3; do
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
        export HACLT_DEBIAN_IMAGE=${HACLT_DEBIAN_IMAGE:-haclt/stand-in-debian:bookworm}
        export HACLT_N1_POSTGRES_PORT=25432 HACLT_N2_POSTGRES_PORT=25433
        export HACLT_N1_GRPC_PORT=27401 HACLT_N2_GRPC_PORT=27402 HACLT_N3_GRPC_PORT=27403
        exec bash -euo pipefail -c "$2" </dev/null
    )
}

if [[ $part == hosts ]]; then
    ip link add "hc$$" type bridge
    interface=hc$$
    for n in 1 2 3; do ip address add "$network.$n/24" dev "$interface"; done
    ip link set "$interface" up
fi
count=0
while IFS= read -r -d '' block; do
    place=${block%%$'\n'*} commands=${block#*$'\n'}
    case $part:$place in host:host | hosts:n?) ;; *) continue ;; esac
    commands=${commands//haclt-n/$run_id-n}
    commands=${commands//haclt\/agent:pg17/haclt\/agent:$run_id}
    commands=${commands//127.0.0.1:740/127.0.0.1:2740}
    commands=${commands//10.77.0./$network.}
    sed -i "s/10\.77\.0\./$network./" "$scratch/$place/haclt/deploy/.env.example"
    : >"$scratch/$place/started"
    began=$SECONDS
    in_place "$place" "$commands" >"$scratch/out" 2>&1 || {
        printf '%s\n' "$commands" >&2
        tail -n 40 "$scratch/out" >&2
        fail "commands of README.md failed, in place $place"
    }
    count=$((count + 1))
    ok "block $count, place $place, $((SECONDS - began)) s: $(head -n 1 <<<"$commands")"
done < <(blocks)
case $part in host) expected=$(grep -c '^<!-- run: host -->$' "$readme") ;; *) expected=$(grep -c '^<!-- run: n. -->$' "$readme") ;; esac
((count == expected)) || fail "$count blocks of README.md were run, and not $expected"
