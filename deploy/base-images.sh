#!/usr/bin/env bash
# Makes sure that the image `postgres:MAJOR` exists for each MAJOR given (default: 15 17).
#
#   deploy/base-images.sh [MAJOR…]
#
# An image that is there stays as it is, whoever made it. One that is not is pulled. Where that is not
# possible (a machine without a registry), a stand-in is built from Debian's packages: debootstrap and
# `docker import` make a base, deploy/stand-in/ the rest. It is labelled io.haclt.stand-in, and it has
# the official Debian image's paths, account and behaviour as far as haclt and its tests rely on them.
# There is no stand-in for the Alpine variants: they are another distribution with another C library,
# which debootstrap cannot make.
#
# Safe to run again, at the same time too; done at once when nothing is missing. Nothing is left behind
# by a failure. To have the official image later, `docker pull postgres:MAJOR` replaces the stand-in.
#
# HACLT_PULL=never   do not try to pull: build the stand-in at once
# HACLT_PULL_SECONDS how long a pull may take before it is given up (default 120); a registry that
#                    cannot be reached usually says so within a second
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly STAND_IN=io.haclt.stand-in RECIPE=io.haclt.recipe
readonly LOCK=${TMPDIR:-/var/tmp}/haclt-base-images.$EUID.lock
step="looking for what is missing"
work=""

say() { printf 'base-images: %s\n' "$*" >&2; }
die() { say "error: $1"; shift; for hint in "$@"; do say "hint: $hint"; done; exit 1; }
trap 'say "error: failed while $step (line $LINENO)"' ERR
# debootstrap works in a mount namespace of its own, so no mount of it can be left here.
trap '[[ -z $work ]] || rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM HUP

# Which release of Debian has this major. Others are in none.
release_with() {
    case $1 in
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo forky ;;
        *) return 1 ;;
    esac
}

label_of() { docker image inspect --format "{{index .Config.Labels \"$2\"}}" "$1" 2>/dev/null || true; }
exists() { docker image inspect "$1" >/dev/null 2>&1; }

# Changes whenever the recipe does: a stand-in made by an older one is made anew.
recipe_of() {
    { echo "$1"; release_with "$1" || true; cat "$here/stand-in/"*; } | sha256sum | cut -c1-16
}

# Whether nothing is to be done for this major; says what is there.
is_there() {
    local image=postgres:$1
    exists "$image" || return 1
    if [[ -z $(label_of "$image" $STAND_IN) ]]; then
        say "$image is there"
    elif [[ $(label_of "$image" $RECIPE) == "$(recipe_of "$1")" ]]; then
        say "$image is there: a stand-in, built here from Debian's packages"
    else
        return 1
    fi
}

pull() {
    [[ ${HACLT_PULL:-} != never ]] || return 1
    # A stand-in is renewed and not replaced behind the user's back: its data may be in use.
    ! exists "postgres:$1" || return 1
    say "pulling postgres:$1"
    timeout --kill-after 5 "${HACLT_PULL_SECONDS:-120}" \
        docker pull --quiet "postgres:$1" >/dev/null 2>"$work/pull"
}

# Prints the archive that apt uses on this machine for suites that match the pattern.
archive() {
    # shellcheck disable=SC2016 # apt expands these, not the shell.
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v pattern="$1" '$1 ~ pattern && !seen {print $2; seen = 1}'
}

need_tools() {
    type -P apt-get >/dev/null || die "cannot build a stand-in: there is no apt-get on this machine" \
        "On a machine with access to a registry, run: docker pull postgres:$1"
    ((EUID == 0)) || die "cannot build a stand-in: debootstrap needs root" "Run: sudo $0 $1"
    type -P debootstrap >/dev/null && return
    step="installing debootstrap"
    say "$step"
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 \
        install --no-install-recommends debootstrap; } >"$work/log" 2>&1 </dev/null ||
        die "cannot install debootstrap: $(grep -m1 '^[EW]:' "$work/log" || echo 'apt-get failed')"
}

