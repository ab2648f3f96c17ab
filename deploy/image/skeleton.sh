#!/bin/sh
# Reduces the workspace in the current directory to what its dependencies are built from: manifests,
# the lock file, and empty sources. The image's build stage does it, so that the dependencies are built
# again only when a manifest changes, and not with every change of a source file.
set -eu

# A crate that replaces one of a dependency's dependencies has to stay whole: [patch.crates-io].
patched=$(awk '
    /^\[/ { patch = /^\[patch/ }
    patch && /path *=/ { sub(/.*path *= *"/, ""); sub(/".*/, ""); print "./" $0 "/" }' Cargo.toml)

is_patched() {
    for crate in $patched; do
        case $1 in "$crate"*) return 0 ;; esac
    done
    return 1
}

find ./crates ./tests -type f ! -name Cargo.toml | while IFS= read -r file; do
    is_patched "$file" && continue
    case $file in
        */lib.rs) : >"$file" ;;
        */main.rs | */build.rs) echo 'fn main() {}' >"$file" ;;
        *) rm "$file" ;;
    esac
done
