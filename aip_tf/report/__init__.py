"""What a pruning run did, what it cost and what it gained: plain data, tables, JSON, HTML."""

from aip_tf.report.artefacts import Artefact
from aip_tf.report.comparison import RunComparison, compare_runs
from aip_tf.report.records import GroupRecord, LayerRecord, ModelRecord, RoundRecord
from aip_tf.report.report import PruningReport
from aip_tf.report.tables import describe_round
from aip_tf.report.trade_off import TradeOff

__all__ = [
    "Artefact",
    "GroupRecord",
    "LayerRecord",
    "ModelRecord",
    "PruningReport",
    "RoundRecord",
    "RunComparison",
    "TradeOff",
    "compare_runs",
    "describe_round",
]