# Makes haclt/stand-in-debian:RELEASE, a minimal Debian, unless it is there.
debian() {
    local release=$1 image=haclt/stand-in-debian:$1 mirror security script
    local scripts=/usr/share/debootstrap/scripts
    exists "$image" && return
    # `release` of an archive's index is a codename such as bookworm, or bookworm-security.
    mirror=$(archive '^[a-z]+$')
    [[ $mirror == http://* || $mirror == https://* ]] ||
        die "cannot build a stand-in: apt on this machine has no Debian archive on http or https"
    security=$(archive '-security$')
    step="bootstrapping Debian $release"
    say "$step (half a minute)"
    # One that is older than the release has no script named after it; they are all the same today.
    script=$scripts/$release
    [[ -e $script ]] || script=$scripts/sid
    unshare --mount debootstrap --variant=minbase --components=main "$release" \
        "$work/root" "$mirror" "$script" >"$work/log" 2>&1 || {
        local why
        why=$(grep -m1 -E '^E: ' "$work/log" "$work/root/debootstrap/debootstrap.log" -h 2>/dev/null) ||
            why=$(tail -n 1 "$work/log")
        die "cannot bootstrap Debian $release: ${why#E: }"
    }
    # Testing has no archive of security updates until it is released, and a mirror's copy of it is soon
    # older than it says it may be.
    if [[ $release == forky ]]; then
        echo 'Acquire::Check-Valid-Until "false";' >"$work/root/etc/apt/apt.conf.d/91haclt"
    elif [[ -n $security ]]; then
        echo "deb $security $release-security main" >>"$work/root/etc/apt/sources.list"
    fi
    rm -rf "$work/root/var/cache/apt/archives/"*.deb "$work/root/var/lib/apt/lists/"* \
        "$work/root/var/log/"*.log "$work/root/usr/share/doc/"* "$work/root/usr/share/man/"* \
        "$work/root/usr/share/locale/"?? "$work/root/usr/share/locale/"??_*
    # Nobody reads manuals in a container, and what is half installed is thrown away anyway.
    printf '%s\n' 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
        'path-exclude=/usr/share/locale/*/LC_MESSAGES/*' force-unsafe-io \
        >"$work/root/etc/dpkg/dpkg.cfg.d/90haclt"
    # apt's own sandbox account cannot be used by every engine.
    echo 'APT::Sandbox::User "root";' >"$work/root/etc/apt/apt.conf.d/90haclt"
    step="importing Debian $release into Docker"
    tar --directory "$work/root" --numeric-owner --exclude './dev/*' --create . |
        docker import --change "LABEL $STAND_IN=debian" --change 'CMD ["bash"]' \
            --message "Debian $release, bootstrapped" - "$image" >/dev/null
    rm -rf --one-file-system "$work/root"
}

build() {
    local major=$1 release recipe data volume
    release=$(release_with "$major") ||
        die "cannot build a stand-in for postgres:$major: no release of Debian has PostgreSQL $major (15, 17 and 18 are possible)"
    need_tools "$major"
    debian "$release"
    recipe=$(recipe_of "$major")
    data=/var/lib/postgresql/data volume=/var/lib/postgresql/data
    # From 18 on, the official image keeps each major in a directory of its own.
    ((major < 18)) || data=/var/lib/postgresql/$major/docker volume=/var/lib/postgresql
    step="installing PostgreSQL $major from Debian $release"
    say "$step"
    DOCKER_BUILDKIT=0 docker build --network host --force-rm --tag "haclt/stand-in-postgres:$major" \
        --build-arg "BASE=haclt/stand-in-debian:$release" --build-arg "MAJOR=$major" \
        --build-arg "PGDATA=$data" --build-arg "DATA_VOLUME=$volume" --build-arg "RECIPE=$recipe" \
        "$here/stand-in" >"$work/log" 2>&1 </dev/null || {
        tail -n 5 "$work/log" | sed 's/^/    /' >&2
        die "cannot build a stand-in for postgres:$major: docker build failed while $step"
    }
    # Looked at again: somebody may have loaded or pulled the real one meanwhile.
    if exists "postgres:$major" && [[ -z $(label_of "postgres:$major" $STAND_IN) ]]; then
        say "postgres:$major has appeared meanwhile and stays; the stand-in is haclt/stand-in-postgres:$major"
    else
        docker tag "haclt/stand-in-postgres:$major" "postgres:$major"
        say "postgres:$major is a STAND-IN built from Debian $release, not the official image"
    fi
}

majors=("$@")
((${#majors[@]})) || majors=(15 17)
for major in "${majors[@]}"; do
    [[ $major =~ ^[0-9]+$ ]] || die "'$major' is not a major version of PostgreSQL" \
        "usage: $0 [MAJOR…], such as: $0 15 17"
done

docker version >/dev/null 2>&1 ||
    die "cannot reach the Docker engine" "Start it, or let this user use it, then try again."

for major in "${majors[@]}"; do
    is_there "$major" && continue
    exec 9>"$LOCK"
    flock --wait 900 9 || die "another run of this script has not ended within 15 minutes"
    # Whoever held the lock may have done the work.
    is_there "$major" && continue
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/haclt-base-images.XXXXXX")
    if ! pull "$major"; then
        [[ ! -s $work/pull ]] || say "postgres:$major cannot be pulled: $(tail -n 1 "$work/pull")"
        build "$major"
    fi
    rm -rf --one-file-system "$work"
    work=""
done
