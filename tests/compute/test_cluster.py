"""Two nodes of a Ray cluster with one CPU each, reached by RAY_ADDRESS: a run with two workers and fits span both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_pretraining import ROOT, pool, quiet, runs  # noqa: F401 (a fixture)

from echolung.pretraining.run import HISTORY, finish

SCRIPT = """
import json, os, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from echolung.compute.pretraining import pretrain
from echolung.compute.session import ray_session
from echolung.compute.trials import run_trials
from test_pretraining import runs

def fit(configuration):
    (out / f"fit{configuration['x']}").touch()
    while not (out / "fit0").exists() or not (out / "fit1").exists():  # each waits for the other: no node holds both
        time.sleep(0.1)
    return {"node": ray.get_runtime_context().get_node_id()}

pool, out = Path(sys.argv[1]), Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
with ray_session(1):
    pretrain(runs(pool, out, [0], workers=2, precision="float32"), out / "encoders")
    print(json.dumps(run_trials(fit, [{"x": 0}, {"x": 1}], out / "fits", "fit", 1)))
cluster.shutdown()
"""


def test_a_run_spans_two_nodes_with_the_losses_of_one_process_and_so_do_fits(pool: Path, tmp_path: Path) -> None:  # noqa: F811
    own = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/compute'}", "RAY_AUTH_TOKEN": "0" * 64}
    own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the loopback address only
    command = [sys.executable, "-c", SCRIPT, str(pool), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len({one["node"] for one in json.loads(done.stdout.splitlines()[-1])}) == 2
    (alone,) = runs(pool, tmp_path / "alone", [0], precision="float32")
    finish(alone, quiet, "cpu")
    ours, theirs = (pd.read_csv(place / HISTORY) for place in (tmp_path / "encoders" / "seed0", alone.result))
    assert ours["step"].tolist() == theirs["step"].tolist() == [1, 2, 3, 4]
    assert ours["loss"].tolist() == pytest.approx(theirs["loss"].tolist(), rel=1e-5)
