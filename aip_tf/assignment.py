"""What one run of `prune` is to do: read, checked before anything trains, and told from others."""

import contextlib
import dataclasses
import itertools
import logging

from aip_tf import _keras, criteria, decays, identity, schedules
from aip_tf import selection as selections
from aip_tf.channels import ChannelGraph
from aip_tf.cutting import apply_cut, plan_cut
from aip_tf.datasets import adapt, looks
from aip_tf.datasets.passes import counted
from aip_tf.distribution import share_batches
from aip_tf.game.recipe import default_transfers
from aip_tf.recovery import recalibrate, recovery_from
from aip_tf.selection import select_channels
from aip_tf.task.answers import Answers, has_labels, inputs_of
from aip_tf.task.batches import (
    check_all_inputs,
    check_inputs,
    check_model,
    check_weights,
    found_in,
    unread,
)
from aip_tf.task.wishes import described

_log = logging.getLogger("aip_tf")

_BUDGETED = (
    selections.Macs,
    selections.PaddedMacs,
    selections.Parameters,
    selections.Channels,
    selections.PerGroup,
)


class Assignment:
    """The arguments of `prune`, resolved and checked against each other.

    Attributes:
        teacher: the model; of a subclassed one a copy that shows its layers.
        passes: list of the `Passes` over training and validation data.
        train, validation: batches with labels as the loss wants them; validation may be None.
        inputs: a batch of inputs.
        labels: its labels as the loss wants them, and where there are any their weights.
        graph: the `ChannelGraph` of the model.
        cuts: list of `schedules.Cut`.
        transfers: list of `Transfer`s, as given or by default.
        selection, criterion, recovery: resolved, the recovery with its task.
        identity: what makes two runs the same, as plain values.

    Raises:
        ValueError: for arguments that cannot work.
    """

    def __init__(
        self, model, train_data, validation_data, schedule, selection, criterion, recovery
    ):
        recovery = recovery_from(recovery)
        check_model(model)
        self.teacher = model
        self.selection, criterion = selections.get(selection), criteria.get(criterion)
        schedule = selections.final_fraction(schedule, self.selection)
        self.cuts = schedules.list_cuts(schedule, recovery.epochs)
        if recovery.keep == "best" and validation_data is None:
            raise ValueError(
                "Received keep='best' without validation data. Expected some: the best epoch is "
                "told by the main metric on them."
            )
        self.passes = list(map(counted, _datasets(train_data, validation_data, recovery)))
        self.identity = self._identify(criterion, recovery)
        check_weights(model)
        datasets = [passes.dataset for passes in self.passes]
        batch = adapt.first_batch(datasets[0])
        with found_in("training data"):
            check_inputs(model, inputs_of(batch))
        self.graph = ChannelGraph.on(model, inputs_of(batch))
        self.teacher = self.graph.plain_model
        _check_trainable(self.teacher, recovery.epochs)
        reading = contextlib.nullcontext()
        if not has_labels(datasets[0]):
            recovery, datasets = self._with_answers(model, recovery, datasets, batch)
            batch = adapt.first_batch(datasets[0])
            reading = found_in("answers of the teacher, which stand in for labels")
        with reading:
            self.recovery = recovery.for_model(model, batch, self.teacher)
        self.inputs = _keras.cast_inputs(self.teacher, batch[0])
        task = self.recovery.task
        self.labels = (task.convert(batch[1]), *batch[2:])
        task.check_class_weight(recovery.class_weight)
        check_data(task, self.teacher, "training data", train_data, batch)
        self.criterion = criteria.for_task(criterion, task)
        if isinstance(self.criterion, criteria.Criterion):
            self.criterion.check(self.inputs, int(datasets[0].cardinality()))
        for dataset in datasets[1:]:
            batch = adapt.first_batch(dataset, "validation_data")
            check_data(task, self.teacher, "validation data", validation_data, batch)
        shared = [task.prepare(share_batches(dataset)) for dataset in datasets]
        self.train, self.validation = (*shared, None)[:2]
        measured = [task.rehearse(self.teacher, data.element_spec) for data in shared]
        decays.check_monitors(self.recovery.callbacks, *measured)
        self.transfers = self.recovery.transfers
        if self.transfers is None:
            self.transfers = default_transfers(self.teacher, self.teacher)
        self._check_transfers()
        self._check_last_cut()

    @property
    def lengths(self):
        """Epochs of each stretch of training: before the first cut, and behind every cut."""
        ends = [0, *(cut.epoch + 1 for cut in self.cuts), self.recovery.epochs]
        return [end - begin for begin, end in itertools.pairwise(ends)]

    @property
    def settings(self):
        """What the run was asked to do, for its report."""
        return self.identity["settings"]

    def cut(self, graph, amount):
        """Plan a cut, make it, prove it on a batch, refit, measure the statistics anew.

        Args:
            graph: `ChannelGraph` of the student.
            amount: what is gone afterwards, of the original.

        Returns:
            As `cutting.apply_cut`.
        """
        with self._looking():
            keep_masks = plan_cut(
                graph,
                amount,
                selection=self.selection,
                criterion=self.criterion,
                data=self.train,
                reference=self.graph,
            )
            return apply_cut(
                graph,
                keep_masks,
                self.inputs,
                data=self.train,
                refit=getattr(self.criterion, "refit", None),
                num_batches=self.recovery.recalibration_batches,
            )

    def recalibrate(self, student):
        """Measure the statistics of BatchNormalization anew, see `recovery.recalibrate`."""
        with self._looking():
            recalibrate(student, self.train, self.recovery.recalibration_batches)

    def evaluate(self, model):
        """Validation metrics of a model, by name; none without validation data."""
        data = self.validation
        with _keras.keeping_random_states(self.teacher):
            return {} if data is None else self.recovery.task.evaluate(model, data)

    def describe(self):
        """What runs, for its report: model, data, task and transfers, as plain values."""
        task = self.recovery.task
        transfers = self.transfers
        return {
            "model": f"{self.teacher.name} ({type(self.teacher).__name__})",
            "data": {k: v for k, v in self.identity.items() if k.endswith("data")},
            "classes": [output.num_classes for output in task.outputs],
            "transfers": [identity.describe(transfer) for transfer in transfers],
            "optimizer": identity.describe(self.recovery.optimizer_for(self.graph.plain_model)),
            "labels": "given" if has_labels(self.passes[0].dataset) else "the teacher's answers",
            "loss": identity.describe(task.loss),
            "metrics": identity.describe(task.metrics),
            "main metric": task.main_metric,
        }

    def masks_of(self, amount):
        """Keep masks of an amount by weights alone; None where only data or time would tell.

        Raises:
            ValueError: if the amount cannot be reached, whatever the scores.
        """
        if not isinstance(self.selection, _BUDGETED):
            return None
        return select_channels(self.graph, amount, selection=self.selection)

    def survives(self, snapshot, other):
        """Whether a snapshot of a run with another identity is one of this run, too.

        It is if they differ only in cuts that come later than it, or in how long they go on.
        """
        number, now = snapshot["round"], self.identity["settings"]
        then = other.get("settings", {})
        later = {"cuts", "epochs"}
        same = {**other, "settings": {k: v for k, v in then.items() if k not in later}} == {
            **self.identity,
            "settings": {k: v for k, v in now.items() if k not in later},
        }
        is_inside = number < min(len(then.get("cuts", ())), len(now["cuts"]))
        return (
            same
            and is_inside
            and snapshot["recovered"]
            and then["cuts"][:number] == now["cuts"][:number]
            and then["cuts"][number][0] == now["cuts"][number][0]
        )

    @contextlib.contextmanager
    def _looking(self):
        """Reads training data between stretches of training."""
        data = self.passes[0].dataset
        with looks.reading(data), looks.looking(data), _keras.keeping_random_states(self.teacher):
            yield

    def _identify(self, criterion, recovery):
        names = ("training data", "validation data")
        fields = {f.name: getattr(recovery, f.name) for f in dataclasses.fields(recovery)}
        del fields["callbacks"]  # they may watch what they like
        del fields["loss"], fields["metrics"]
        outputs = getattr(self.teacher, "output_names", None) or ()
        fields["task"] = described(recovery.asked_of(self.teacher), outputs)
        settings = {
            "cuts": [[cut.epoch, cut.amount] for cut in self.cuts],
            "selection": identity.describe(self.selection),
            "criterion": identity.describe(criterion),
            "seed": _keras.explicit_seed(),
            **{name: identity.describe(value) for name, value in fields.items()},
        }
        data = {n: p.identity for n, p in zip(names, self.passes, strict=False)}
        return {"model": identity.of_model(self.teacher), **data, "settings": settings}

    def _check_transfers(self):
        """Fail before training if one cannot work on such a model; what is made is thrown away."""
        random = _keras.random_state()
        for transfer in self.transfers:
            transfer.bind(self.teacher, self.teacher)
        _keras.set_random_state(random)

    def _with_answers(self, model, recovery, datasets, batch):
        """Recovery and data sets, where what the teacher answers stands in for missing labels."""
        check_inputs(self.teacher, inputs_of(batch))
        truth = None
        if len(datasets) > 1 and has_labels(datasets[1]):
            _, truth, *_ = adapt.first_batch(datasets[1], "validation_data")
        told = _keras.compile_arguments(model)
        with found_in("validation data"):
            answers = Answers(self.teacher, told.get("loss"), told.get("metrics"), truth)
        metric = "agreement" if truth is None else "accuracy"
        recovery = recovery.without_labels(answers.task(metric))
        _log.info("No labels: the teacher's answers stand in for them.")
        specs = [inputs_of(d.element_spec) for d in datasets if not has_labels(d)]
        if others := [key for spec in specs for key in unread(self.teacher, spec)]:
            _log.warning(
                "No input of the model reads %s. Labels stand beside the inputs: "
                "data.map(lambda x: (x, x[%r])).",
                ", ".join(map(repr, dict.fromkeys(others))),
                others[0],
            )
        return recovery, [d if has_labels(d) else answers.added_to(d) for d in datasets]

    def _check_last_cut(self):
        """Fail before training if it cannot be made (whatever the scores) or no transfer fit it."""
        if isinstance(self.selection, selections.Selection):
            self.selection.check(self.graph)
        masks = self.masks_of(self.cuts[-1].amount)
        if masks is not None and self.recovery.transfers:
            student = self.graph.prune(masks)
            for transfer in self.recovery.transfers:
                transfer.check(self.graph.plain_model, student)


