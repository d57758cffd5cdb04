#!/usr/bin/env bash
# Lays out programs of a Debian release in a folder, without installing them and without starting a service:
#   test/world/install.sh FOLDER RELEASE PACKAGE...
# The programs run by the loader of their own release (see programs.ts). The mirror is the one that apt uses for the system.
# Does nothing for packages that the folder has. Needs apt-get and dpkg-deb, on Debian.
set -euo pipefail
folder=$1/$2
release=$2
shift 2
mkdir -p "$folder/root" "$folder/lists/partial" "$folder/archives/partial"
cd "$folder"

missing=()
for package in "$@"; do [ -e "root/usr/share/doc/$package" ] || missing+=("$package"); done
[ "${#missing[@]}" -gt 0 ] || exit 0

# apt knows the origin of a mirror once it has read its lists.
find_mirror() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
    grep -v security | head -n 1 || true
}
mirror=$(find_mirror)
if [ -z "$mirror" ]; then
  apt-get update -qq
  mirror=$(find_mirror)
fi
[ -n "$mirror" ] || {
  echo "install.sh: the sources of apt name no mirror of Debian" >&2
  exit 1
}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >sources.list
# No package counts as installed, so the libraries come along.
: >status
from_release() {
  apt-get -qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists" \
    -o Dir::State::status="$PWD/status" -o Dir::Cache::archives="$PWD/archives" -o Dir::Cache::pkgcache= \
    -o Dir::Cache::srcpkgcache= -o APT::Install-Recommends=false -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}
from_release update
from_release --yes --download-only install "${missing[@]}" >/dev/null
for package in archives/*.deb; do dpkg-deb -x "$package" root; done
rm -rf archives lists
chmod -R a+rX root
