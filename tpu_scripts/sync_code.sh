#!/usr/bin/env bash
# Copies this checkout to ~/jopt on every host: tracked files and new ones, as they are.
#
#   sync_code.sh [--SETTING=VALUE ...]
#
# Needs PROJECT ZONE TPU_NAME. Takes NUM_SLICES, DRY_RUN. What git ignores is not sent.
# ~/jopt/CODE_VERSION says which commit it was. Do not use it while a run goes on: jobs
# that have not imported everything yet would mix two versions.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE TPU_NAME

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/jopt-code.tgz

pack() { # into $archive
  cd "$here/.."
  { git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown; } >"$folder/CODE_VERSION"
  # Files that are deleted but not yet committed are listed too.
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      [ ! -e "$file" ] || printf '%s\0' "$file"
    done |
    tar --null --no-recursion -czf "$archive" -T - -C "$folder" CODE_VERSION
}

# The folder keeps its name, since the environment refers to it.
unpack='rm -rf jopt.new jopt.old && mkdir jopt.new && tar -xzf jopt-code.tgz -C jopt.new'
unpack+=' && { [ ! -e jopt ] || mv jopt jopt.old; } && mv jopt.new jopt && rm -rf jopt.old'

send() { # NODE
  copy "$1" "$archive" jopt-code.tgz
  remote "$1" all bash -c "$unpack"
}

[ "$DRY_RUN" = 1 ] || (pack)
for_every_slice send
