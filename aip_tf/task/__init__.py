"""What a model is asked to do: read once, checked before anything trains, used by everyone."""

from aip_tf.task.task import Output, Task

__all__ = ["Output", "Task"]
