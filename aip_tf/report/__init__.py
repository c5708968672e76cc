"""What a pruning run did, what it cost and what it gained: plain data, tables, JSON, HTML."""

from aip_tf.report.records import GroupRecord, ModelRecord, PruningReport, RoundRecord
from aip_tf.report.tables import describe_round

__all__ = ["GroupRecord", "ModelRecord", "PruningReport", "RoundRecord", "describe_round"]
