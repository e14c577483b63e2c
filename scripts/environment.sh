# Sourced by the scripts beside it: finds a Python, makes a virtual environment, installs into it once.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $1"
    [ $# -lt 2 ] || say "hint: $2"
    exit 1
}

find_python() {
    local candidate
    for candidate in ${MDSLITE_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "mdslite needs Python 3.11 or newer; ${MDSLITE_PYTHON:-python3} is $("${MDSLITE_PYTHON:-python3}" --version 2>&1 || true)" \
        "install one (Debian and Ubuntu: apt-get install python3 python3-venv) or name it: MDSLITE_PYTHON=/path/to/python3.11 $0"
}

# The folder that MDSLITE_VENV names, or the one given; always an absolute path.
environment_folder() {
    case ${MDSLITE_VENV:-$1} in
        /*) printf '%s\n' "${MDSLITE_VENV:-$1}" ;;
        *) printf '%s\n' "$root/${MDSLITE_VENV:-$1}" ;;
    esac
}

# One line that is rewritten on a terminal; silent elsewhere, so that a log stays readable.
show_progress() {
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line"
        case $line in
            Collecting\ * | Downloading\ * | Installing\ *)
                if [ -t 2 ]; then printf '\r\033[K  %.70s' "$line" >&2; fi
                ;;
        esac
    done
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

# prepare_environment FOLDER PIP_ARGUMENT...: after it, FOLDER holds an environment with these installed.
# FOLDER/.prepared remembers where it was made and what was installed, so that a second call with the same
# arguments and the same pyproject.toml costs nothing.
prepare_environment() {
    local folder=$1 python wanted started=$SECONDS
    shift
    python=$(find_python)
    wanted=$({
        printf '%s\n' "$root" "$@"
        "$python" --version
        cat "$root/pyproject.toml"
    } | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
    check_environment "$python" "$folder"
    if grep -qsx "$wanted" "$folder/.prepared"; then
        return
    fi
    say "preparing ${folder#"$root"/} with $("$python" --version) (a minute or two, once)"
    if [ ! -e "$folder/bin/python" ]; then
        "$python" -m venv "$folder" >&2 ||
            fail "$python cannot make a virtual environment" "Debian and Ubuntu: apt-get install python3-venv"
    fi
    [ -e "$folder/.prepared" ] || printf '%s\n' "$folder" >"$folder/.prepared"
    if ! (cd "$root" && "$folder/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1) |
        show_progress >"$folder/install.log"; then
        tail -n 20 "$folder/install.log" >&2
        fail "installing failed; all that pip said is in $folder/install.log" "check the network, then run $0 again"
    fi
    printf '%s\n' "$wanted" >>"$folder/.prepared"
    say "prepared in $((SECONDS - started)) s"
}

# An environment that was moved, or whose Python changed, breaks in ways that nobody understands.
check_environment() {
    local python=$1 folder=$2 wrong=
    if [ -e "$folder/.prepared" ] && [ "$(head -n 1 "$folder/.prepared")" != "$folder" ]; then
        wrong="was made in another place"
    elif [ -e "$folder/bin" ] && [ "$("$folder/bin/python" --version 2>&1)" != "$("$python" --version)" ]; then
        wrong="was not made with $("$python" --version)"
    fi
    if [ -n "$wrong" ]; then
        fail "the environment in $folder $wrong" \
            "rm -r $folder, and run $0 again; MDSLITE_VENV names another folder, MDSLITE_PYTHON another Python"
    fi
}
