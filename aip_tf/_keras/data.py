"""What a tf.data pipeline does not say in public: whether it draws from a seed."""


def is_seeded(dataset):
    """Whether a dataset yields the same elements in every process; False where that is unknown.

    Shuffles and random operations without a seed draw from a new one in every process, and what a
    Python function yields nobody knows.
    """
    seeds = [getattr(dataset, name) for name in ("_seed", "_seed2") if hasattr(dataset, name)]
    if seeds and not any(int(seed) for seed in seeds):
        return False
    graphs = (wrapper.function.graph for wrapper in dataset._functions())
    if not all(_is_known(graph.as_graph_def(use_pybind11_proto=False)) for graph in graphs):
        return False
    return all(is_seeded(source) for source in dataset._inputs())


def _is_known(graph):
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return all(_draws_from_a_seed(node) for node in nodes)


def _draws_from_a_seed(node):
    if any(unknown in node.op for unknown in ("PyFunc", "Shuffle", "IteratorGetNext")):
        return False
    seeds = [node.attr[name].i for name in ("seed", "seed2") if name in node.attr]
    return not seeds or any(seeds)
