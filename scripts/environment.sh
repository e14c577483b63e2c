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
        fail "installing failed; all that pip said is in $folder/install.log" "look there; if it could not download something, check the network, and run $0 again"
    fi
    printf '%s\n' "$wanted" >>"$folder/.prepared"
    say "prepared in $((SECONDS - started)) s"
}

# The frameworks of mdslite's extras, in builds for the CPU: others bring gigabytes of CUDA.
list_frameworks() {
    case "$(uname -s) $(uname -m)" in
        'Linux x86_64') echo torch==2.13.0+cpu tensorflow-cpu==2.21.0 ;;
        Darwin*) echo torch==2.13.0 tensorflow==2.21.0 ;;
    esac
}

# add_frameworks FOLDER: adds them to an environment, once. One that pip does not find is none of a failure: the
# tests that need it skip. MDSLITE_FRAMEWORKS names other requirements, or none.
add_frameworks() {
    local folder=$1 requirement module
    for requirement in ${MDSLITE_FRAMEWORKS-$(list_frameworks)}; do
        module=${requirement%%[<>=~]*}
        if grep -qsx "tried $requirement" "$folder/.prepared" || has_module "$folder" "${module%-cpu}"; then
            continue
        fi
        say "adding $requirement (a minute or two, once)"
        if ! "$folder/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
            --only-binary :all: "$requirement" >>"$folder/install.log" 2>&1; then
            say "pip cannot install $requirement ($folder/install.log says why): the tests that need it skip"
            case $requirement in
                *+cpu) say "hint: PIP_EXTRA_INDEX_URL may name PyTorch's index of builds for the CPU" ;;
            esac
        fi
        printf 'tried %s\n' "$requirement" >>"$folder/.prepared"
    done
}

has_module() {
    "$1/bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$2') is None)"
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
