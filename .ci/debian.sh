# Sourced by emulated and board: Debian packages of other architectures in folders of their own, kept between runs.
cache=${TINYRWKV_CI_CACHE:-$HOME/.cache/tinyrwkv-ci}
mirror=${TINYRWKV_CI_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# skip REASON: end without a result; that is a failure only where CI_EMULATED=required.
skip() {
    echo "skipped: $1"
    [[ ${CI_EMULATED:-} != required ]]
    exit
}

# tools PACKAGE...: install what this system lacks.
tools() {
    local package missing=() lock
    command -v apt-get >/dev/null || skip "this system has no apt-get"
    mkdir -p "$cache"
    exec {lock}>"$cache/tools" # of two at a time, apt-get refuses one
    flock "$lock"
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if ((${#missing[@]})); then
        ((UID == 0)) || skip "these are not installed, and only root can: ${missing[*]}"
        apt-get -qq update || skip "apt-get update failed"
        DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 --no-install-recommends install "${missing[@]}" \
            >/dev/null || skip "apt-get cannot install ${missing[*]}"
    fi
    exec {lock}>&-
}

# apt_of FOLDER ARCHITECTURE COMMAND...: apt-get with lists and a status of its own; this system's stay as they are.
apt_of() {
    local folder=$1 options=(-o APT::Architecture="$2" -o APT::Architectures="$2")
    options+=(-o Dir::State="$folder" -o Dir::State::status="$folder/status" -o Dir::Cache="$folder")
    options+=(-o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=- -o Debug::NoLocking=1)
    options+=(-o APT::Install-Recommends=false -o Acquire::Languages=none -o APT::Sandbox::User= -o Acquire::Retries=2)
    apt-get -qq "${options[@]}" "${@:3}"
}

# debian SUITE ARCHITECTURE FOLDER PACKAGE...: unpack packages and what they depend on, without installing them.
debian() {
    local suite=$1 architecture=$2 folder=$3 package folder_of
    if [[ -e $folder/done ]]; then
        return
    fi
    rm -rf "$folder"
    mkdir -p "$folder"/{lists,archives}/partial "$folder/root/usr"/{bin,sbin,lib}
    : >"$folder/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$folder/sources.list"
    if ! {
        apt_of "$folder" "$architecture" update &&
            apt_of "$folder" "$architecture" --download-only install "${@:4}"
    } 2>"$folder/log"; then
        head -n 1 "$folder/log"
        return 1
    fi
    for package in "$folder"/archives/*.deb; do
        dpkg-deb -x "$package" "$folder/root" || return
    done
    for folder_of in bin sbin lib; do
        [[ -e $folder/root/$folder_of ]] || ln -s "usr/$folder_of" "$folder/root/$folder_of"
    done
    rm -rf "$folder"/{lists,archives,*.bin}
    touch "$folder/done"
}
