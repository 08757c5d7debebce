#!/usr/bin/env bash
# Prints the directory of prometheus and promtool: those on the PATH, or those of the Debian
# package, which is unpacked into the user's cache. It is not installed, because that would start a
# service.
set -euo pipefail
if command -v prometheus > /dev/null && command -v promtool > /dev/null; then dirname "$(command -v promtool)"; exit; fi
folder=${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer/prometheus
if [[ ! -x $folder/usr/bin/promtool ]]; then
  command -v apt-get > /dev/null || { echo "install prometheus and promtool (Debian package prometheus): apt-get is not available to download them" >&2; exit 1; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  apt-get download prometheus > apt.log 2>&1 || { apt-get update > apt.log 2>&1 && apt-get download prometheus > apt.log 2>&1; } \
    || { echo "install prometheus and promtool (Debian package prometheus): apt-get could not download them: $(tail -n 1 apt.log)" >&2; exit 1; }
  mkdir -p "$folder"
  dpkg-deb -x prometheus_*.deb "$folder"
fi
echo "$folder/usr/bin"
