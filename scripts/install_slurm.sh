#!/bin/sh
# Make sure that Slurm is there for its test; installs Debian's package when it may, and does without it elsewhere.
set -eu
command -v slurmctld >/dev/null 2>&1 && exit 0
if command -v apt-get >/dev/null 2>&1; then
  sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
else
  echo "Slurm is not here: its test will be skipped." >&2
fi
