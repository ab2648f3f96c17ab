#!/usr/bin/env bash
# Installs what building, running and testing haclt needs on Debian or Ubuntu, and nothing that is
# already there. Safe to run again; done in a fraction of a second when nothing is missing.
#
# PostgreSQL's server package would create and start a cluster of its own ("main"). While our own
# apt call runs, a drop-in for postgresql-common (createcluster.d/haclt.conf) says not to; it is
# taken away afterwards, so that later installations behave as the distribution means them to.
# Nothing is changed if a PostgreSQL server is already installed. Likewise PgBouncer's service, which its
# package would start: while it is installed a policy (policy-rc.d) says not to, and then the service is
# disabled. Tests run the program by themselves.
set -euo pipefail

readonly PG_OLDEST=15 PG_NEWEST=18
readonly DROP_IN=/etc/postgresql-common/createcluster.d/haclt.conf
readonly POLICY=/usr/sbin/policy-rc.d
readonly LOCK_WAIT_SECONDS=120
step="looking for what is missing"

say() { printf 'install-deps: %s\n' "$*" >&2; }
die() { say "error: $1"; shift; for hint in "$@"; do say "hint: $hint"; done; exit 1; }
trap 'say "error: failed while $step (line $LINENO)"' ERR

has_postgres() {
    if [[ -n "${HACLT_PG_BIN:-}" ]]; then
        [[ -x "$HACLT_PG_BIN/postgres" ]] ||
            die "HACLT_PG_BIN is $HACLT_PG_BIN, but there is no executable 'postgres' in it"
        return 0
    fi
    local major
    for ((major = PG_NEWEST; major >= PG_OLDEST; major--)); do
        [[ -x /usr/lib/postgresql/$major/bin/postgres &&
            -x /usr/lib/postgresql/$major/bin/pg_basebackup ]] && return 0
    done
    return 1
}

# Tools of the administrator are found even if sbin is not in the caller's PATH.
has() { PATH="$PATH:/usr/sbin:/sbin" type -P "$1" >/dev/null; }

# Whether a C program can be linked statically: the guard is.
has_static_libc() { [[ -e "$(cc -print-file-name=libc.a 2>/dev/null)" ]]; }

# The fault suite puts wall clocks off with it.
has_faketime() { compgen -G '/usr/lib*/*/faketime/libfaketimeMT.so.1' >/dev/null || [[ -e /usr/lib64/faketime/libfaketimeMT.so.1 ]]; }

missing=()
need() { local package=$1; shift; "$@" || missing+=("$package"); }
need postgresql has_postgres
need iproute2 has ip
need iptables has iptables
need strace has strace
need gcc has cc
need libc6-dev has_static_libc
need procps has ps
need util-linux has setsid
need openssl has openssl
need pgbouncer has pgbouncer
need libfaketime has_faketime

if ! has cargo && [[ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]]; then
    die "cargo is installed in ${CARGO_HOME:-$HOME/.cargo}/bin, which is not in PATH" \
        "Run '. \"${CARGO_HOME:-$HOME/.cargo}/env\"', then try again."
elif ! has cargo; then
    die "cargo (Rust) is not installed; it is the one thing this script does not install" \
        "Install Rust with rustup as rust-lang.org says (rust-toolchain.toml names the version; rustup then fetches it by itself), or, if your distribution's version is new enough, its package 'cargo'."
fi

