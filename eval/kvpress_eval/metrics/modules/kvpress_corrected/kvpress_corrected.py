"""The corrected scorer of kvpress_eval as a metric of ``evaluate``; see ``kvpress_eval.metrics.module_path``."""

import kvpress_eval.metrics.evaluation as evaluation


class KVPressCorrected(evaluation.ScoreMetric):
    scorer = "corrected"
