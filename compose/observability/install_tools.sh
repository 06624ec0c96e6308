#!/bin/sh
# install_tools.sh FOLDER: puts promtool and amtool, which check the rules, into a folder; on Debian and what is made of it, out
# of their packages, without installing these. Elsewhere the tests that want them are skipped, and say so.
folder=$1
if command -v promtool >/dev/null && command -v amtool >/dev/null; then exit 0; fi
if [ -x "$folder/promtool" ] && [ -x "$folder/amtool" ]; then exit 0; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "promtool and amtool are not here: the alert rules will not be checked (their home: prometheus.io/download)" >&2
  exit 0
fi
made=$(mktemp -d) && chmod 755 "$made" && trap 'rm -rf "$made"' EXIT && cd "$made" || exit 0
fetch() { timeout 120 apt-get download -q prometheus prometheus-alertmanager >"$made/log" 2>&1; }
# A machine that never asked what packages there are does not know these; only root may ask.
if ! fetch; then timeout 120 apt-get update -qq >/dev/null 2>&1; fetch; fi
for package in *.deb; do
  [ -f "$package" ] && dpkg-deb --fsys-tarfile "$package" | tar -x -C "$made" --wildcards './usr/bin/*' 2>/dev/null
done
for name in promtool amtool; do
  if [ -x "$made/usr/bin/$name" ]; then
    cp "$made/usr/bin/$name" "$folder/$name"
  else
    echo "$name could not be had from Debian: the alert rules will not all be checked" >&2
  fi
done
exit 0
