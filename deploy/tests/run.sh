#!/usr/bin/env bash
# Runs the checks of this directory, one after the other, and says how many passed. It needs a Docker
# engine, docker-compose or Compose v2, curl, python3, and the images that base-images.sh and
# build-image.sh make. The checks of README.md start clusters: they take minutes, and root for the three
# hosts' addresses. `make test` runs them too (tests/tests/docker/deployment.rs), with programs of a
# development build.
#
#   deploy/tests/run.sh [CHECK…]     default: all, such as: stand-in init image compose-files socket-proxy
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit

checks=("$@")
((${#checks[@]})) || checks=(compose-files "stand-in 15" "stand-in 17" image init socket-proxy "readme host" "readme hosts" "readme pair")
passed=0 failed=0
for check in "${checks[@]}"; do
    read -ra words <<<"$check"
    echo "== $check"
    if "./${words[0]}.sh" "${words[@]:1}"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed"
((failed == 0))
