#!/usr/bin/env bash
# Whether postgres:MAJOR, which may be a stand-in, behaves as the official image's documentation says, as
# far as haclt and its tests rely on it.
#
#   deploy/tests/stand-in.sh [MAJOR]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
major=${1:-17}
image=postgres:$major
need_image "$image" "deploy/base-images.sh $major"

[[ $(docker image inspect --format '{{json .Config.ExposedPorts}} {{.Config.StopSignal}}' "$image") == '{"5432/tcp":{}} SIGINT' ]] ||
    fail "$image exposes another port or has another stop signal"
ok "the port is 5432/tcp, the stop signal SIGINT"

said=$(docker run --rm --label "$label" --entrypoint sh "$image" -c '
    id -u postgres; getent passwd postgres | cut -d: -f6
    for program in postgres initdb pg_ctl pg_basebackup pg_rewind pg_controldata pg_waldump pg_receivewal pg_isready
    do command -v $program >/dev/null || echo "no $program"; done
    echo "$PG_MAJOR"; test -d /docker-entrypoint-initdb.d && stat -c %U "$PGDATA" /var/run/postgresql')
[[ $said == $'999\n/var/lib/postgresql\n'$major$'\npostgres\npostgres' ]] || fail "account, programs or directories: $said"
ok "account 999, its home, PATH with every tool, PG_MAJOR, the owners of the directories"

mkdir "$scratch/initdb.d"
echo 'create table made_by_sql (n int); insert into made_by_sql values (7);' >"$scratch/initdb.d/1.sql"
# shellcheck disable=SC2016 # It is expanded in the container.
echo 'psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "create table made_by_sh ()"' >"$scratch/initdb.d/2.sh"
echo 'insert into made_by_sql values (8);' | gzip >"$scratch/initdb.d/3.sql.gz"
echo 'pass word' >"$scratch/password"
chmod -R a+rX "$scratch"
docker volume create --label "$label" "$run_id-data" >/dev/null
data=$(docker image inspect --format '{{range $path, $none := .Config.Volumes}}{{$path}}{{end}}' "$image")
database() {
    start --name "$run_id-first" --volume "$run_id-data:$data" --volume "$scratch:/in:ro" \
        --volume "$scratch/initdb.d:/docker-entrypoint-initdb.d:ro" --env POSTGRES_PASSWORD_FILE=/in/password \
        --env POSTGRES_USER=app --env POSTGRES_DB=shop --env 'POSTGRES_INITDB_ARGS=--data-checksums' \
        "$image" "$@" >/dev/null
}
ask() { docker exec --env 'PGPASSWORD=pass word' "$run_id-first" psql -h 127.0.0.1 -U app -d shop -Atc "$1"; }

database -c max_connections=33
within 60 ask 'select 1' || fail "no answer over TCP with the password of the file: $(docker logs "$run_id-first" 2>&1 | tail -n 3)"
[[ $(ask "select current_setting('server_version_num')::int / 10000, current_setting('max_connections'), current_setting('data_checksums')") == "$major|33|on" ]] ||
    fail "server version, an option of the command line or POSTGRES_INITDB_ARGS is not as asked for"
[[ $(ask 'select sum(n) from made_by_sql') == 15 && $(ask 'select count(*) from made_by_sh') == 0 ]] ||
    fail "the files in /docker-entrypoint-initdb.d were not all run"
ok "a first start makes the database from user, database, password file, arguments and initial files"

docker exec --env PGPASSWORD=wrong "$run_id-first" psql -h "$run_id-first" -U app -d shop -c '' 2>/dev/null &&
    fail "a wrong password was accepted"
[[ $(docker exec "$run_id-first" sh -c 'stat -c "%a %U" "$PGDATA"; ps -o user= -p 1 2>/dev/null || stat -c %U /proc/1') == $'700 postgres\npostgres' ]] ||
    fail "the data directory or process 1 is not the database account's alone"
ok "process 1 is PostgreSQL under its own account, and a password is asked for"

docker stop --time 30 "$run_id-first" >/dev/null
docker logs "$run_id-first" >"$scratch/log" 2>&1
[[ $(<"$scratch/log") == *'database system is shut down'* && $(docker inspect --format '{{.State.ExitCode}}' "$run_id-first") == 0 ]] ||
    fail "docker stop did not shut it down cleanly"
docker rm "$run_id-first" >/dev/null
database
within 60 ask 'select 1' || fail "no answer after a restart on the same volume"
[[ $(ask 'select sum(n) from made_by_sql') == 15 ]] || fail "a restart changed the data"
ok "docker stop is a clean shutdown, and an existing data directory is started as it is"

docker run --rm --label "$label" "$image" postgres -D /nowhere >"$scratch/out" 2>&1 && fail "no password was asked for"
grep -q POSTGRES_PASSWORD "$scratch/out" || fail "it does not say which variable is missing: $(tail -n 1 "$scratch/out")"
[[ $(docker run --rm --label "$label" "$image" postgres --version) == *"$major."* && $(docker run --rm --label "$label" "$image" id -u) == 0 ]] ||
    fail "another command is not run as it is"
[[ $(docker run --rm --label "$label" --entrypoint gosu "$image" postgres id -u) == 999 ]] || fail "gosu does not change the account"
ok "without a password it refuses; other commands run as they are; gosu changes the account"
