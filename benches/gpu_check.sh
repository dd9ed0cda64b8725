#!/usr/bin/env bash
# Everything that only a GPU can show, in one command and under ten minutes:
#
#   benches/gpu_check.sh [-o FOLDER] [-w WHEELS] [--seconds 570] [--dry-run]
#
# Builds for the card, runs the CUDA tests, compute-sanitizer's four tools with a canary each, the benches, and steps
# with the embedded prior and with a diffusion model of Stable Diffusion 1.5's size. Needs torch and nvcc, and no
# network; what else Python lacks (pybind11, ninja, cmake, pytest, hypothesis, diffusers, transformers) it takes from wheels in WHEELS.
# Leaves FOLDER/gpu_check.json and FOLDER/gpu_check.log, both written after every stage: a stage that fails, hangs or is
# killed costs its own result only. --dry-run does the same on the CPU with tiny sizes and builds nothing.
set -uo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
out=gpu_check wheels="" limit=570 dry=""
while [[ $# -gt 0 ]]; do
    case $1 in
        -o) out=$2; shift 2 ;;
        -w) wheels=$(cd "$2" && pwd) || exit 2; shift 2 ;;
        --seconds) limit=$2; shift 2 ;;
        --dry-run) dry=1; shift ;;
        *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
mkdir -p "$out/stages" && out=$(cd "$out" && pwd) || exit 2
rm -f "$out"/stages/* "$out"/*.json "$out/finished"
: > "$out/gpu_check.log"
python=${PYTHON:-python3}
export PATH="$PATH:/usr/local/cuda/bin" OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
# The source tree, where the module is built; a dry run builds nothing and takes the installed package.
if [[ -n $dry ]]; then
    export PYTHONSAFEPATH=1
else
    export PYTHONPATH="$repository:$out/site${PYTHONPATH:+:$PYTHONPATH}" PATH="$out/site/bin:$PATH"  # cmake, ninja
fi
cd "$repository" || exit 2

number=0 child=""
report() { "$python" benches/gpu/report.py "$out" "$repository" || echo "no report: see $out/stages" >&2; }
say() { echo "$*" | tee -a "$out/gpu_check.log"; }

record() { # NAME STATUS EXIT SECONDS
    printf 'name=%s\nstatus=%s\nexit=%s\nseconds=%s\n' "$@" > "$out/stages/$(printf %02d "$number")_$1.stage"
}

finish() { # on any way out
    trap - EXIT INT TERM HUP
    [[ -n $child ]] && kill -TERM -- "-$child" 2> /dev/null
    report
    say "results: $out/gpu_check.json"
    "$python" -c 'import json, sys; sys.exit(not json.load(open(sys.argv[1]))["passed"])' "$out/gpu_check.json"
    exit $?
}
trap finish EXIT INT TERM HUP

# stage NAME SECONDS EXPECTED COMMAND...: in a process group of its own, within what is left of the time. EXPECTED is
# "pass", or "fail" for a canary, which must end with a report of the tool.
stage() {
    local name=$1 seconds=$2 expected=$3 left status code began
    shift 3
    number=$((number + 1))
    local log; log="$out/stages/$(printf %02d "$number")_$name.log"
    left=$((limit - SECONDS))
    if ((left < 5)); then
        say "skipped: $name (no time left)"
        record "$name" "no time left" - 0 && report
        return
    fi
    ((seconds > left)) && seconds=$left
    say "== $name: $*"
    began=$(date +%s.%N)
    [[ ${GPU_CHECK_BREAK:-} == "$name" ]] && set -- bash -c 'echo broken on purpose; kill -KILL $$'
    record "$name" "did not end" - 0
    setsid timeout -k 5 "$seconds" "$@" > "$log" 2>&1 &
    child=$!
    wait "$child"
    code=$?
    kill -KILL -- "-$child" 2> /dev/null # whatever it left behind
    child=""
    cat "$log" >> "$out/gpu_check.log"
    status=failed
    [[ $code == 124 || $code == 137 ]] && status="stopped after $seconds s or killed"
    [[ $expected == pass && $code == 0 ]] && status=passed
    [[ $expected == fail && $code == 9 ]] && status=passed
    [[ $expected == fail && $code == 0 ]] && status="canary not caught"
    record "$name" "$status" "$code" "$(awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')"
    say "-- $name: $status (exit $code)"
    report
}

skip() { # NAME REASON
    number=$((number + 1))
    say "skipped: $1 ($2)"
    record "$1" skipped - 0
    echo "$2" > "$out/stages/$(printf %02d "$number")_$1.log"
}

results() { echo "$out/$(printf %02d $((number + 1)))_$1.json"; } # of the next stage

report
if [[ -n $wheels ]]; then
    stage wheels 60 pass "$python" -m pip install -q --no-index --no-deps --no-compile --target "$out/site" \
        "$wheels"/*.whl
fi

if [[ -n $dry ]]; then
    device=cpu quick=--quick
    skip build "dry run"
    stage facts 60 pass "$python" -m dreamfusion_ngp doctor
    stage tests 120 pass "$python" -m pytest -q --collect-only tests/ops/test_shade.py
else
    device=cuda quick=""
    stage build 240 pass env DREAMFUSION_NGP_CUDA=on "$python" setup.py build_ext --inplace
    stage facts 60 pass "$python" -m dreamfusion_ngp doctor
    # Eight at a time where pytest-xdist is there. --need-cuda: where torch sees no device, tests of the GPU fail and are
    # not skipped.
    many=$("$python" -c 'import xdist; print("-n 8")' 2> /dev/null)
    stage tests 180 pass "$python" -m pytest -q $many --need-cuda -k cuda \
        tests/ops/test_{hashgrid,field,march,occupancy,shade,composite,adam,sizes}.py \
        tests/render/test_render.py tests/scene/test_fields.py tests/base/test_{slots,cuda_graphs}.py \
        tests/optimise/test_{executors,loop,no_sync}.py tests/guidance/test_latent_guidance.py \
        tests/toybox/test_prior_training.py
fi

stage small 60 pass "$python" benches/gpu/small.py --device "$device"
if [[ -n $dry ]]; then
    skip sanitizers "dry run"
elif ! command -v compute-sanitizer > /dev/null; then
    skip sanitizers "no compute-sanitizer in PATH"
else
    stage canaries 60 pass nvcc -arch=native -lineinfo -o "$out/canaries" benches/gpu/canaries.cu
    for tool in memcheck racecheck initcheck synccheck; do
        stage "${tool}_canary" 30 fail compute-sanitizer --tool "$tool" --error-exitcode 9 "$out/canaries" "$tool"
        # Without torch's cache every tensor is an allocation of its own: its ends are guarded.
        stage "$tool" 120 pass env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$python" benches/gpu/small.py --device "$device"
    done
fi

bench() { # NAME SECONDS RESOLUTION...; the file grows by one resolution at a time, so a stage out of time keeps some
    local sizes=(--resolutions "${@:3}")
    [[ -n $dry ]] && sizes=(--quick)
    stage "$1" "$2" pass "$python" -m dreamfusion_ngp bench --device "$device" "${sizes[@]}" --json "$(results "$1")"
}
bench bench 150 64 128 256
for script in benches/*.py; do
    name=$(basename "$script" .py)
    grep -q -- '"--json"' "$script" || continue # not a bench: it writes no figures
    stage "$name" 90 pass "$python" "$script" --device "$device" $quick --json "$(results "$name")"
done
stage toybox_step 90 pass "$python" benches/gpu/toybox_step.py --device "$device" $quick \
    --json "$(results toybox_step)"
stage guided_step 120 pass "$python" benches/gpu/guided_step.py --device "$device" $quick \
    --json "$(results guided_step)"
[[ -n $dry ]] || bench bench_512 120 64 512 # last, as it takes longest; 64 shows which peers fit
: > "$out/finished"