def _check_trainable(model, epochs):
    """Whether a model has anything to train, if it is to be trained."""
    if epochs and not model.trainable_variables:
        raise ValueError(
            f"Received the model {model.name!r}, none of whose weights is trainable, and "
            f"epochs={epochs}. Expected some that are, to train them after a cut: set "
            "`model.trainable = True`, or cut without training by Recovery(epochs=0)."
        )


def check_data(task, model, what, data, batch):
    """Whether data fit a task that was read: a batch of them, and all labels that are at hand.

    Args:
        task: the `Task`.
        model: the model that it was read from, or its Functional copy.
        what: what the data are called in messages.
        data: as the user gave them.
        batch: their first batch.

    Raises:
        ValueError: if they do not fit.
    """
    with found_in(what):
        task.check(model, batch)
        inputs, labels = adapt.at_hand(data)
        check_all_inputs(inputs)
        if labels is not None:
            task.check_all(labels)


def _datasets(train_data, validation_data, recovery):
    """Training and validation data, if there are any, as datasets of batches."""
    train = adapt.as_dataset(train_data, recovery.steps_per_epoch)
    yield adapt.weighted(train, recovery.class_weight)
    if validation_data is not None:
        steps, role = recovery.validation_steps, "validation_data"
        yield adapt.as_dataset(validation_data, steps, shuffle=False, restart=True, role=role)
