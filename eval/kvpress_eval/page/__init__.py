"""The parts behind `kvpress_eval.report`: reading rows, analysing them, rendering the outputs."""
