"""Print TF_CONFIG for this task of a Slurm step, from TensorFlow's own cluster resolver.

srun sh -c 'export TF_CONFIG=$(python examples/slurm_tf_config.py); aip_run --gin_file=...'
"""

import json
import sys

import tensorflow as tf

resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
    port_base=int(sys.argv[1]) if len(sys.argv) > 1 else 8888,
    # Slurm hands out the GPUs (--gpus-per-task). These keep the resolver from asking nvidia-smi,
    # which fails where there is none, and from setting CUDA_VISIBLE_DEVICES.
    gpus_per_node=1024,
    gpus_per_task=1,
    auto_set_gpu=False,
)
cluster = resolver.cluster_spec().as_dict()
task = {"type": resolver.task_type, "index": resolver.task_id}
print(json.dumps({"cluster": cluster, "task": task}))
