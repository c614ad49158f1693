"""Plays a cluster: a head and one more node, of one processor each; `add` and `remove` on stdin change it."""

from __future__ import annotations

import os
import sys

os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})

from ray.cluster_utils import Cluster

HEAD = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**HEAD, "temp_dir": sys.argv[1]})
    others = [cluster.add_node(num_cpus=1, object_store_memory=2**27)]
    print(f"node: {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            others.append(cluster.add_node(num_cpus=1, object_store_memory=2**27))
        if line.strip() == "remove":
            cluster.remove_node(others[0], allow_graceful=False)
        if line.strip() == "end":
            break
        print("node: done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
