#!/bin/sh
# A hook: writes the primary's host and port into an `.env` file and has compose recreate one service, so
# that an application which knows one host only follows the primary. In agent.toml:
#
#   [hooks]
#   on_promote = ["/etc/haclt/hooks/compose-env.sh", "/srv/shop/.env", "/srv/shop/compose.yaml", "shop"]
#   on_demote  = ["/etc/haclt/hooks/compose-env.sh", "/srv/shop/.env", "/srv/shop/compose.yaml", "shop"]
#   timeout = "60s"
#
# haclt adds three arguments, which are not needed here, and sets HACLT_PRIMARY_HOST and HACLT_PRIMARY_PORT.
# DB_HOST and DB_PORT are the names in the file; every other line stays as it is. Run again it does nothing.
set -eu

if [ $# -lt 3 ]; then
    echo "usage: compose-env.sh ENV_FILE COMPOSE_FILE SERVICE" >&2
    exit 2
fi
env_file=$1 compose_file=$2 service=$3

if [ -z "${HACLT_PRIMARY_HOST:-}" ]; then
    # A primary that stopped before there is another one. Its successor's hook has something to write.
    echo "there is no primary now, $env_file stays as it is"
    exit 0
fi

[ -e "$env_file" ] || : >"$env_file"
new=$env_file.haclt
trap 'rm -f "$new"' EXIT
# Mode and owner of the old one.
cp -p "$env_file" "$new"
awk -v host="$HACLT_PRIMARY_HOST" -v port="$HACLT_PRIMARY_PORT" '
    /^DB_HOST=/ { if (!h++) print "DB_HOST=" host; next }
    /^DB_PORT=/ { if (!p++) print "DB_PORT=" port; next }
    { print }
    END { if (!h) print "DB_HOST=" host; if (!p) print "DB_PORT=" port }
' "$env_file" >"$new"
if cmp -s "$env_file" "$new"; then
    echo "$env_file says that already"
    exit 0
fi

if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
elif command -v docker-compose >/dev/null 2>&1; then
    compose=docker-compose
else
    echo "there is neither docker compose nor docker-compose" >&2
    exit 1
fi
old=$env_file.before-haclt
cp -p "$env_file" "$old"
mv "$new" "$env_file"
# Recreated: a container that is only restarted keeps the environment that it was created with.
if ! $compose -f "$compose_file" up -d --no-deps --force-recreate "$service"; then
    # As it was, or the next try would find nothing to do.
    mv "$old" "$env_file"
    echo "could not recreate $service, $env_file is as it was" >&2
    exit 1
fi
rm -f "$old"
echo "$service uses $HACLT_PRIMARY_HOST:$HACLT_PRIMARY_PORT"
