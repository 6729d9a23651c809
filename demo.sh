#!/usr/bin/env bash
# The second half of `make demo`: champion, a video nobody has trained on, the table. Needs a finished `dvc repro`.
set -euo pipefail
cd "$(dirname "$0")"

for task in pocus-pathology blues-covid; do
    # A champion that was not earned is a result, not a failure of the demonstration.
    echolung promote "$task" || echo "No champion for $task: see the reason above."
done
video=data/demo/held-back.mp4
[ -f "$video" ] || echolung phantom lung "$video" --pattern covid --seed 90210
echo
echolung predict "$video" --task pocus-pathology || true
echo
echolung show
echo
echo "To go on by hand: source .venv/bin/activate"
