"""The models behind predictions, without I/O: arrays in, plain values out.

`values` and `errors` are light and for everybody. `engine` and what is below it need numpy, TA-Lib, scikit-learn and
JAX, and belong into the worker process only.
"""
