# Sourced by run and nightly: named steps, each in a copy of what git would commit; all of it gone at the end.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_COMPILE=0
unset PYTHONPATH VIRTUAL_ENV
unset PYTHONDONTWRITEBYTECODE # without bytecode, each command that a test starts compiles NumPy again

committed=$scratch/committed
mkdir "$committed"
git ls-files -coz --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$committed"

python=${PYTHON:-$(command -v python3.11 || command -v python3)}

# venv [INTERPRETER]: make and enter the step's own environment.
venv() {
    "${1:-$python}" -m venv "$own/venv"
    . "$own/venv/bin/activate"
}

# quick_tests [FOLDER...]: those that are not slow, a process for each core.
quick_tests() {
    pip install -q ".[test]"
    python -m pytest -q -n auto -m "not slow and not live" "$@"
}

# all_fuzzers: print their names, from a step's environment.
all_fuzzers() { python -c "from tests.fuzz.targets import FUZZERS; print(*FUZZERS)"; }

# interpreter VERSION: print the path of that Python; fail where there is none.
interpreter() {
    local path
    for path in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if "$path" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            command -v "$path"
            return
        fi
    done
    return 1
}

# one_step NAME: run the function step_NAME in $checkout, a fresh copy. Nobody else uses $own, which is gone at the end.
one_step() {
    local status
    own=$scratch/step-$1 checkout=$scratch/step-$1/checkout
    mkdir "$own"
    cp -R "$committed" "$checkout"
    (
        set -e
        cd "$checkout"
        "step_$1"
    ) </dev/null
    status=$?
    rm -rf "$own"
    return "$status"
}

# run_lane NAME,NAME...: run steps one by one, and write the names of those that failed to $scratch/failed.
run_lane() {
    local step status began
    for step in ${1//,/ }; do
        printf '\n===== %s\n' "$step"
        began=$SECONDS
        one_step "$step"
        status=$?
        if ((status)); then
            echo "$step" >>"$scratch/failed"
            printf '===== %s FAILED with status %d after %d s\n' "$step" "$status" "$((SECONDS - began))"
        else
            printf '===== %s: done in %d s\n' "$step" "$((SECONDS - began))"
        fi
    done
}

# run_steps LANES...: run steps one by one. A plus runs lanes side by side, so `a,b+c d` is a and then b, c beside both, then d.
# All run whatever fails, since a later one can tell something too.
run_steps() {
    local lanes lane began times=()
    set +e # a function in a condition would ignore set -e
    for lanes in "$@"; do
        began=$SECONDS
        if [[ $lanes == *+* ]]; then
            for lane in ${lanes//+/ }; do
                run_lane "$lane" >"$scratch/$lane.log" 2>&1 &
            done
            wait
            for lane in ${lanes//+/ }; do
                cat "$scratch/$lane.log"
            done
        else
            run_lane "$lanes"
        fi
        times+=("$lanes $((SECONDS - began)) s")
    done
    printf '\n%s in all %d s\n' "$(printf '%s, ' "${times[@]}")" "$SECONDS"
    if [[ -e $scratch/failed ]]; then
        printf 'steps that failed: %s\n' "$(xargs <"$scratch/failed")"
        exit 1
    fi
}
