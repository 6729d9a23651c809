#!/usr/bin/env bash
# The second half of `make demo`: champions, the answer for a new video, the comparison. Needs a finished `dvc repro`.
set -euo pipefail
cd "$(dirname "$0")"

# Exit code 3 is a refusal, e.g. of a candidate that is not good enough: a result. Every other failure ends the demo.
or_refused() { "$@" || [ $? = 3 ]; }

task=pocus-pathology
video=data/demo/held-back.mp4
ask() { echolung predict "$video" --task "$task"; }

for each in "$task" blues-covid; do
    or_refused echolung promote "$each"
done
[ -f "$video" ] || echolung phantom lung "$video" --pattern covid --noise 30 --seed 90210 >/dev/null
ask || {
    [ $? = 3 ] || exit 1
    or_refused echolung promote "$task" --arm random # without a champion there is nothing to ask
    or_refused ask
}
echolung show
echo "Next:   source .venv/bin/activate && echolung --help"
