#!/usr/bin/env bash
# Whether the agent's image is what the compose files and README.md say of it.
#
#   deploy/tests/image.sh [MAJOR]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
major=${1:-17}
image=$(agent_image "$major") base=${HACLT_POSTGRES_IMAGE:-postgres:$major}
readonly bytes_max=$((60 * 1000 * 1000))
need_image "$image" "deploy/build-image.sh $major"

[[ $(docker image inspect --format '{{json .RootFS.Layers}}' "$image") == "$(docker image inspect --format '{{json .RootFS.Layers}}' "$base" | sed 's/\]$//')"* ]] ||
    fail "$image is not on top of the $base that is here: run deploy/build-image.sh $major"
# An image of a development build, as the gate makes it, is larger, and its agent needs a C library.
release=yes
[[ -z ${HACLT_CHECK_DEVELOPMENT:-} ]] || release=no
bytes=$(($(docker image inspect --format '{{.Size}}' "$image") - $(docker image inspect --format '{{.Size}}' "$base")))
[[ $release == no ]] || ((bytes <= bytes_max)) || fail "$image has $bytes bytes beyond $base, more than $bytes_max"
ok "it shares every layer of $base and adds $((bytes / 1000000)) MB"

[[ $(docker image inspect --format '{{.Config.User}} {{.Config.StopSignal}} {{json .Config.Entrypoint}}' "$image") == 'postgres SIGTERM ["ha-agent"]' ]] ||
    fail "account, stop signal or entry point"
docker image inspect --format '{{json .Config.Labels}}' "$image" | grep -q '"org.opencontainers.image.title":"haclt agent"' || fail "no labels"
docker image inspect --format '{{json .Config.Healthcheck.Test}}' "$image" | grep -q haclt || fail "no health check"
ok "an ordinary account, a stop signal, labels, a health check"

for program in ha-agent haclt; do
    docker run --rm --label "$label" --entrypoint "$program" "$image" --version | grep -q "^$program " || fail "$program does not run"
done
docker run --rm --label "$label" --entrypoint pg_receivewal "$image" --version | grep -q " $major\." || fail "no pg_receivewal $major"
ok "the programs run, and pg_receivewal is of major $major"

if [[ $release == no ]]; then
    echo "not checked, as this is a development build: its size; that agent and haclt need no library"
    exit 0
fi
# An image without any library: what runs there runs in every variant of the official image.
docker create --label "$label" --name "$run_id-from" "$image" >/dev/null
mkdir -p "$scratch/root/etc"
docker cp -q "$run_id-from:/usr/local/bin/haclt" "$scratch/root/haclt"
docker cp -q "$run_id-from:/usr/local/bin/ha-agent" "$scratch/root/ha-agent"
docker cp -q "$run_id-from:/usr/lib/haclt/ha-guard" "$scratch/root/ha-guard"
tar -C "$scratch/root" -c . | docker import --change "LABEL $label" - "$run_id-empty" >/dev/null
at_end() { docker rmi --force "$run_id-empty" >/dev/null; }
docker network create --label "$label" "$run_id" >/dev/null
cat >"$scratch/agent.toml" <<'TOML'
cluster = "check"
node = "w1"
kind = "witness"
data_dir = "/data"
[listen]
grpc = "0.0.0.0:7400"
[peers]
w1 = "some-name:7400"
TOML
start --name "$run_id-agent" --network "$run_id" --network-alias some-name --tmpfs /data \
    --volume "$scratch/agent.toml:/agent.toml:ro" "$run_id-empty" /ha-agent --config /agent.toml >/dev/null
named() { docker run --rm --label "$label" --network "$run_id" "$run_id-empty" /haclt --endpoint some-name:7400 status; }
within 30 named || fail "without any library, haclt could not reach an agent by its name: $(docker logs "$run_id-agent" 2>&1 | tail -n 3)"
docker run --rm --label "$label" "$run_id-empty" /ha-guard --version >/dev/null || fail "the guard does not run without libraries"
ok "the programs need no library, and find each other by name without one"
