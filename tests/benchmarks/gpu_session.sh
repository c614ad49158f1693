#!/bin/sh
# All experiments on one GPU, the most wanted first; docs/training.md describes it. usage: gpu_session.sh DATA OUT
# Environment: MINUTES (28) after which trainings are stopped, INIT (scratch), PYTHON (python3), PARTS (of those
# below; strong-bias is the first of strong alone); for a trial on a CPU DEVICE=cpu LIMIT=64 SIZE=64 EPOCHS=1. The same
# command again goes on where it stood.
set -u
data=${1:?usage: gpu_session.sh DATA OUT} out=${2:?usage: gpu_session.sh DATA OUT}
here=$(dirname "$0") python=${PYTHON:-python3} init=${INIT:-scratch} device=${DEVICE:-cuda}
parts=${PARTS:-check speed brain raw folds strong document}
others=densenet-base,densenet-weight,densenet-weight-bias,resnet-base,resnet-weight,resnet-bias,resnet-weight-bias
end=$(($(date +%s) + ${MINUTES:-28} * 60))
mkdir -p "$out"
failed=

say() { echo "$(date +%T) $*"; }

# Train experiments for as long as time is left. usage: train FOLDER EXPERIMENTS OPTION...
train() {
    folder=$1 experiments=$2
    shift 2
    left=$((end - $(date +%s)))
    if [ $left -le 0 ]; then
        say "not started, the time is over: $folder $experiments"
        return
    fi
    say "$folder $experiments"
    timeout -k 60 $left "$python" -m hemoscan train --data "$data" --experiments "$experiments" --init "$init" --device "$device" \
        --run-dir "$out/$folder" --weights-dir "$out/$folder/weights" --quiet \
        ${LIMIT:+--limit "$LIMIT"} ${SIZE:+--size "$SIZE"} ${EPOCHS:+--epochs "$EPOCHS"} "$@"
    code=$?
    if [ $code -eq 124 ]; then
        say "stopped, the time is over: $folder $experiments"
    elif [ $code -ne 0 ]; then
        say "failed with $code: $folder $experiments"
        failed=1
    fi
}

# The document of all that was trained. It needs no GPU: leave it out where time on one is short, and make it elsewhere.
document() {
    set --
    for folder in report raw folds strong; do
        for record in "$out/$folder"/*.*.json; do
            if [ -e "$record" ]; then
                set -- "$@" "$out/$folder"
                break
            fi
        done
    done
    if [ $# -gt 0 ]; then
        "$python" -m hemoscan experiments "$@" -o "$out/docs/experiments.md" --data "$data" --quiet || failed=1
    fi
}

for part in $parts; do
    case $part in
    check) "$python" -m pytest -q -p no:cacheprovider -W default "$here/../test_captured.py" || failed=1 ;;
    speed)
        for network in densenet resnet; do
            "$python" "$here/training_speed.py" --network $network --device "$device" \
                ${SIZE:+--size "$SIZE"} ${LIMIT:+--steps 1 --batch-size 4} || failed=1
        done
        ;;
    # One process for all of a part: the data are read once, and cuDNN searches for its algorithms once a network.
    brain) train report all ;;
    raw) train raw all --input raw ;;
    folds) train folds densenet-bias,densenet-base --folds 5 --no-test ;;
    strong) train strong "densenet-bias,$others" --recipe strong ;;
    strong-bias) train strong densenet-bias --recipe strong ;;
    document) document ;;
    *) say "no such part: $part" && exit 2 ;;
    esac
done

say "done${failed:+, with failures}"
[ -z "$failed" ]
