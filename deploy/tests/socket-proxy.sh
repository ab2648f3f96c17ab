#!/usr/bin/env bash
# Whether the proxy before the Docker socket lets through what the agent does, and nothing else.
#
#   deploy/tests/socket-proxy.sh [IMAGE]     default: built of docker-socket-proxy/
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
type -P curl >/dev/null || fail "there is no curl"
postgres=${HACLT_POSTGRES_IMAGE:-postgres:17}
need_image "$postgres" deploy/base-images.sh
image=${1:-$(proxy_image)}

socket=${HACLT_DOCKER_SOCKET:-/var/run/docker.sock}
mkdir "$scratch/api"
ours=$run_id-n1-postgres foreign=$run_id-foreign tool=haclt-pg-rewind-$(printf %016x $$)
start --name "$run_id-proxy" --network none --read-only --cap-drop ALL --security-opt no-new-privileges:true \
    --env "HACLT_CONTAINERS=$run_id-n[12]-postgres" --volume "$socket:/var/run/docker.sock" \
    --volume "$scratch/api:/run/docker-api" "$image" >/dev/null
api=(--silent --show-error --path-as-is --max-time 20 --unix-socket "$scratch/api/docker.sock")
within 15 curl "${api[@]}" --fail http://docker/_ping || fail "the proxy does not answer: $(docker logs "$run_id-proxy" 2>&1 | tail -n 2)"
[[ $(docker exec "$run_id-proxy" grep CapEff /proc/1/status) == *0000000000000000 ]] || fail "the proxy has capabilities"
ok "the proxy runs without a network, without a capability, on a read-only file system"

for name in "$ours" "$foreign"; do
    start --name "$name" --entrypoint sleep "$postgres" 600 >/dev/null
done
ours_id=$(docker inspect --format '{{.Id}}' "$ours")
foreign_id=$(docker inspect --format '{{.Id}}' "$foreign")

