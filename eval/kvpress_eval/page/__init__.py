"""The parts behind `kvpress_eval.report`: reading rows, analysing them, and rendering the three outputs."""
