"""The game: teacher, student and discriminator in one training step."""

import logging
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.game.discriminator import AdversarialTransfer
from aip_tf.game.recipe import check_forms, check_pair, check_transfers, default_transfers
from aip_tf.game.taps import Reader, as_pairs
from aip_tf.game.transfers import one_number
from aip_tf.game.views import Scale
from aip_tf.game.weights import (
    as_strong,
    batch_for,
    first_of,
    found_or,
    num_samples,
    open_weight,
    unchanging,
)
from aip_tf.task.outputs import answer_forms, num_units, symbolic_outputs

_log = logging.getLogger("aip_tf")
_BALANCED = 128  # samples; of 32, what is found differs by a factor of two
_HALF_PRECISION = 1024.0  # a power of two: nothing is rounded


class AdversarialDistiller(_keras.ReplicaModel):
    """Trains a student with the help of a teacher; the recovery step of AIP (arXiv 2108.13591).

    The student's loss is `supervised_weight * compiled loss + sum of weight * transfer loss`, plus
    the student's own regularisers. One step makes exactly one forward pass of the teacher
    (inference mode, no gradient), one of the student and one of the discriminator.

    It is used like any keras.Model: `compile`, `fit`, callbacks. `evaluate`, `predict`, calling it
    and all that is saved or restored speak of the student alone: `save` and ModelCheckpoint write a
    plain keras.Model. So does the log: `loss` is the compiled loss, as `val_loss` is, and both fall
    while the student improves; the sum that is minimised is `total_loss` (the adversarial term in
    it may rise meanwhile, its opponent learns too), and every term has an entry. Without a compiled
    loss both are the sum. `save_state` and `load_state` are for going on
    later: student, discriminators and all optimizers, not the teacher, which is never changed, not
    even its `trainable` flag. The transfers hand over what they know about every sample alike;
    class and sample weights apply to the labels' loss. Dropout, augmentation and other layers that
    draw random numbers are as at inference in both, as far as the student is a graph: a map of a
    turned image cannot be compared with that of the image.

    Args:
        teacher: a keras.Model.
        student: a keras.Model with the same inputs and outputs: a pruned copy, or any other
            network, which attention transfer pairs with its teacher by resolution.
        transfers: list of `Transfer`s, copied (`distiller.transfers` are the ones in use); None:
            `OutputTransfer(), FeatureTransfer(), AttentionTransfer(), AdversarialTransfer(0.1)`, as
            far as the networks can be compared. With an empty list training gives the same numbers
            as the student's own `fit`.
        supervised_weight: factor of the compiled loss. None: 1, which sets labels beside answers
            (Hinton et al. 2015, arXiv 1503.02531), both in nats. Where an output is values, whose
            loss is in a unit of its own, 1 over what answers that are always the same would lose
            there; not more than 1 if another output is of classes.
        name: the model's name.
        forms: what each output answers, `"classes"`, `"yes/no"` (each unit for itself) or
            `"values"`, in their order; None: what its last layer and its loss say. Logits whose
            loss is a function of your own count as values, unless an accuracy is among the metrics.

    Raises:
        ValueError: if teacher and student do not fit together, a transfer does not fit them, or
            for unknown forms.

    >>> teacher, student = (
    ...     keras.Sequential([
    ...         keras.Input((8, 8, 1)), keras.layers.Conv2D(width, 3, name="conv"),
    ...         keras.layers.Flatten(), keras.layers.Dense(4),
    ...     ])
    ...     for width in (8, 4)
    ... )
    >>> distiller = AdversarialDistiller(teacher, student)
    >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> logs = distiller.train_on_batch(
    ...     keras.ops.ones((2, 8, 8, 1)), keras.ops.zeros(2), return_dict=True
    ... )
    >>> sorted(logs)  # doctest: +NORMALIZE_WHITESPACE
    ['adversarial_loss', 'attention_loss', 'discriminator_accuracy', 'discriminator_loss', 'loss',
     'output_loss', 'supervised_loss', 'total_loss']
    """

    def __init__(
        self, teacher, student, transfers=None, supervised_weight=None, name=None, forms=None
    ):
        check_pair(teacher, student)
        super().__init__(student, name)
        self.teacher = teacher
        if transfers is None:
            transfers = default_transfers(teacher, student)
        check_transfers(transfers, supervised_weight)
        if forms is not None:
            check_forms(forms, teacher)
        self.transfers = [transfer.bind(teacher, student) for transfer in transfers]
        self.pulls = {t.name: open_weight(t.name) for t in self.transfers if t.weight == "auto"}
        self.forms, self.scales = list(forms or ()), {}
        self.supervised_weight = supervised_weight
        self.labels_weight = None  # a variable where it is still to be found, or was
        self.discriminators = [t.discriminator for t in self._adversaries]
        taps = [as_pairs(t.taps) for t in self.transfers]
        energies = [as_pairs(t.energies) for t in self.transfers]
        self._read = SimpleNamespace(
            teacher=Reader(teacher, _all(taps, dict.keys), _all(energies, dict.keys)),
            student=Reader(
                student,
                _all(taps, dict.values),
                _all(energies, dict.values),
                is_quiet=bool(self.transfers),
            ),
        )
        names = [n for t in self.transfers for n in t.log_names]
        names = [_keras.TOTAL, "supervised_loss", *names] if names else []
        self._trackers = {n: keras.metrics.Mean(name=n) for n in names}

    # --- training ---------------------------------------------------------------------------

    def compile(self, optimizer="sgd", loss=None, jit_compile=False, **kwargs):
        """As `keras.Model.compile`; `optimizer` and `loss` are the student's.

        Args:
            optimizer: the student's optimizer; the discriminator gets its own, see
                `AdversarialTransfer`.
            loss: any Keras loss(es) between labels and outputs; None: only the transfers teach. It
                (or else what the teacher was compiled with) also tells them what the outputs
                answer, see `OutputTransfer`.
            jit_compile: XLA; works on one device, off unless asked for.
            **kwargs: metrics, loss_weights, weighted_metrics, steps_per_execution, ...

        Raises:
            ValueError: for XLA under a strategy, two players with one optimizer, or a student
                without trainable weights or outside the strategy's scope.
        """
        self._check_compile(jit_compile)
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **kwargs)
        with self.distribute_strategy.scope():
            self._tell_forms(loss, (kwargs.get("metrics"), kwargs.get("weighted_metrics")))
            self._open_labels(loss)
            for transfer in self._adversaries:
                transfer.compile(self.optimizer)

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; weights that are not given are found on the first batch."""
        is_open = any(np.isnan(v.numpy()).any() for v in self.found_variables)
        batch = batch_for(x, *args, **kwargs) if is_open else None
        if batch is not None and (found := self.balance(*batch)):
            listed = ", ".join(f"{name} {weight:.3g}" for name, weight in found.items())
            _log.info("Weights found: %s.", listed)
        return super().fit(x, *args, **kwargs)

    def balance(self, x, y=None, sample_weight=None):
        """Find the weights that are "auto": each makes its term pull as hard as the answers do.

        The pull of a term is the norm of its gradient with respect to the student's weights. What a
        term is worth beside the answers depends on network, cut and data; its pull does not (found
        by search: attention 50 and features 16 for ResNet-20 on CIFAR-10, 10 and less on digits; by
        pull: 32 and 13, 9 and 7). Measured once in a stretch, in inference mode, then kept. So is
        the scale of outputs that are values, and of their loss: a small batch, such as the last of
        an epoch, tells too little of it.

        Args:
            x: a batch of inputs; at most 128 of them are looked at.
            y, sample_weight: their labels and weights, where the weight of labels is to be found.

        Returns:
            {name of the transfer, or "supervised" for the labels: weight}.
        """
        x = _keras.first_samples(self.student, x, _BALANCED)
        x = keras.tree.map_structure(tf.convert_to_tensor, x)
        y, sample_weight = first_of((y, sample_weight), num_samples(x))
        if self.scales:
            measured = self._graph(lambda: self._scales_on(x))()
            for scale, found in zip(self.scales.values(), measured, strict=True):
                scale.assign(found)
        if self.pulls:
            self._find_pulls(x)
        weights = {name: float(found.numpy()) for name, found in self.pulls.items()}
        if self.labels_weight is not None and y is not None:
            labels = self._graph(lambda: self._labels_on(x, y, sample_weight))
            self.labels_weight.assign(labels())
            weights["supervised"] = float(self.labels_weight.numpy())
        return weights

    def _graph(self, function):
        """A function that says what another one says in the first replica, as a graph.

        Run eagerly it would keep more in memory.
        """
        strategy = self.distribute_strategy
        run = _keras.forgetting_gradients(lambda *given: strategy.run(function, given))
        run = tf.function(run, autograph=False)

        def call(*given):
            found = run.get_concrete_function(*given)(*given)
            return keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], found
            )

        return call

    def _find_pulls(self, x):
        asked = [t for t in self.transfers if t.weight == "auto"]
        measured = [*self._answers, *asked]
        pull = self._graph(lambda factors: self._pull_on(x, measured, factors))
        # The answers together, then each term alone: one by one they need no more memory than fit.
        reference = pull(tf.constant([t.weight for t in self._answers] + [0.0] * len(asked)))
        alone = np.eye(len(measured), dtype="float32")[len(self._answers) :]
        for transfer, factors in zip(asked, alone, strict=True):
            norm = pull(tf.constant(factors))
            self.pulls[transfer.name].assign(as_strong(reference, norm, transfer.usual_weight))

    def _scales_on(self, x):
        """What `Scale.measure` says of every output that is values, on a batch, in one replica."""
        _, teacher = self._read.teacher(x, training=False)
        return [scale.measure(teacher.outputs[i]) for i, scale in self.scales.items()]

    def _pull_on(self, x, transfers, factors):
        """The norm of the gradient of sum factor * loss on a batch, in one replica."""
        _, teacher = self._read.teacher(x, training=False)
        with tf.GradientTape() as tape:
            _, student = self._read_student(x, teacher, training=False)
            terms = [
                tf.cast(one_number(t, t.loss(teacher, student)), tf.float32) for t in transfers
            ]
            loss = _keras.add([factors[i] * term for i, term in enumerate(terms)])
        # Half precision has no numbers for the small gradients of large maps; all are scaled alike.
        scale = tf.constant(_HALF_PRECISION, loss.dtype)
        variables = self.student.trainable_variables
        gradients = tape.gradient(loss, variables, output_gradients=scale)
        return tf.linalg.global_norm([tf.cast(g, tf.float32) for g in gradients if g is not None])

    def _labels_on(self, x, y, sample_weight):
        """1 over what the mean of the teacher's answers to a batch loses, in one replica."""
        answers, _ = self._read.teacher(x, training=False)
        means = keras.tree.map_structure(unchanging, answers)
        lost, is_whole = self.loss_of_some(self.scales, y, means, sample_weight)
        lost = lost if is_whole else tf.maximum(lost, 1.0)  # labels of classes weigh 1
        return tf.where(lost > 0, 1.0 / lost, 1.0)

    def train_step(self, data):
        """One step of the game: every network is asked once, every player moves once."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        share = _keras.share_of(x)
        padded = share.pad(x)

        # The teacher answers: inference mode, outside of every tape.
        _, teacher = self._read.teacher(padded, training=False)

        # The student answers, and hears from the labels and from every transfer.
        with tf.GradientTape() as tape:
            y_pred, student = self._read_student(padded, teacher, training=True)
            y_pred, student, teacher = share.cut(y_pred), student.cut(share), teacher.cut(share)
            moves = [transfer.play(teacher, student) for transfer in self.transfers]
            loss, judged, logs = self._student_loss(y, y_pred, sample_weight, moves, share)
            scaled_loss = self.optimizer.scale_loss(loss)
        self.descend(tape, scaled_loss)

        # The discriminators learn from the same answers.
        for move in moves:
            if move.learn is not None:
                move.learn()

        self.record(x, judged, share)
        for name, tracker in self._trackers.items():
            if name == _keras.TOTAL:
                self.record_loss(loss, share, tracker)
            elif name in logs:
                tracker.update_state(share.known(logs[name]), sample_weight=share.samples)
        return self.train_logs(self.compute_metrics(x, y, y_pred, sample_weight))

    def test_step(self, data):
        """The student alone, under the compiled loss and metrics."""
        logs = super().test_step(data)
        return {k: v for k, v in logs.items() if k not in self._trackers}

    def _read_student(self, x, teacher, training):
        """As `Reader`; its tensors are compared with the teacher's where they are made."""
        comparisons = {}
        for transfer in self.transfers:
            pairs = as_pairs(transfer.energies) | as_pairs(transfer.taps)
            functions = transfer.comparisons(teacher)
            comparisons[transfer.name] = {p: (pairs.get(p, p), f) for p, f in functions.items()}
        return self._read.student(x, training, comparisons)

    def _student_loss(self, y, y_pred, sample_weight, moves, share):
        """The sum to minimise, the student's loss under the labels, and the terms for the log."""
        num_replicas = self.distribute_strategy.num_replicas_in_sync
        labels, others = self.loss_parts(y, y_pred, sample_weight)
        parts, judged = list(others), None
        logs = {name: value for move in moves for name, value in move.logs.items()}
        if labels is not None:
            logs["supervised_loss"] = labels * num_replicas
            parts.insert(0, self._weight_of_labels() * share.scale(labels))
            judged = _keras.add([share.scale(labels), *others])
        # Gradients are summed over replicas; Keras has divided its own losses already.
        for transfer, move in zip(self.transfers, moves, strict=True):
            weight = self._weight_of(transfer)
            parts.append(weight / num_replicas * share.scale(one_number(transfer, move.loss)))
        loss = _keras.add(parts)
        return loss, loss if judged is None else judged, logs

    def _tell_forms(self, loss, metrics):
        """Tell the transfers what the outputs answer: a linear one does not say."""
        if not _keras.is_graph(self.teacher):
            return
        if loss is None:
            told = _keras.compile_arguments(self.teacher)
            loss, metrics = told.get("loss"), (told.get("metrics"), told.get("weighted_metrics"))
        forms = self.forms or answer_forms(self.teacher, loss, metrics)
        answers = zip(symbolic_outputs(self.teacher), forms, strict=True)
        self.scales = {
            i: self.scales.get(i) or Scale(num_units(x.shape[1:]))
            for i, (x, form) in enumerate(answers)
            if form == "values"
        }
        for transfer in self.transfers:
            transfer.tell(forms, self.scales)

    def _open_labels(self, loss):
        """Let the weight of labels be found where the loss of values may be in any unit."""
        is_asked = self.supervised_weight is None and loss is not None
        is_open = is_asked and self.scales and self._answers
        self.labels_weight = open_weight("labels") if is_open else None

    def _weight_of_labels(self):
        if self.labels_weight is not None:
            return found_or(self.labels_weight, 1.0)
        return 1.0 if self.supervised_weight is None else self.supervised_weight

    def _weight_of(self, transfer):
        if transfer.name in self.pulls:
            return found_or(self.pulls[transfer.name], transfer.usual_weight)
        return transfer.weight

    @property
    def _answers(self):
        return [t for t in self.transfers if t.is_of_answers and t.weight]

    @property
    def term_names(self):
        """Log entries of the terms of the loss, and of what the players say of each other."""
        return tuple(self._trackers)

    @property
    def found_variables(self):
        """What `balance` finds, to be kept with the state: variables."""
        scales = [v for scale in self.scales.values() for v in scale.variables]
        labels = [] if self.labels_weight is None else [self.labels_weight]
        return [*self.pulls.values(), *labels, *scales]

    @property
    def game_variables(self):
        """What training changes beside the student and its optimizer: variables."""
        return [*(v for t in self.transfers for v in t.variables), *self.found_variables]

    @property
    def _adversaries(self):
        return [t for t in self.transfers if isinstance(t, AdversarialTransfer)]

    def _state(self):
        state = super()._state()
        state.game = self.game_variables
        return state

    # --- checks ---------------------------------------------------------------------------------

    def _check_compile(self, jit_compile):
        strategy = self.distribute_strategy
        if jit_compile is True and tf.distribute.has_strategy():
            raise ValueError(
                f"Received jit_compile=True under {type(strategy).__name__}. Expected False: XLA "
                "cannot compile a step that is run by a strategy."
            )
        if not self.student.trainable_variables:
            raise ValueError(
                f"Received the student {self.student.name!r} without trainable weights. Expected "
                "some: set `student.trainable = True` before compiling."
            )
        for variable in self.student.variables:
            if not strategy.extended.variable_created_in_scope(variable.value):
                raise ValueError(
                    f"Received a student whose variable {variable.path!r} was not made under "
                    f"{type(strategy).__name__}. Expected student, distiller and optimizer to be "
                    "made inside one `strategy.scope()`."
                )


def _all(pairs, side):
    """The paths of one side of several {teacher path: student path}, each once."""
    return tuple(dict.fromkeys(path for each in pairs for path in side(each)))
