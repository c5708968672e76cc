"""`Task`: loss, metrics, outputs and labels of a model, asked once instead of by everyone."""

import dataclasses

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.arguments import check, instance
from aip_tf.failures import words
from aip_tf.task import batches, checks, labels
from aip_tf.task.outputs import output_kinds
from aip_tf.task.wishes import check_wishes

_KINDS = {
    "main_metric": instance(str, "the name of a metric", or_none=True),
    "higher_is_better": instance(bool, "True, False", or_none=True),
}


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of a model and what is asked of it.

    Attributes:
        name: the output's name.
        shape: without batch; None where a size is open.
        kind: how its answers are made, see `outputs.output_kinds`.
        form: what they are: `"classes"`, `"yes/no"` (each unit for itself) or `"values"`.
        loss: the resolved Keras loss; None if nothing is asked of this output.
        labels: what the loss wants to be told: `"integer"`, `"one_hot"`, `"binary"`, `"values"`,
            or `""`: known to the loss alone.
    """

    name: str
    shape: tuple
    kind: str
    form: str = "classes"
    loss: object = None
    labels: str = ""

    @property
    def num_classes(self):
        """How many classes the output tells apart; None if it is no classifier's."""
        if self.form == "values" or not self.shape or self.loss is None:
            return None
        return 2 if self.shape[-1] == 1 else self.shape[-1]

    @property
    def is_judged_by_accuracy(self):
        """Whether Keras' accuracy says of every label that counts whether it was told.

        Labels that only a loss of the user's own can read it may not fit, and it knows of no class
        to be ignored.
        """
        is_known = self.labels in ("integer", "one_hot", "binary")
        return is_known and getattr(self.loss, "ignore_class", None) is None


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model is asked to do: its loss, its metrics, and the one metric that counts.

    As written by a user it holds wishes; `read` completes them from a compiled model and a batch of
    the data, and checks that all three fit together. A task that measures something Keras cannot
    (`detection.DetectionTask`: average precision) is a subclass that extends `evaluate`.

    Attributes:
        loss: as for `compile`; None: that of the compiled model, or else the cross-entropy that
            fits each output and its labels.
        metrics: as for `compile`; None: those of the compiled model, or else accuracy for every
            output with a cross-entropy of Keras' own that ignores no class.
        main_metric: name of the metric that counts, as `evaluate` calls it; None: the first metric,
            or the loss without any.
        higher_is_better: whether the main metric should rise; None: as Keras knows it.
        loss_weights, weighted_metrics: as for `compile`.
        outputs: a tuple with an `Output` for each output of the model; filled in by `read`.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> task = Task().read(model, (keras.ops.ones((2, 4)), keras.ops.array([0, 2])))
    >>> task.loss.name, task.main_metric, task.outputs[0].num_classes
    ('sparse_categorical_crossentropy', 'accuracy', 3)
    """

    loss: object = None
    metrics: object = None
    main_metric: str | None = None
    higher_is_better: bool | None = None
    loss_weights: object = None
    weighted_metrics: object = None
    outputs: tuple = ()

    def __post_init__(self):
        check(_KINDS, vars(self))
        check_wishes(self.loss, self.metrics, self.weighted_metrics)

    @property
    def forms(self):
        """What the outputs answer, see `Output.form`; of a task that was not read ()."""
        return tuple(output.form for output in self.outputs)

    # --- read once ------------------------------------------------------------------------------

    def read(self, model, batch, opened=None):
        """This task with everything filled in, checked against the model and the batch.

        Args:
            model: a built keras.Model, compiled or not; not changed.
            batch: `(inputs, labels)` or `(inputs, labels, sample_weights)`, in the structure that
                `fit` takes.
            opened: a Functional copy of a subclassed model, which shows how its answers are made.

        Raises:
            ValueError: if inputs, labels, outputs and loss do not fit together, or no loss is
                given and none can be told.
        """
        inputs, truth = batches.parts(batch)
        task = self.completed(model)
        model = opened or model
        batches.check_inputs(model, inputs)
        batches.check_sizes(batch)
        answers = _keras.output_specs(model, inputs)
        names = _keras.names_of_outputs(model, answers)
        given = labels.labels_by_output(truth, names)
        if task.loss is None:
            checks.check_given(names, given)
        kinds = output_kinds(model) if _keras.is_graph(model) else [""] * len(names)
        shapes = [tuple(x.shape[1:]) for x in keras.tree.flatten(answers)]
        if task.loss is None:
            found = [
                labels.default_loss(*each) for each in zip(names, kinds, shapes, given, strict=True)
            ]
            task = dataclasses.replace(task, loss=_packed(answers, found))
        task._check_names(names)
        losses = map(labels.resolved, labels.spread(task.loss, names), shapes, given)
        outputs = tuple(map(_output, names, kinds, shapes, losses, given))
        checks.check_labels(outputs, given)
        checks.check_sample_weights(outputs, batch)
        checks.check_scales(outputs)
        task = dataclasses.replace(task, outputs=outputs)
        return task._with_metrics(answers, task.convert(truth))

    def _check_names(self, names):
        """Whether wishes are for outputs that there are; Keras leaves others out without a word."""
        for value in (self.metrics, self.weighted_metrics, self.loss_weights):
            is_nested = isinstance(value, list | tuple) and any(map(_is_list, value))
            if isinstance(value, dict) or is_nested:
                labels.spread(value, names)

    def check(self, model, batch):
        """Whether a batch of other data (validation, test) fits this task, which was read.

        Args:
            model: the model that it was read from, or its Functional copy.
            batch: see `read`.

        Raises:
            ValueError: if inputs or labels do not fit.
        """
        inputs, truth = batches.parts(batch)
        batches.check_inputs(model, inputs)
        batches.check_sizes(batch)
        given = labels.labels_by_output(truth, [output.name for output in self.outputs])
        checks.check_labels(self.outputs, given)
        checks.check_sample_weights(self.outputs, batch)

    def check_all(self, truth):
        """Whether all labels of a data set, where they are at hand, are in the outputs' range.

        Raises:
            ValueError: if they are not.
        """
        given = labels.labels_by_output(truth, [output.name for output in self.outputs])
        checks.check_labels(self.outputs, given)
        checks.count_classes(self.outputs, given)

    def check_class_weight(self, class_weight):
        """Whether the classes to be weighed are some that the model tells apart.

        Raises:
            ValueError: for a class that it does not have.
        """
        checks.check_class_weight(self.outputs, class_weight)

    def completed(self, model):
        """This task; what it leaves open, as the model was compiled."""
        compiled = _keras.compile_arguments(model)
        if self.loss is not None:
            compiled = {k: v for k, v in compiled.items() if k not in ("loss", "loss_weights")}
        if self.metrics is not None:
            compiled = {k: v for k, v in compiled.items() if "metrics" not in k}
        open_ = {k: v for k, v in compiled.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **open_)

    def _with_metrics(self, answers, truth):
        metrics = self.metrics
        missing = checks.without_labels(self.outputs, truth)
        if metrics is None and self.weighted_metrics is None and not missing:
            judged = [x.name for x in self.outputs if x.is_judged_by_accuracy]
            metrics = {name: ["accuracy"] for name in judged}
            if len(self.outputs) == 1:
                metrics = ["accuracy"] if judged else []
        elif missing and (metrics or self.weighted_metrics):
            raise ValueError(
                f"Received metrics, and no labels for the outputs {missing}. Expected labels for "
                "all outputs, as Keras needs where there are metrics: add them, or compile the "
                "model without metrics."
            )
        task = dataclasses.replace(self, metrics=metrics)
        names = [output.name for output in self.outputs]
        rising = _keras.metric_directions(*task._fresh_metrics(), names, truth, answers)
        main = self.main_metric or next(iter(rising), "loss")
        known = [*rising, "loss", *(f"{name}_loss" for name in names if len(names) > 1)]
        own = (type(self).evaluate, type(self).measure) != (Task.evaluate, Task.measure)
        if not own and main not in known:
            raise ValueError(
                f"Received main_metric={main!r}. Expected one that is measured: "
                f"{', '.join(map(repr, known))}."
            )
        higher = self.higher_is_better
        if higher is None:
            higher = rising.get(main, not main.endswith(("loss", "error")))
        return dataclasses.replace(task, main_metric=main, higher_is_better=higher)

    # --- used by everyone -----------------------------------------------------------------------

    def prepare(self, data):
        """`data` with its labels as the loss wants them: integers become one-hot where needed.

        Args:
            data: `tf.data.Dataset` of (inputs, labels, ...) batches, or None.
        """
        if data is None or not any(output.labels == "one_hot" for output in self.outputs):
            return data
        return data.map(lambda x, y, *rest: (x, self.convert(y), *rest))

    def convert(self, truth):
        """A batch of labels, in its structure, as the loss wants them."""
        if isinstance(truth, dict):
            by_name = {output.name: output for output in self.outputs}
            return {name: _as_wanted(y, by_name[name]) for name, y in truth.items()}
        if isinstance(truth, list | tuple):
            asked = checks.asked(self.outputs, truth)
            return type(truth)(_as_wanted(*each) for each in zip(truth, asked, strict=True))
        return _as_wanted(truth, self.outputs[0])

    def compile(self, model, optimizer=None, **options):
        """Compile `model`, in place, for this task; metrics are fresh copies.

        Args:
            model: anything with Keras' `compile`.
            optimizer: a Keras optimizer or its name; None: for measuring alone.
            **options: further arguments of `compile`.
        """
        metrics, weighted = self._fresh_metrics()
        if optimizer is None:  # of one name: TensorFlow keeps 35 KB for each
            optimizer = keras.optimizers.SGD(name="sgd")
        model.compile(
            optimizer=optimizer,
            loss=self.loss,
            loss_weights=self.loss_weights,
            metrics=metrics,
            weighted_metrics=weighted,
            **options,
        )

    def evaluate(self, model, data):
        """The loss and every metric of a model, by name, under any strategy.

        Args:
            model: a keras.Model with this task's outputs; its compile state does not matter and is
                not touched.
            data: `tf.data.Dataset` of (inputs, labels, ...) batches, see `prepare`.

        Returns:
            {name: float}, as Keras' `evaluate(return_dict=True)` gives it.
        """
        judge = _keras.ReplicaModel(model)
        self.compile(judge)
        _keras.build_metrics(judge, data.element_spec)  # made in a graph they would keep it alive
        return judge.evaluate(data, verbose=0, return_dict=True)

    def measure(self, answer):
        """Further metrics, of data that the task itself holds; none of a plain task.

        Args:
            answer: `answer(inputs) -> outputs` in the model's structures: the model, or a delivered
                file of it.

        Returns:
            {name: float}.
        """
        return {}

    def illustrate(self, model):
        """What a model makes of a few samples, for the report; none of a plain task.

        Returns:
            `{}`, or `{"photographs": [data URI], "truth": boxes, "found": boxes, "caption": text}`,
            see `report.pictures.render`.
        """
        return {}

    def rehearse(self, model, elements):
        """Whether loss and metrics can be computed of such batches: traced once, on symbols.

        Args:
            model: a keras.Model with this task's outputs; not changed.
            elements: specification of a batch, as `dataset.element_spec` gives it, see `prepare`.

        Returns:
            List of str, what is measured of them.

        Raises:
            ValueError: if they cannot: a function that takes other arguments, a weight or a metric
                for an output that is not there.
        """
        try:
            judge = _keras.ReplicaModel(model)
            self.compile(judge)
            _keras.build_metrics(judge, elements)
            return list(judge.get_metrics_result())
        except Exception as error:  # Keras has many words for it, and so have functions of users'
            raise ValueError(
                f"Received a loss and metrics ({_listed(self.loss)}; {_listed(self.metrics)}) that "
                f"cannot be computed of a batch: {type(error).__name__}: {words(error)} "
                "Expected such as `compile` takes for the outputs "
                f"{', '.join(repr(output.name) for output in self.outputs)}."
            ) from error

    def loss_of(self, truth, answers):
        """The scalar loss of a batch: labels and outputs in the structure that `fit` takes."""
        names = [output.name for output in self.outputs]
        loss = _keras.joined_loss(self.loss, self.loss_weights, names)
        return loss(truth, answers)

    def check_classes(self, num_classes, class_names=None):
        """Whether classifying outputs have a unit for each class; a warning if they have more.

        Raises:
            ValueError: for fewer units than classes.
        """
        checks.check_classes(self.outputs, num_classes, class_names)

    def doubt(self, metrics):
        """One line about a model that hardly does better than chance, or None."""
        return checks.doubt(self.outputs, metrics)

    def is_better(self, metrics, others):
        """Whether one evaluation beats another by the main metric; anything beats None and NaN."""
        if others is None or np.isnan(others[self.main_metric]):
            return True
        sign = 1 if self.higher_is_better else -1
        return sign * metrics[self.main_metric] > sign * others[self.main_metric]

    def _fresh_metrics(self):
        return tuple(
            keras.tree.map_structure(_keras.fresh_metric, x)
            for x in (self.metrics, self.weighted_metrics)
        )


def _listed(wishes):
    parts = [x for x in keras.tree.flatten(wishes) if x is not None]
    return ", ".join(x if isinstance(x, str) else checks.name_of(x) for x in parts) or "none"


def _is_list(value):
    return isinstance(value, list | tuple)


def _output(name, kind, shape, loss, truth):
    kind = kind or labels.kind_from_loss(loss)
    form = labels.answer_form(kind, shape, loss, truth)
    return Output(name, shape, kind, form, loss, labels.wanted_form(loss))


def _packed(answers, values):
    """Values of several outputs in the structure of the model's answers."""
    return keras.tree.pack_sequence_as(answers, values)


def _as_wanted(truth, output):
    if output.labels == "one_hot" and labels.given_form(truth, output.shape) == "integer":
        return labels.one_hot(truth, output.shape)
    return truth
