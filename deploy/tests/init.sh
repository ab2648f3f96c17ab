#!/usr/bin/env bash
# Whether the one-shot service of the compose files prepares a node's volumes, makes the passwords once,
# and never makes new ones for a database that knows others.
#
#   deploy/tests/init.sh [IMAGE]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
image=${1:-$(agent_image 17)}
need_image "$image" deploy/build-image.sh

for volume in secrets guard database witness agent permits; do
    docker volume create --label "$label" "$run_id-$volume" >/dev/null
done
mounts=(--volume "$run_id-secrets:/etc/haclt/secrets" --volume "$run_id-guard:/opt/haclt/guard"
    --volume "$run_id-agent:/volumes/agent" --volume "$run_id-permits:/volumes/permits"
    --volume "$run_id-database:/volumes/database" --volume "$run_id-witness:/volumes/witness")
node=(--data-node /volumes/agent:/volumes/database:/volumes/permits)
# As in the compose files: root with these capabilities and no other.
init() {
    docker run --rm --label "$label" --user root --network none --cap-drop ALL --cap-add CHOWN \
        --cap-add DAC_OVERRIDE --cap-add FOWNER --security-opt no-new-privileges:true "${mounts[@]}" \
        --entrypoint /usr/lib/haclt/init "$image" --secrets /etc/haclt/secrets --guard /opt/haclt/guard "$@"
}
look() { docker run --rm --label "$label" --user "$1" "${mounts[@]}" --entrypoint sh "$image" -c "$2"; }
passwords() { look root 'cat /etc/haclt/secrets/superuser /etc/haclt/secrets/replication'; }

init "${node[@]}" 2>"$scratch/out" && fail "missing passwords were not noticed"
grep -q 'error: password file /etc/haclt/secrets/replication is missing' "$scratch/out" || fail "wrong words: $(<"$scratch/out")"
ok "without --make-secrets a missing password is an error, and nothing is made up"

init --make-secrets "${node[@]}" --witness /volumes/witness 2>"$scratch/out" || fail "$(<"$scratch/out")"
first=$(passwords)
[[ $(wc -l <<<"$first") == 2 && $first =~ ^[0-9a-f]{40}.[0-9a-f]{40}$ && ${first:0:40} != "${first:41}" ]] || fail "these are no two passwords"
grep -q "${first:0:40}" "$scratch/out" && fail "a password is in the log"
ok "two different passwords of 160 bits are made, and the log does not show them"

[[ $(look root 'stat -c "%n %U:%G %a" /etc/haclt/secrets /etc/haclt/secrets/* /volumes/database /volumes/database/data /volumes/witness /opt/haclt/guard/ha-guard') == \
"/etc/haclt/secrets root:postgres 750
/etc/haclt/secrets/replication root:postgres 640
/etc/haclt/secrets/superuser root:root 600
/volumes/database postgres:postgres 700
/volumes/database/data postgres:postgres 700
/volumes/witness postgres:postgres 700
/opt/haclt/guard/ha-guard root:root 755" ]] || fail "owners or modes: $(look root 'ls -lR /etc/haclt/secrets /volumes')"
look postgres 'cat /etc/haclt/secrets/superuser' >/dev/null 2>&1 && fail "a witness can read the superuser's password"
look postgres 'cat /etc/haclt/secrets/replication' >/dev/null || fail "a witness cannot read its password"
look nobody 'cat /etc/haclt/secrets/replication' >/dev/null 2>&1 && fail "anybody can read a password"
ok "each file has the owner and the mode that it needs"

init --make-secrets "${node[@]}" --witness /volumes/witness 2>"$scratch/out"
[[ $(passwords) == "$first" && ! -s $scratch/out ]] || fail "a second run changed something: $(<"$scratch/out")"
ok "a second run changes nothing and says nothing"

look root 'rm /etc/haclt/secrets/superuser; echo 17 >/volumes/database/data/PG_VERSION'
init --make-secrets "${node[@]}" 2>"$scratch/out" && fail "a new password was made for an old database"
grep -q 'error: .*superuser is missing, but /volumes/database holds a database' "$scratch/out" || fail "wrong words: $(<"$scratch/out")"
ok "a lost password is not replaced while a database knows it"

init --witness /volumes/witness 2>"$scratch/out" || fail "a witness asks for the superuser's password: $(<"$scratch/out")"
ok "a witness needs no superuser's password"

look root 'echo old >/opt/haclt/guard/ha-guard; rm -r /volumes/database/data'
start --name "$run_id-busy" "${mounts[@]}" --entrypoint sleep "$image" 60 >/dev/null
init --make-secrets "${node[@]}" 2>"$scratch/out"
grep -q 'put the guard in its place' "$scratch/out" || fail "an old guard was not replaced"
docker exec "$run_id-busy" /opt/haclt/guard/ha-guard --version | grep -q '^ha-guard ' || fail "the guard does not run"
ok "a guard of another version is replaced, also while its volume is in use"

look root 'cd /volumes; rmdir database/data; touch permits/permit permits/guard.status permits/guard.lock agent/store'
init --make-secrets "${node[@]}"
[[ $(look root 'ls /volumes/permits') == $'guard.lock\nguard.status\npermit' ]] || fail "a living node's permit was removed"
[[ -z $(look root 'ls /volumes/database') ]] || fail "a data directory that vanished was replaced by an empty one"
ok "of a node that has a past, the permit stays, and a lost data directory is not replaced"

look root 'rm /volumes/agent/store'
init --make-secrets "${node[@]}"
[[ $(look root 'ls /volumes/permits /volumes/database') == $'/volumes/database:\ndata\n\n/volumes/permits:\nguard.lock' ]] ||
    fail "a new node got no data directory, or another cluster's permit: $(look root 'ls /volumes/*')"
ok "a new node gets an empty data directory, and no permit of another cluster"
