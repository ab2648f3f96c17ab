#!/usr/bin/env bash
# Makes the certificates of "A kill from outside" (README.md): an authority, one certificate for the engine
# of each host, and one that the agents show.
#
#   deploy/fencing-certificates.sh DIR NODE=HOST…       such as: fencing n1=10.77.0.1 n2=10.77.0.2
#
# DIR/engine-NODE/  for that host alone: engine.pem (certificate and key), ca.pem
# DIR/agent/        for the agents of all hosts: cert.pem, key.pem, ca.pem
# DIR/ca.key        to make more; keep it away from the hosts
#
# They last ten years. What is there already stays: run it again with one host more. Needs openssl.
set -euo pipefail
umask 077
readonly DAYS=3650

say() { printf 'fencing-certificates: %s\n' "$*" >&2; }
die() { say "error: $1"; exit "${2:-1}"; }
usage() { say "usage: ${0##*/} DIR NODE=HOST…"; exit 2; }

(($# >= 2)) || usage
readonly dir=$1
shift
for pair; do
    [[ $pair =~ ^[A-Za-z0-9_-]+=[A-Za-z0-9_.:-]+$ ]] || die "$pair is not NODE=HOST, such as n1=10.77.0.1" 2
done
command -v openssl >/dev/null || die "openssl is not installed"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() { "$@" 2>"$log" || die "openssl failed: $(tail -n 1 "$log")"; }
new_key() { run openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# Makes a key and its certificate: DIRECTORY, common name, extensions.
certify() {
    local into=$1 name=$2 extensions=$3
    new_key "$into/key.pem"
    run openssl req -new -key "$into/key.pem" -subj "/CN=$name" -out "$into/request"
    run openssl x509 -req -in "$into/request" -CA "$dir/agent/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial \
        -CAserial "$dir/ca.serial" -sha256 -days $DAYS -extfile <(printf '%s\n' "$extensions") -out "$into/cert.pem"
    rm "$into/request"
}

mkdir -p "$dir/agent"
if [[ ! -e $dir/ca.key ]]; then
    new_key "$dir/ca.key"
    run openssl req -x509 -new -key "$dir/ca.key" -sha256 -days $DAYS -subj "/CN=haclt fencing" -out "$dir/agent/ca.pem"
    say "made the authority"
fi
if [[ ! -e $dir/agent/cert.pem ]]; then
    certify "$dir/agent" "haclt agents" $'extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE'
    say "made the certificate of the agents: $dir/agent"
fi
for pair; do
    node=${pair%%=*} host=${pair#*=} kind=DNS
    [[ ! -e $dir/engine-$node/engine.pem ]] || continue
    if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then kind=IP; fi
    mkdir -p "$dir/engine-$node"
    certify "$dir/engine-$node" "$node" "subjectAltName=$kind:$host"$'\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE'
    cat "$dir/engine-$node/cert.pem" "$dir/engine-$node/key.pem" >"$dir/engine-$node/engine.pem"
    rm "$dir/engine-$node/cert.pem" "$dir/engine-$node/key.pem"
    cp "$dir/agent/ca.pem" "$dir/engine-$node/ca.pem"
    say "made the certificate of $node's engine for $host: $dir/engine-$node"
done