((${#missing[@]})) || exit 0

say "missing: ${missing[*]}"
has apt-get || die "cannot install ${missing[*]}: there is no apt-get on this machine" \
    "Install them by hand: PostgreSQL $PG_OLDEST to $PG_NEWEST (server and client programs; set HACLT_PG_BIN to their directory), iproute2, iptables, strace, gcc, a static C library, procps, util-linux, libfaketime."

as_root=()
if ((EUID != 0)); then
    manual="Run as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    has sudo || die "cannot install ${missing[*]}: not root, and there is no sudo" "$manual"
    as_root=(sudo)
    # Without a terminal sudo must not wait for a password that nobody can type.
    [[ -t 0 && -z "${CI:-}" ]] || as_root=(sudo -n)
    "${as_root[@]}" true 2>/dev/null ||
        die "cannot install ${missing[*]}: not root, and sudo refused" "$manual"
fi

log=$(mktemp)
made_drop_in=no
made_policy=no
finish() {
    [[ $made_policy == no ]] || "${as_root[@]}" rm -f "$POLICY"
    if [[ $made_drop_in == yes ]]; then
        "${as_root[@]}" rm -f "$DROP_IN"
        # Only if they were made for it: an empty directory that a package owns stays harmless.
        "${as_root[@]}" rmdir --ignore-fail-on-non-empty "${DROP_IN%/*}" 2>/dev/null || true
    fi
    rm -f "$log"
}
trap finish EXIT

if [[ " ${missing[*]} " == *" postgresql "* && ! -e $DROP_IN ]]; then
    step="telling postgresql-common not to create a cluster"
    "${as_root[@]}" mkdir -p "${DROP_IN%/*}"
    made_drop_in=yes
    echo "create_main_cluster = false # haclt: only while its install step runs" |
        "${as_root[@]}" tee "$DROP_IN" >/dev/null
fi

if [[ " ${missing[*]} " == *" pgbouncer "* && ! -e $POLICY ]]; then
    step="telling the package manager not to start PgBouncer"
    made_policy=yes
    # 101: forbidden by policy. Everything else starts as it would.
    printf '#!/bin/sh\n# haclt: only while its install step runs\n[ "$1" != pgbouncer ] || exit 101\n' |
        "${as_root[@]}" tee "$POLICY" >/dev/null
    "${as_root[@]}" chmod 755 "$POLICY"
fi

apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y \
        -o "DPkg::Lock::Timeout=$LOCK_WAIT_SECONDS" -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 "$@" </dev/null >>"$log" 2>&1
}

# Says in one line why apt failed, then shows the end of what it said.
apt_failed() {
    local why="apt-get failed while $step"
    if grep -qE 'Could not get lock|is another process using it|Unable to lock' "$log"; then
        why="another program still holds apt's lock after $LOCK_WAIT_SECONDS s: $(
            grep -oE 'held by process [0-9]+ \([^)]*\)' "$log" | tail -1 || true)"
    elif grep -qE 'Could not resolve|Temporary failure resolving|Could not connect|Network is unreachable|Connection (timed out|refused)|Connection failed|Unable to connect' "$log"; then
        why="apt-get could not reach the package archive (no network, or a wrong mirror)"
    elif grep -qE 'Unable to locate package|has no installation candidate' "$log"; then
        why="this distribution does not offer: $(grep -oE "(locate package|Package '?)[^ ']+" "$log" |
            sed -E "s/.*[ ']//" | sort -u | tr '\n' ' ')"
    elif grep -q 'No space left on device' "$log"; then
        why="the disk is full"
    fi
    say "the last lines of apt-get:"
    tail -n 8 "$log" | sed 's/^/    /' >&2
    die "cannot install ${missing[*]}: $why"
}

step="updating the package lists"
say "$step"
apt update || apt_failed
step="installing ${missing[*]}"
say "$step (this may take a minute)"
apt install --no-install-recommends "${missing[@]}" || apt_failed

if [[ $made_policy == yes ]] && has systemctl; then
    # At the next boot it would be started; without systemd at work there is nothing to disable.
    "${as_root[@]}" systemctl disable pgbouncer >>"$log" 2>&1 || true
fi

step="checking what was installed"
hash -r
has_postgres || die "the package 'postgresql' is installed, but it is none of versions $PG_OLDEST to $PG_NEWEST" \
    "Install a supported version and set HACLT_PG_BIN to the directory of its programs."
say "installed: ${missing[*]}"