# answer METHOD PATH [BODY] — the status code; what was said is in $scratch/answer.
answer() {
    local body=()
    [[ $# -lt 3 ]] || body=(--header 'Content-Type: application/json' --data "$3")
    curl "${api[@]}" --output "$scratch/answer" --write-out '%{http_code}' --request "$1" "${body[@]}" "http://docker$2"
}
allowed() {
    local code
    code=$(answer "$@") || fail "$1 $2: no answer"
    [[ $code == 2?? || $code == 304 ]] || fail "$1 $2 is not allowed: $code $(<"$scratch/answer")"
}
denied() {
    local code
    code=$(answer "$@") || fail "$1 $2: no answer"
    [[ $code == 403 ]] || fail "$1 $2 ${3:-} is allowed: $code $(<"$scratch/answer")"
    grep -q 'administrative rules' "$scratch/answer" || fail "$1 $2 was refused by the engine and not by the proxy"
}

allowed GET /_ping
for path in /version /containers/json?all=1 "/images/$postgres/json" "/containers/$ours/json" \
    "/containers/$ours/logs?stdout=1" "/containers/$ours/archive?path=/etc/passwd" \
    "/containers/$ours_id/json" "/containers/$ours_id/archive?path=%2Fetc%2Fpasswd" \
    "/events?since=1&until=2"; do
    allowed GET "/v1.41$path"
done
allowed POST "/v1.41/containers/$ours/stop?t=1"
allowed POST "/v1.41/containers/$ours/start"
allowed POST "/v1.41/containers/$ours/kill?signal=KILL"
allowed POST "/v1.41/containers/$ours/start"
ok "what the agent asks and orders of its database's container is let through"

create="/v1.41/containers/create?name=$tool"
tool_body() {
    cat <<JSON
{"Image":"$postgres","Cmd":[],"Entrypoint":["cat"],"OpenStdin":true,"StdinOnce":true,"AttachStdin":true,"AttachStdout":true,
"User":"999:999","Labels":{"${label%%=*}":"$run_id"},"HostConfig":{"VolumesFrom":["$ours"],"NetworkMode":"container:$ours_id",
"RestartPolicy":{"Name":"no"},"PidsLimit":128,"SecurityOpt":["no-new-privileges"],"CapDrop":["ALL"]}}
JSON
}
tool_body=$(tool_body | tr -d '\n')
allowed POST "$create" "$tool_body"
allowed POST "/v1.41/containers/$tool/start"
# Attaching turns the connection into a stream: what goes in comes out again.
said=$(python3 - "$scratch/api/docker.sock" "$tool" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(15)
s.connect(sys.argv[1])
s.sendall((f"POST /v1.41/containers/{sys.argv[2]}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n"
           "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").encode())
data = b""
while b"\r\n\r\n" not in data:
    data += s.recv(4096)
print(data.split(b"\r\n")[0].decode())
s.sendall(b"there and back\n")
data = data.split(b"\r\n\r\n", 1)[1]
while b"there and back" not in data:
    data += s.recv(4096)
print("echoed")
PY
) || fail "could not attach to a tool: $said"
[[ $said == *101* && $said == *echoed ]] || fail "attaching does not pass: $said"
allowed DELETE "/v1.41/containers/$tool?force=1&v=1"
ok "a tool is created, attached to as a stream, started, and removed"

for request in "GET /v1.41/containers/$foreign/json" "GET /v1.41/containers/$foreign/logs?stdout=1" \
    "POST /v1.41/containers/$foreign_id/stop" "DELETE /v1.41/containers/$foreign_id" "GET /v1.41/containers/$foreign_id/logs" \
    "POST /v1.41/containers/$foreign/stop" "POST /v1.41/containers/$foreign/kill" "DELETE /v1.41/containers/$foreign" \
    "DELETE /v1.41/containers/$ours" "POST /v1.41/containers/$ours/rename?name=x" "POST /v1.41/containers/$ours/pause" "GET /v1.41/info" \
    "POST /v1.41/containers/$ours/attach" "GET /v1.41/containers/$foreign_id/archive?path=/etc/shadow" \
    "GET /v1.41/containers/$ours/archive?path=/etc/shadow" "GET /v1.41/containers/$ours/archive?path=/etc/passwd&path=/" \
    "PUT /v1.41/containers/$ours/archive?path=/etc/passwd" "GET /v1.41/containers/$ours/export" \
    "GET /v1.41/images/json" "POST /v1.41/images/create?fromImage=x" "DELETE /v1.41/images/$postgres" \
    "GET /v1.41/volumes" "POST /v1.41/volumes/prune" "POST /v1.41/containers/prune" "GET /v1.41/secrets" \
    "POST /v1.41/build" "POST /v1.41/networks/create" "POST /v1.41/swarm/init" "POST /v1.41/session" \
    "GET /v1.41/containers/$ours/../$foreign/json" "GET /v1.41/containers/%2e%2e/info" "GET /v1.41//containers/$foreign/json" \
    "GET /v1.41/images/x/../../containers/$foreign/json"; do
    # shellcheck disable=SC2086 # Two words: method and path.
    denied $request
done
ok "other containers, images, volumes, networks, builds and files are out of reach"

for name in "$ours" "$foreign"; do
    denied POST "/v1.41/containers/$name/exec" '{"Cmd":["true"]}'
done
for name in other "$ours" "haclt-initdb-x%2f" haclt-tool-0000000000000000 haclt-sh-00 "$tool&name=other" "$tool;name=other"; do
    denied POST "/v1.41/containers/create?name=$name" "$tool_body"
done
denied POST "/v1.41/containers/create?n%61me=other&name=$tool" "$tool_body"
denied POST /v1.41/containers/create "$tool_body"
# Each of these in a tool's container that is as it should be otherwise, beside and instead of what is there.
for host in '"Binds":["/:/host"]' '"binds" : ["/:/host"]' '"B\u0069nds":["/:/host"]' '"Privileged":true' \
    '"Mounts":[{"Type":"bind","Source":"/","Target":"/host"}]' \
    '"Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"o":"bind","device":"/","type":"none"}}}}]' \
    '"PidMode":"host"' '"NetworkMode":"host"' '"NetworkMode":"container:'"$foreign"'"' '"CapAdd":["SYS_ADMIN"]' '"capdrop":[]' \
    '"CapDrop" :[]' '"VolumesFrom":["'"$foreign"'"]' '"VolumesFrom":["'"$ours"'","'"$foreign"'"]' '"volumesfrom":["'"$foreign"'"]' \
    '"Devices":[{"PathOnHost":"/dev/vda"}]' '"SecurityOpt":["apparmor=unconfined"]' '"IpcMode":"host"' \
    '"RestartPolicy":{"Name":"always"}'; do
    denied POST "$create" "${tool_body%\}\}},$host}}"
    key=${host%%:*}
    denied POST "$create" "$(sed -E "s/,?${key//\\/\\\\}:(\[[^]]*\]|\{[^}]*\}|\"[^\"]*\")//" <<<"${tool_body%\}\}}"),$host}}"
done
denied POST "$create" "${tool_body/',"CapDrop":["ALL"]'/}"
denied POST "$create" "${tool_body/'"SecurityOpt":["no-new-privileges"],'/}"
denied POST "$create" "${tool_body%\}},\"NetworkingConfig\":{\"EndpointsConfig\":{\"bridge\":{}}}}"
code=$(curl "${api[@]}" --output "$scratch/answer" --write-out '%{http_code}' --request POST --header 'Transfer-Encoding: chunked' \
    --header 'Content-Type: application/json' --data "$tool_body" "http://docker$create")
[[ $code == 403 ]] || fail "a body of unknown length is let through: $code"
denied POST "$create" '{"Image":"'"$postgres"'","Env":["'"$(head -c 70000 /dev/zero | tr '\0' x)"'"]}'
docker inspect "$tool" >/dev/null 2>&1 && fail "one of the refused containers was created"
ok "no container with the host's files, processes, network, devices or more rights; no name but a tool's; no trick with the body"
