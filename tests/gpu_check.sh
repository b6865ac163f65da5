#!/bin/sh
# Everything here that needs a GPU, in one command under 5 minutes, on a machine with CUDA:
#
#     sh tests/gpu_check.sh [OUT]
#
# The engines' contract tests on the GPU, a network trained and exported in half precision, profiles of it and of a
# shipped one on every GPU engine that is installed, and the demo. Each step's output lies in OUT (default: gpu-check),
# and summary.txt says which worked. Ends with 1 if one did not; engines that are not installed are said to be missing.
# PYTHON names the interpreter of an environment with `pip install -e '.[train,pictures,report,dev]'` and a PyTorch built
# for CUDA; for TensorRT also '.[tensorrt]', or JetPack's own.
set -u

cd "$(dirname "$0")/.."
OUT=${1:-gpu-check}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
SUMMARY=$OUT/summary.txt
: >"$SUMMARY"
failed=0
# Nothing of the user's own is read or written.
export DELEN_STATE_DIR="$OUT/state" DELEN_CACHE_DIR="$OUT/cache"

say() { echo "$*" | tee -a "$SUMMARY"; }

# step NAME SECONDS COMMAND...: its output into NAME.log, its end into the summary.
step() {
    name=$1 limit=$2
    shift 2
    began=$(date +%s)
    if timeout "$limit" "$@" >"$OUT/$name.log" 2>&1; then ended=ok; else ended="failed ($?)" failed=1; fi
    say "$name: $ended, $(($(date +%s) - began)) s"
}

delen() { step "$1" "$2" "$PYTHON" -m delen $3; }

has() { "$PYTHON" -c "$1" >/dev/null 2>&1; }

{
    date -u
    uname -srm
    nvidia-smi -L 2>/dev/null || cat /proc/device-tree/model 2>/dev/null
    "$PYTHON" -m pip list 2>/dev/null | grep -iE '^(torch|tensorrt|cuda-bindings|pycuda|onnx|onnxruntime|numpy|delen) '
} >>"$SUMMARY"

engines=
if has 'import torch; assert torch.cuda.is_available()'; then engines=torch; else say "torch: missing, or sees no GPU"; fi
if has 'from delen.exits.tensorrt_runner import TensorRTRunner; TensorRTRunner()'; then
    engines="$engines tensorrt"
else
    say "tensorrt: missing, or sees no GPU"
fi
[ -n "$engines" ] || { say "no engine here sees a GPU; see $PYTHON -m delen doctor"; exit 1; }

step contracts 90 "$PYTHON" -m pytest -p no:cacheprovider -q -rs tests/test_runners.py tests/test_torch_recording.py
# The digits as small colour pictures: a trunk of the zoo, heads and calibration, from nothing.
step pictures 30 "$PYTHON" -c '
import sys
import numpy as np
from sklearn.datasets import load_digits
found = load_digits()
x = np.repeat((found.images * 15).astype(np.uint8).repeat(4, 1).repeat(4, 2)[:, None], 3, 1)
np.savez(sys.argv[1], x=x, y=found.target)' "$OUT/digits.npz"
train=cpu
case $engines in *torch*) train=cuda ;; esac
delen attach 30 "attach zoo:resnet20 --classes 10 --exits 3 --out $OUT/half --replace"
delen train 90 "train $OUT/half --data $OUT/digits.npz --device $train --precision fp16 --trunk joint --epochs 10 --restart"
delen export 60 "export $OUT/half --data $OUT/digits.npz --precision fp16 --out $OUT/half.bundle --replace"
for engine in $engines; do
    for network in fashion "$OUT/half.bundle"; do
        delen "profile-$engine-$(basename "$network" .bundle)" 60 "profile $network --engine $engine --quick --json"
    done
    delen "demo-$engine" 60 "demo --engine $engine --phase-s 4 --json"
done
say "outputs in $OUT"
exit $failed
