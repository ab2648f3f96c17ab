#!/usr/bin/env bash
# Entry point of the stand-in for the official `postgres` image. It follows that image's documented
# behaviour: a data directory is made at the first start, from POSTGRES_PASSWORD, POSTGRES_USER,
# POSTGRES_DB (each also as a file, _FILE), POSTGRES_INITDB_ARGS, POSTGRES_INITDB_WALDIR and
# POSTGRES_HOST_AUTH_METHOD; files in /docker-entrypoint-initdb.d are run once; an existing data
# directory is started as it is. A cluster of haclt never runs it: there the guard is in its place.
set -Eeuo pipefail

say() { printf 'docker-entrypoint: %s\n' "$*"; }
die() { printf 'docker-entrypoint: error: %s\n' "$*" >&2; exit 1; }

# Sets a variable from itself, from the file that NAME_FILE names, or from a default.
from_file_or() {
    local name=$1 default=${2:-} file_name=${1}_FILE value
    [[ -z ${!name:-} || -z ${!file_name:-} ]] || die "$name and $file_name are both set"
    value=${!name:-$default}
    [[ -z ${!file_name:-} ]] || value=$(<"${!file_name}")
    export "$name=$value"
    unset "$file_name"
}

read_settings() {
    from_file_or POSTGRES_PASSWORD
    from_file_or POSTGRES_USER postgres
    from_file_or POSTGRES_DB "$POSTGRES_USER"
    from_file_or POSTGRES_INITDB_ARGS
    : "${POSTGRES_HOST_AUTH_METHOD:=}"
}

# What only root can do: directories that belong to the server's account.
prepare_directories() {
    local directory
    for directory in "$PGDATA" ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"}; do
        mkdir -p "$directory"
        # Some file systems of a network keep their own modes; the server says so if it minds.
        chmod 00700 "$directory" || true
        find "$directory" \! -user postgres -exec chown postgres '{}' +
    done
    mkdir -p /var/run/postgresql
    chmod 03775 /var/run/postgresql || true
    find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
}

make_data_directory() {
    local -a words=()
    eval "words=($POSTGRES_INITDB_ARGS)" # The documented variable holds shell words.
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        ${POSTGRES_INITDB_WALDIR:+--waldir "$POSTGRES_INITDB_WALDIR"} "${words[@]}"
}

allow_network_clients() {
    local method=$POSTGRES_HOST_AUTH_METHOD
    [[ -n $method ]] || method=$(postgres -C password_encryption -D "$PGDATA")
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# The server of the first start: on its socket only, so that nobody takes it for the real one.
start_temporarily() {
    [[ ${1:-} != postgres ]] || shift
    set -- "$@" -c listen_addresses='' -p "${PGPORT:-5432}"
    NOTIFY_SOCKET='' PGUSER="${PGUSER:-$POSTGRES_USER}" \
        pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@")" -w start
}

stop_temporary() { PGUSER="${PGUSER:-postgres}" pg_ctl -D "$PGDATA" -m fast -w stop; }

run_sql() {
    PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password \
        --username "$POSTGRES_USER" "$@"
}

make_database() {
    [[ $POSTGRES_DB != postgres ]] || return 0
    local found
    found=$(run_sql --dbname postgres --tuples-only --set db="$POSTGRES_DB" \
        <<<"select 1 from pg_database where datname = :'db';")
    [[ -n $found ]] ||
        run_sql --dbname postgres --set db="$POSTGRES_DB" <<<'create database :"db";'
}

# As in the official image, a script that may not be executed is read into this shell.
run_script() {
    # shellcheck disable=SC1090 # It is the user's.
    if [[ -x $1 ]]; then "$1"; else . "$1"; fi
}

run_initial_files() {
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        say "running $file"
        case $file in
            *.sh) run_script "$file" ;;
            *.sql) run_sql --dbname "$POSTGRES_DB" -f "$file" ;;
            *.sql.gz) gunzip -c "$file" | run_sql --dbname "$POSTGRES_DB" ;;
            *.sql.xz) xzcat "$file" | run_sql --dbname "$POSTGRES_DB" ;;
            *.sql.zst) zstd -dc "$file" | run_sql --dbname "$POSTGRES_DB" ;;
            *) say "ignoring $file" ;;
        esac
    done
}

first_start() {
    [[ -n $POSTGRES_PASSWORD || $POSTGRES_HOST_AUTH_METHOD == trust ]] ||
        die "cannot make a database: POSTGRES_PASSWORD is empty and POSTGRES_HOST_AUTH_METHOD is not trust"
    # A wrong permission of a mounted directory shows here and not halfway.
    ls /docker-entrypoint-initdb.d/ >/dev/null
    make_data_directory
    allow_network_clients
    export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
    start_temporarily "$@"
    make_database
    run_initial_files
    stop_temporary
    unset PGPASSWORD
    say "the data directory is ready, starting the server"
}

# Whether the command only asks for something, such as --help, and needs no data directory.
only_asks() {
    local word
    for word in "$@"; do
        case $word in -'?' | --help | --describe-config | -V | --version) return 0 ;; esac
    done
    return 1
}

shopt -s nullglob
[[ ${1:0:1} != - ]] || set -- postgres "$@"
if [[ ${1:-} == postgres ]] && ! only_asks "$@"; then
    if ((EUID == 0)); then
        prepare_directories
        exec gosu postgres "${BASH_SOURCE[0]}" "$@"
    fi
    read_settings
    if [[ -s $PGDATA/PG_VERSION ]]; then
        say "$PGDATA holds a database, nothing to make"
    else
        first_start "$@"
    fi
fi
exec "$@"
