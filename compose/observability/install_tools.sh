#!/bin/sh
# install_tools.sh FOLDER [NAME...]: puts tools of Prometheus into a folder, promtool and amtool where none is named, which check
# the rules; on Debian and what is made of it, out of their packages, without installing these. Elsewhere the tests that want
# them are skipped, and say so.
folder=$1 && shift
[ $# -gt 0 ] || set -- promtool amtool
missing=
for name; do
  command -v "$name" >/dev/null || [ -x "$folder/$name" ] || missing="$missing $name"
done
[ "$missing" ] || exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "not here:$missing; what they check will not be checked (their home: prometheus.io/download)" >&2
  exit 0
fi
made=$(mktemp -d) && chmod 755 "$made" && trap 'rm -rf "$made"' EXIT && cd "$made" || exit 0
fetch() { timeout 120 apt-get download -q prometheus prometheus-alertmanager >"$made/log" 2>&1; }
# A machine that never asked what packages there are does not know these; only root may ask.
if ! fetch; then timeout 120 apt-get update -qq >/dev/null 2>&1; fetch; fi
for package in *.deb; do
  [ -f "$package" ] && dpkg-deb --fsys-tarfile "$package" | tar -x -C "$made" --wildcards './usr/bin/*' 2>/dev/null
done
for name in $missing; do
  if [ -x "$made/usr/bin/$name" ]; then
    cp "$made/usr/bin/$name" "$folder/$name"
  else
    echo "$name could not be had from Debian: what it checks will not be checked" >&2
  fi
done
exit 0
